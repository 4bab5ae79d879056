"""A loader's credentials, read once from the settings and the files that they name, before it connects."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from yr_fastload_native import _core
from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.settings import Config, is_loopback, parse_address
from yr_fastload_native.settings.secret import Secret
from yr_fastload_native.worker.client_logs import give_directory

__all__ = ["Credentials"]

# Z85 of 32 bytes, https://rfc.zeromq.org/spec/32
_CURVE_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@attrs.frozen
class Credentials:
    """Keys, token and tenant of a client; empty if the worker requires none."""

    client_public_key: str
    client_private_key: Secret
    server_public_key: str
    access_key: Secret
    secret_key: Secret
    token: Secret
    tenant_id: str = attrs.field(repr=False)

    @classmethod
    def of(cls, config: Config) -> Credentials:
        """Read the credentials.

        Raises:
            InvalidArgumentError: A file cannot be used, or half of a pair is missing.
        """
        public = server = ""
        private = Secret()
        if config.curve_key_dir:
            keys = Path(config.curve_key_dir)
            public, server = (_public_key(keys / name) for name in ("client.key", "worker.key"))
            private = Secret.from_file(keys / "client.key_secret", "curve_key_dir")
            _check_key(private.reveal(), keys / "client.key_secret")
        access_key, secret_key, token = (_given_or_read(config, each) for each in ("access_key", "secret_key", "token"))
        if bool(access_key) != bool(secret_key):
            given, missing = ("access_key", "secret_key") if access_key else ("secret_key", "access_key")
            raise InvalidArgumentError(f"{given} is given without {missing}; both are needed", op="config")
        tenant = config.tenant_id or Config.tenant_from_env()
        return cls(public, private, server, access_key, secret_key, token, tenant)

    def connection(self, address: str, config: Config) -> _core.Connection:
        """The options for connecting to a worker with these credentials.

        Raises:
            InvalidArgumentError: The address is invalid.
        """
        host, port = parse_address(address, op="connect")
        give_directory()
        return _core.Connection(
            host,
            port,
            connect_timeout_s=config.connect_timeout_s,
            rpc_timeout_s=config.rpc_timeout_s,
            client_public_key=self.client_public_key,
            client_private_key=self.client_private_key.reveal(),
            server_public_key=self.server_public_key,
            access_key=self.access_key.reveal(),
            secret_key=self.secret_key.reveal(),
            tenant_id=self.tenant_id,
            token=self.token.reveal(),
            is_alone=is_loopback(host),
        )


def _given_or_read(config: Config, name: str) -> Secret:
    """The secret in a setting, or in the file that its ``_file`` setting names."""
    given: Secret = getattr(config, name)
    path: str = getattr(config, f"{name}_file")
    if given and path:
        raise InvalidArgumentError(f"both {name} and {name}_file are given; use only one", op="config")
    return Secret.from_file(path, f"{name}_file") if path else given


def _public_key(path: Path) -> str:
    try:
        text = path.read_text("ascii").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"curve_key_dir: {str(path)!r} cannot be read: {error}; `yr-fastload worker keys` creates such a directory",
            op="config",
        ) from None
    _check_key(text, path)
    return text


def _check_key(text: str, path: Path) -> None:
    if _CURVE_KEY.fullmatch(text) is None:
        raise InvalidArgumentError(
            f"curve_key_dir: {str(path)!r} holds no curve key (40 characters of Z85)", op="config"
        )
