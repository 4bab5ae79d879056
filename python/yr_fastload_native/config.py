"""Every bound and default in one place, and the only code that reads the environment."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.secret import Secret

__all__ = ["ENVIRONMENT_PREFIX", "SECRETS", "TRANSPORTS", "Config", "ExchangeConfig", "allowed", "parse_address"]

ENVIRONMENT_PREFIX = "YR_FASTLOAD_"
_SIMULATED = ENVIRONMENT_PREFIX + "SIM"  # simulated devices read these themselves
_WORKER_VARIABLE = "DS_WORKER_ADDR"
_TENANT_VARIABLE = "DATASYSTEM_TENANT_ID"
_LOGS_VARIABLE = "DATASYSTEM_CLIENT_LOG_DIR"
_MIB = 1 << 20
_MAX_TEXT = 255
_TENANT = re.compile(r"[a-zA-Z0-9\-_!@#%^*()+=:;]{1,128}")  # what openYuanrong takes in a key
_PIN = re.compile(r"[0-9a-f]{64}")
TRANSPORTS = ("d2d", "staged", "host")  # from the fastest to the one that works everywhere

# Variables that Kubernetes sets in every container for a Service called yr-fastload or yr-fastload-...
# Source: its documentation, Services, "Environment variables", and Docker's links, which they imitate.
_SERVICE = re.compile(
    r"YR_FASTLOAD_(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://")  # of YR_FASTLOAD_..._PORT

_log = logging.getLogger(__name__)
_told: set[str] = set()

_Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def parse_address(address: str, *, op: str) -> tuple[str, int]:
    """Split ``HOST:PORT``.

    Raises:
        InvalidArgumentError: It does not have that form, or the port is outside 1..65535.
    """
    host, colon, port = address.rpartition(":")
    if colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return host, int(port)
    raise InvalidArgumentError(f"worker address {address!r} is not HOST:PORT, for example 127.0.0.1:31501", op=op)


def _refuse(attribute: attrs.Attribute[Any], value: object, allowed: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{attribute.name}={value!r} is not allowed; use {allowed}", op="config")


def _number(kind: type, low: float, high: float) -> _Check:
    accepted = (int,) if kind is int else (int, float)

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, accepted) or not low <= value <= high:
            raise _refuse(attribute, value, f"a {kind.__name__} from {low} to {high}")

    return check


def _one_of(*allowed: str) -> _Check:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            raise _refuse(attribute, value, " or ".join(allowed))

    return check


def _worker(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise _refuse(attribute, value, "'auto' or 'HOST:PORT'")
    if value != "auto":
        parse_address(value, op="config")


def _chunk_bytes(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _number(int, 0, 1 << 30)(instance, attribute, value)
    if value % 64:
        raise _refuse(attribute, value, "a multiple of 64 (the alignment of a blob in a chunk)")


def _publish_as(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    names = value.split("+") if isinstance(value, str) else []
    if value != "auto" and (not names or set(names) - set(TRANSPORTS) or len(set(names)) != len(names)):
        raise _refuse(attribute, value, f"'auto', or some of {', '.join(TRANSPORTS)} joined by '+'")


def _boolean(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse(attribute, value, "True or False")


def _setting(default: Any, check: _Check, meaning: str, unit: str = "", *, shown: bool = True) -> Any:
    return attrs.field(default=default, validator=check, metadata={"meaning": meaning, "unit": unit}, repr=shown)


def _secret(meaning: str) -> Any:
    return attrs.field(default=Secret(), converter=Secret.of, metadata={"meaning": meaning, "unit": ""}, repr=False)


def _text(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT or not value.isprintable():
        raise _refuse(attribute, value, f"text of 1 to {_MAX_TEXT} printable characters")


def _path(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(attribute, value, "a path")


def _tenant(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or (value and _TENANT.fullmatch(value) is None):
        raise InvalidArgumentError(
            f"{attribute.name} is not allowed; use text of at most 128 letters, digits and -_!@#%^*()+=:;",
            op="config",
        )


def _pins(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    pins = value.split(",") if isinstance(value, str) else [""]
    if value != "" and not all(_PIN.fullmatch(pin) for pin in pins):
        raise _refuse(attribute, value, "SHA-256 sums of 64 lower-case hex digits, joined by ','")


def _json_object(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refuse(attribute, value, "a JSON object")


@attrs.frozen(kw_only=True)
class Config:
    """Settings of a :class:`FastLoader`; immutable, and checked when created.

    ``docs/settings.md`` lists each with its meaning, unit, default and environment variable.

    Raises:
        InvalidArgumentError: A value is not allowed; the message says which ones are.
    """

    worker: str = _setting(
        "auto",
        _worker,
        "Address of the openYuanrong worker, HOST:PORT. `auto` uses DS_WORKER_ADDR or, if that is unset, a local "
        "worker, started once per machine and user.",
    )
    transport: str = _setting(
        "auto",
        _one_of("auto", *TRANSPORTS),
        "How bytes move. `d2d`: from one NPU's memory to another's. `staged`: between NPUs, through the worker's "
        "memory. `host`: between processes on one machine, through the worker's memory. `auto`: the first of these "
        "that the publication offers and this machine supports; if it fails, the next one.",
    )
    publish_as: str = _setting(
        "auto",
        _publish_as,
        "Transports that a publication offers, joined by `+`: `d2d+staged` also keeps a copy in the worker that "
        "outlives the publisher. `auto` uses the value of `transport`; if that is `auto` too, `d2d` on an NPU and "
        "`host` elsewhere.",
    )
    device_index: int = _setting(
        -1,
        _number(int, -1, 1023),
        "This process's NPU. -1 uses the device of the tensors or, with simulated devices, that of the calling "
        "thread (`aclrtSetDevice`), or the first one if it has none.",
    )
    verify: str = _setting(
        "digest",
        _one_of("digest", "layout"),
        "`digest` compares every byte with the publisher's digest; `layout` trusts the bytes.",
    )
    staging: str = _setting(
        "auto",
        _one_of("auto", "always"),
        "`always` verifies a chunk in page-locked staging memory before its first byte is written to a tensor, at "
        "the price of a second copy. `auto` stages only if the device requires it.",
    )
    deadline_s: float = _setting(30.0, _number(float, 0.01, 86400), "Time limit of one load.", "s")
    publish_deadline_s: float = _setting(300.0, _number(float, 0.01, 86400), "Time limit of one publish.", "s")
    connect_timeout_s: float = _setting(5.0, _number(float, 0.5, 600), "Time limit for connecting to the worker.", "s")
    rpc_timeout_s: float = _setting(
        5.0,
        _number(float, 0.1, 600),
        "Time limit of one call to the worker, which includes its search for free memory.",
        "s",
    )
    lease_s: int = _setting(
        10,
        _number(int, 2, 3600),
        "Lifetime of a publication that no source renews. Sources renew three times per lease.",
        "s",
    )
    data_grace_s: int = _setting(
        60,
        _number(int, 1, 3600),
        "How much longer than `lease_s` manifest and chunks live that no source renews: so long may a reader that saw "
        "them published just before their sources went go on to read.",
        "s",
    )
    hold: bool = _setting(
        True, _boolean, "Whether a loader that has pulled an identity keeps it published, as another source."
    )
    zero_copy: bool = _setting(
        False,
        _boolean,
        "Whether torch tensors in CPU memory may use the worker's memory directly instead of a copy (`host`). It is "
        "shared by all processes until one of them writes. The worker must run as the same user in the same "
        "container. A publisher's chunks become as large as its largest tensor, because a tensor that is cut must "
        "be copied.",
    )
    chunk_bytes: int = _setting(
        0,
        _chunk_bytes,
        "Largest chunk (one openYuanrong key). 0 chooses by the transports that a publication offers: 128 MiB for "
        "`d2d`, 32 MiB for `host`, and never more than 8 MiB for `staged`.",
        "bytes",
    )
    max_blobs: int = _setting(4096, _number(int, 1, 65536), "Largest number of blobs in a chunk.")
    copy_threads: int = _setting(
        0, _number(int, 0, 256), "Threads that copy and verify. 0 uses the available cores, at most 8."
    )
    chunks_ahead: int = _setting(8, _number(int, 1, 64), "Number of chunks requested ahead, with `d2d` and `staged`.")
    source_stall_s: float = _setting(
        5.0,
        _number(float, 0.05, 3600),
        "How long a source may send nothing before the reader moves on to the next one (`d2d`). At most half of the "
        "time that is left for the load.",
        "s",
    )
    chunks_in_flight: int = _setting(
        64, _number(int, 1, 1024), "Largest number of chunks between fetching and copying."
    )
    staging_bytes: int = _setting(
        256 * _MIB,
        _number(int, 0, 1 << 40),
        "Most page-locked staging memory, and as much device memory for arriving chunks.",
        "bytes",
    )
    max_tensors: int = _setting(1_000_000, _number(int, 1, 1 << 32), "Largest number of tensors in one publication.")
    max_manifest_bytes: int = _setting(
        256 * _MIB, _number(int, 1024, 1 << 31), "Largest manifest that is written or parsed.", "bytes"
    )
    publish_sha256: bool = _setting(
        False,
        _boolean,
        "Whether a publication includes the SHA-256 of every tensor, which readers with `trusted_digests` need. "
        "Costs about a second per GiB and core.",
    )
    trusted_digests: str = _setting(
        "",
        _pins,
        "Content digests (`Publication.digest`), joined by `,`. Nothing else is loaded, and every byte is compared "
        "by SHA-256. Empty trusts whoever the worker lets publish.",
    )
    curve_key_dir: str = _setting(
        "",
        _path,
        "Directory of curve keys, for a worker with `enable_curve_zmq`: `client.key`, `client.key_secret` and "
        "`worker.key`. `yr-fastload worker keys` creates one. A worker started by `auto` requires these keys. "
        "Empty: no keys.",
    )
    access_key: Secret = _secret("Access key (AK), for a worker that requires one; never shown.")
    access_key_file: str = _setting("", _path, "File with the `access_key`, mode 0600.")
    secret_key: Secret = _secret("Secret key (SK) of `access_key`; never shown.")
    secret_key_file: str = _setting("", _path, "File with the `secret_key`, mode 0600.")
    token: Secret = _secret("Token, for a worker that checks tokens with its IAM server; never shown.")
    token_file: str = _setting("", _path, "File with the `token`, mode 0600.")
    tenant_id: str = _setting(
        "",
        _tenant,
        "Tenant whose publications are visible. A worker with `authorization_enable` restricts a client to its own "
        "tenant; any other worker believes the name.",
        shown=False,
    )
    worker_memory_mb: int = _setting(
        0,
        _number(int, 0, 1 << 30),
        "Shared memory of a worker started by `auto`. 0 uses half of the memory available at that time.",
        "MiB",
    )
    worker_home: str = _setting(
        "",
        _path,
        "Directory of a worker started by `auto`, which also identifies it. Empty: the one of this machine and user.",
    )
    worker_start_timeout_s: float = _setting(
        60.0, _number(float, 1, 3600), "Time limit for starting a local worker.", "s"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Config:
        """Create a config from ``YR_FASTLOAD_<SETTING>`` variables; ``settings`` take precedence.

        Raises:
            InvalidArgumentError: A variable does not have its setting's type. Unknown names only cause a warning.
        """
        return cls(**_read(cls, environ, settings))

    @staticmethod
    def worker_from_env(environ: Mapping[str, str] | None = None) -> str | None:
        """The worker that ``DS_WORKER_ADDR`` names, None if unset."""
        environ = os.environ if environ is None else environ
        return environ.get(_WORKER_VARIABLE) or None

    @staticmethod
    def worker_home_from_env(environ: Mapping[str, str] | None = None) -> str | None:
        """The local worker's directory from ``YR_FASTLOAD_WORKER_HOME``, None if unset."""
        environ = os.environ if environ is None else environ
        return environ.get(ENVIRONMENT_PREFIX + "WORKER_HOME") or None

    @staticmethod
    def tenant_from_env(environ: Mapping[str, str] | None = None) -> str:
        """The tenant that openYuanrong's client uses if it is given none: ``DATASYSTEM_TENANT_ID``."""
        environ = os.environ if environ is None else environ
        return environ.get(_TENANT_VARIABLE, "")

    @staticmethod
    def client_log_directory(environ: Mapping[str, str] | None = None) -> Path | None:
        """Where openYuanrong's client logs by default, None if its variable names a directory."""
        environ = os.environ if environ is None else environ
        return None if environ.get(_LOGS_VARIABLE) else Path(environ.get("HOME") or "/", ".datasystem", "logs")

    @staticmethod
    def name_client_log_directory(directory: Path) -> None:
        """Set the log directory of openYuanrong's client, for this process and its children, before its first use."""
        os.environ[_LOGS_VARIABLE] = str(directory)

    @staticmethod
    def runtime_directory(environ: Mapping[str, str] | None = None) -> Path | None:
        """The user's directory for sockets and locks, None if the system has none.

        ``XDG_RUNTIME_DIR`` belongs to the system and is not a setting of this package.
        """
        environ = os.environ if environ is None else environ
        path = environ.get("XDG_RUNTIME_DIR")
        return Path(path) if path and Path(path).is_dir() else None

    @staticmethod
    def cache_directory(environ: Mapping[str, str] | None = None) -> Path | None:
        """The user's directory for caches, None if the user has no home.

        ``XDG_CACHE_HOME`` and ``HOME`` belong to the system and are not settings of this package.
        """
        environ = os.environ if environ is None else environ
        named, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
        if os.path.isabs(named):
            return Path(named)
        return Path(home) / ".cache" if os.path.isabs(home) and home != "/" else None


@attrs.frozen(kw_only=True)
class ExchangeConfig:
    """Settings of the exchange of weights around vLLM's own loading; immutable, and checked when created.

    ``docs/settings.md`` lists each with its meaning, default and environment variable.

    Raises:
        InvalidArgumentError: A value is not allowed; the message says which ones are.
    """

    cold_load_format: str = _setting(
        "auto",
        _text,
        "vLLM's load format for weights that cannot be pulled. Only used by the load format `yr_fastload`.",
    )
    cold_load_extra_config: Mapping[str, Any] = _setting(
        attrs.Factory(dict), _json_object, "`model_loader_extra_config` of the cold load format, a JSON object."
    )
    stage: str = _setting(
        "raw",
        _one_of("raw", "final"),
        "`raw` exchanges weights as they are in the checkpoint, before vLLM processes them for its kernels. `final` "
        "exchanges them afterwards, which saves the processing; it is refused if processing creates anything that "
        "is not a tensor.",
    )
    fingerprint: str = _setting(
        "files",
        _text,
        "What tells checkpoints apart. `files`: names, sizes, headers and a sample of every tensor in the files "
        "that are read, and their SHA-256 sums if both sides know them. `files:full`: the sums, for which each file "
        "is read completely once per machine and user. Any other text is used as it is, for example a revision: "
        "using the same text for different weights mixes them up, and an instance that is given one needs no "
        "weights on its disk.",
    )
    verify_files: str = _setting(
        "background",
        _one_of("background", "off"),
        "Whether files that were only sampled before weights were exchanged (`files`) are read completely "
        "afterwards and compared with the publisher's. Each state of a file is read once per machine and user, at "
        "the lowest CPU and disk priority, without filling the page cache.",
    )
    on_wrong: str = _setting(
        "log",
        _one_of("log", "exit"),
        "What happens if files turn out to differ from those that the pulled weights came from. `log` logs it at "
        "CRITICAL, and this process stops being a source of them; `exit` also ends the process, with status 65.",
    )
    fallback: str = _setting(
        "cold",
        _one_of("cold", "error"),
        "What happens if weights cannot be pulled: `cold` loads them as vLLM would have, `error` ends the start.",
    )
    publish: str = _setting(
        "background",
        _one_of("background", "inline", "off"),
        "When an instance that loaded from disk publishes: `background`, while it continues to start up; `inline`, "
        "before that; or `off`. Without an NPU `background` acts as `inline`, because vLLM repacks the weights and "
        "both versions would be in memory.",
    )
    wait_for_publisher_s: float = _setting(
        120.0,
        _number(float, 0, 86400),
        "How long instances that start together wait for the one that reads the disk and publishes. 0: every "
        "instance reads the disk. If the reading one dies, another takes over within `lease_s`.",
        "s",
    )
    report: str = _setting(
        "",
        _path,
        "File to which every rank appends lines of JSON about what it loaded and published. Empty: none.",
    )
    patch: bool = _setting(
        False,
        _boolean,
        "Whether vLLM's own loaders exchange weights too, without another load format. Environment only.",
    )

    @staticmethod
    def patch_from_env(environ: Mapping[str, str] | None = None) -> bool:
        """The setting ``patch`` alone, which is needed before a loader is created.

        Raises:
            InvalidArgumentError: Its text is not a boolean.
        """
        environ = os.environ if environ is None else environ
        name = ENVIRONMENT_PREFIX + "PATCH"
        return bool(_parse(name, environ.get(name, "0"), bool))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> ExchangeConfig:
        """Create one from ``YR_FASTLOAD_<SETTING>`` variables; ``settings`` take precedence.

        Raises:
            InvalidArgumentError: A variable does not have its setting's type. Unknown names only cause a warning.
        """
        return cls(**_read(cls, environ, settings))


# Settings whose values are never shown.
SECRETS = frozenset(field.name for field in attrs.fields(Config) if isinstance(field.default, Secret))


def _read(cls: type, environ: Mapping[str, str] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a settings class: those given, then those from the environment."""
    environ = os.environ if environ is None else environ
    _warn_of_unknown(environ)
    values = dict(settings)
    for attribute in attrs.fields(cls):
        name = ENVIRONMENT_PREFIX + attribute.name.upper()
        if name in environ and attribute.name not in settings:
            values[attribute.name] = _parse(name, environ[name], _kind(attribute))
    return values


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Warn, once per process, of each variable that looks like a misspelt setting."""
    known = {
        ENVIRONMENT_PREFIX + field.name.upper() for each in (Config, ExchangeConfig) for field in attrs.fields(each)
    }
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in known or name in _told or _is_of_others(name, text):
            continue
        _told.add(name)
        hint = _near(name, known).strip() or "docs/settings.md lists all settings"
        _log.warning("%s names no setting and is ignored; %s", name, hint)


def _is_of_others(name: str, text: str) -> bool:
    of_simulator = name == _SIMULATED or name.startswith(_SIMULATED + "_")
    is_url = name.endswith("_PORT") and _SERVICE_URL.match(text) is not None
    return of_simulator or is_url or _SERVICE.fullmatch(name) is not None


def allowed(name: str, known: Iterable[str]) -> str:
    """What an unknown name may mean, for messages."""
    names = sorted(known)
    return f"{_near(name, names)}allowed: {', '.join(names)}"


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"did you mean {close[0]!r}? " if close else ""


def _kind(attribute: attrs.Attribute[Any]) -> type:
    return dict if attribute.default == attrs.Factory(dict) else type(attribute.default)


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is Secret:
        try:
            return Secret(text)
        except InvalidArgumentError:
            raise InvalidArgumentError(
                f"{name} must be one line of printable ASCII without blanks", op="config"
            ) from None
    if kind is bool:
        try:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        except KeyError:
            raise InvalidArgumentError(f"{name}={text!r} is not 0, 1, true or false", op="config") from None
    try:
        return json.loads(text) if kind is dict else kind(text)
    except ValueError:
        what = "JSON object" if kind is dict else kind.__name__
        raise InvalidArgumentError(f"{name}={text!r} is not a {what}", op="config") from None
