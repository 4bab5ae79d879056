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
_SIMULATED = ENVIRONMENT_PREFIX + "SIM"  # the simulated devices read theirs themselves
_WORKER_VARIABLE = "DS_WORKER_ADDR"
_TENANT_VARIABLE = "DATASYSTEM_TENANT_ID"
_LOGS_VARIABLE = "DATASYSTEM_CLIENT_LOG_DIR"
_MIB = 1 << 20
_MAX_TEXT = 255
_TENANT = re.compile(r"[a-zA-Z0-9\-_!@#%^*()+=:;]{1,128}")  # what openYuanrong takes in a key
_PIN = re.compile(r"[0-9a-f]{64}")
TRANSPORTS = ("d2d", "staged", "host")  # from the fastest to the one that works everywhere

# What Kubernetes puts into every container for a Service called yr-fastload or yr-fastload-...
# Source: its documentation, Services, "Environment variables", and Docker's links, which these imitate.
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
        InvalidArgumentError: It is not of that form, or the port is outside 1..65535.
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
        raise _refuse(attribute, value, f"a text of 1 to {_MAX_TEXT} printable characters")


def _path(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(attribute, value, "a path")


def _tenant(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or (value and _TENANT.fullmatch(value) is None):
        raise InvalidArgumentError(
            f"{attribute.name} is not allowed; use a text of at most 128 letters, digits and -_!@#%^*()+=:;",
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
    """Settings of a :class:`FastLoader`; immutable and checked when made.

    ``docs/settings.md`` lists each with meaning, unit, default and environment variable.

    Raises:
        InvalidArgumentError: A value is outside what is allowed; the message says what is.
    """

    worker: str = _setting(
        "auto",
        _worker,
        "Address of the openYuanrong worker, HOST:PORT. `auto` takes DS_WORKER_ADDR, and without it a local worker "
        "that is started once a machine and user.",
    )
    transport: str = _setting(
        "auto",
        _one_of("auto", *TRANSPORTS),
        "How bytes move. `d2d`: from the memory of one NPU into another's. `staged`: through the worker's memory, "
        "between NPUs. `host`: through the worker's memory, between processes of one machine. `auto`: the first of "
        "these that the publication offers and this machine has, then the next where one fails.",
    )
    publish_as: str = _setting(
        "auto",
        _publish_as,
        "Transports that a publication offers, joined by `+`: `d2d+staged` keeps a copy in the worker that outlives "
        "the publisher. `auto` takes that of `transport`, and where this is `auto` too `d2d` on an NPU and `host` "
        "elsewhere.",
    )
    device_index: int = _setting(
        -1,
        _number(int, -1, 1023),
        "NPU of this process; -1 takes that of the tensors, and where devices are simulated that of the calling thread "
        "(`aclrtSetDevice`), or the first one if it has none.",
    )
    verify: str = _setting(
        "digest",
        _one_of("digest", "layout"),
        "`digest` compares every byte with the publisher's digest; `layout` trusts the bytes.",
    )
    staging: str = _setting(
        "auto",
        _one_of("auto", "always"),
        "`always` verifies a chunk in page-locked staging memory before its first byte is written to a tensor, at the "
        "price of a second copy; `auto` stages only where the device needs it.",
    )
    deadline_s: float = _setting(30.0, _number(float, 0.01, 86400), "Bound of one load.", "s")
    publish_deadline_s: float = _setting(300.0, _number(float, 0.01, 86400), "Bound of one publish.", "s")
    connect_timeout_s: float = _setting(5.0, _number(float, 0.5, 600), "Bound of connecting to the worker.", "s")
    rpc_timeout_s: float = _setting(
        5.0,
        _number(float, 0.1, 600),
        "Bound of one call to the worker; also how long it may look for free memory.",
        "s",
    )
    lease_s: int = _setting(
        10, _number(int, 2, 3600), "Life of a publication that no source renews; sources renew thrice in it.", "s"
    )
    data_grace_s: int = _setting(
        60,
        _number(int, 1, 3600),
        "How much longer than `lease_s` manifest and chunks live that no source renews: so long may a reader that saw "
        "them published just before their sources went go on to read.",
        "s",
    )
    hold: bool = _setting(
        True, _boolean, "Whether a loader that has pulled an identity keeps it published, as one more source."
    )
    zero_copy: bool = _setting(
        False,
        _boolean,
        "Whether torch's tensors in CPU memory may use the worker's memory itself, not a copy (`host`): shared by all "
        "processes until one writes. The worker has to be the same user's, in the same container. A publisher's "
        "chunks are as large as its largest tensor then, since a tensor that is cut has to be copied.",
    )
    chunk_bytes: int = _setting(
        0,
        _chunk_bytes,
        "Largest chunk (one openYuanrong key). 0 takes what suits the transports that a publication offers: 128 MiB "
        "for `d2d`, 32 MiB for `host`, and never more than 8 MiB for `staged`.",
        "bytes",
    )
    max_blobs: int = _setting(4096, _number(int, 1, 65536), "Most blobs in a chunk.")
    copy_threads: int = _setting(
        0, _number(int, 0, 256), "Threads that copy and verify; 0 takes the usable cores, at most 8."
    )
    chunks_ahead: int = _setting(
        8, _number(int, 1, 64), "Chunks that are asked for ahead of their arrival, `d2d` and `staged`."
    )
    source_stall_s: float = _setting(
        5.0,
        _number(float, 0.05, 3600),
        "A source that sends nothing for so long is left for the next one (`d2d`); half of the time that is left if "
        "that is less.",
        "s",
    )
    chunks_in_flight: int = _setting(64, _number(int, 1, 1024), "Most chunks held between fetching and copying.")
    staging_bytes: int = _setting(
        256 * _MIB,
        _number(int, 0, 1 << 40),
        "Most page-locked staging memory, and as much device memory for chunks that land.",
        "bytes",
    )
    max_tensors: int = _setting(1_000_000, _number(int, 1, 1 << 32), "Most tensors in one publication.")
    max_manifest_bytes: int = _setting(
        256 * _MIB, _number(int, 1024, 1 << 31), "Largest manifest that is written or parsed.", "bytes"
    )
    publish_sha256: bool = _setting(
        False,
        _boolean,
        "Whether a publication also tells the SHA-256 of every tensor, which readers with `trusted_digests` need; a "
        "second or so a GiB and core.",
    )
    trusted_digests: str = _setting(
        "",
        _pins,
        "Content digests (`Publication.digest`) joined by `,`: nothing else is loaded, and every byte is compared by "
        "SHA-256. Empty trusts whoever the worker lets publish.",
    )
    curve_key_dir: str = _setting(
        "",
        _path,
        "Directory of curve keys for a worker that has `enable_curve_zmq`: `client.key`, `client.key_secret` and "
        "`worker.key`; `yr-fastload worker keys` makes one. A worker started by `auto` asks for these keys. Empty for "
        "none.",
    )
    access_key: Secret = _secret("Access key (AK) for a worker that asks for one; never shown.")
    access_key_file: str = _setting("", _path, "File that holds `access_key`, mode 0600.")
    secret_key: Secret = _secret("Secret key (SK) of `access_key`; never shown.")
    secret_key_file: str = _setting("", _path, "File that holds `secret_key`, mode 0600.")
    token: Secret = _secret("Token for a worker that asks its IAM server about tokens; never shown.")
    token_file: str = _setting("", _path, "File that holds `token`, mode 0600.")
    tenant_id: str = _setting(
        "",
        _tenant,
        "Tenant whose publications are seen; a worker with `authorization_enable` holds a client to its own, any other "
        "worker takes its word.",
        shown=False,
    )
    worker_memory_mb: int = _setting(
        0,
        _number(int, 0, 1 << 30),
        "Shared memory of a worker started by `auto`; 0 takes half of the memory available then.",
        "MiB",
    )
    worker_home: str = _setting(
        "",
        _path,
        "Directory of a worker started by `auto`, and which one is meant; empty for the one of this machine and user.",
    )
    worker_start_timeout_s: float = _setting(60.0, _number(float, 1, 3600), "Bound of starting a local worker.", "s")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Config:
        """Make a config from ``YR_FASTLOAD_<SETTING>`` variables; ``settings`` given here win.

        Raises:
            InvalidArgumentError: A variable's text is not of its setting's type. Unknown names are only warned of.
        """
        return cls(**_read(cls, environ, settings))

    @staticmethod
    def worker_from_env(environ: Mapping[str, str] | None = None) -> str | None:
        """The worker that ``DS_WORKER_ADDR`` names, None without it."""
        environ = os.environ if environ is None else environ
        return environ.get(_WORKER_VARIABLE) or None

    @staticmethod
    def worker_home_from_env(environ: Mapping[str, str] | None = None) -> str | None:
        """The directory of the local worker that ``YR_FASTLOAD_WORKER_HOME`` names, None without it."""
        environ = os.environ if environ is None else environ
        return environ.get(ENVIRONMENT_PREFIX + "WORKER_HOME") or None

    @staticmethod
    def tenant_from_env(environ: Mapping[str, str] | None = None) -> str:
        """The tenant that openYuanrong's client takes where it is given none: ``DATASYSTEM_TENANT_ID``."""
        environ = os.environ if environ is None else environ
        return environ.get(_TENANT_VARIABLE, "")

    @staticmethod
    def client_log_directory(environ: Mapping[str, str] | None = None) -> Path | None:
        """Where openYuanrong's client logs to by itself, None where its variable names a directory."""
        environ = os.environ if environ is None else environ
        return None if environ.get(_LOGS_VARIABLE) else Path(environ.get("HOME") or "/", ".datasystem", "logs")

    @staticmethod
    def name_client_log_directory(directory: Path) -> None:
        """Set what openYuanrong's client reads when it is first used, for this process and its children."""
        os.environ[_LOGS_VARIABLE] = str(directory)

    @staticmethod
    def runtime_directory(environ: Mapping[str, str] | None = None) -> Path | None:
        """The user's directory for sockets and locks, None where the system has none.

        ``XDG_RUNTIME_DIR`` belongs to the system and is no setting of this package.
        """
        environ = os.environ if environ is None else environ
        path = environ.get("XDG_RUNTIME_DIR")
        return Path(path) if path and Path(path).is_dir() else None

    @staticmethod
    def cache_directory(environ: Mapping[str, str] | None = None) -> Path | None:
        """The user's directory for what can be made again, None where the user has no home.

        ``XDG_CACHE_HOME`` and ``HOME`` belong to the system and are no settings of this package.
        """
        environ = os.environ if environ is None else environ
        named, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
        if os.path.isabs(named):
            return Path(named)
        return Path(home) / ".cache" if os.path.isabs(home) and home != "/" else None


@attrs.frozen(kw_only=True)
class ExchangeConfig:
    """Settings of the exchange of weights around vLLM's own loading; immutable and checked when made.

    ``docs/settings.md`` lists each with meaning, default and environment variable.

    Raises:
        InvalidArgumentError: A value is outside what is allowed; the message says what is.
    """

    cold_load_format: str = _setting(
        "auto", _text, "vLLM's load format for what cannot be pulled; only of the load format `yr_fastload`."
    )
    cold_load_extra_config: Mapping[str, Any] = _setting(
        attrs.Factory(dict), _json_object, "`model_loader_extra_config` of the cold load format, a JSON object."
    )
    stage: str = _setting(
        "raw",
        _one_of("raw", "final"),
        "`raw` exchanges weights as the checkpoint has them, before vLLM processes them for its kernels; `final` after "
        "that, which saves the processing, and is refused where not everything that it makes is a tensor.",
    )
    fingerprint: str = _setting(
        "files",
        _text,
        "What tells checkpoints apart. `files`: names, sizes, headers and a sample of every tensor of the files that "
        "are read, and their SHA-256 sums where both sides know them. `files:full`: their sums, for which a file is "
        "read whole once a machine and user. Any other text is taken as it is, for example a revision: whoever gives "
        "the same text for different weights mixes them; an instance that gives one needs no weights on its disk.",
    )
    verify_files: str = _setting(
        "background",
        _one_of("background", "off"),
        "Whether files of which only a sample was read before weights were exchanged (`files`) are read whole "
        "afterwards, once a machine, user and state of the file, and compared with the publisher's: at the lowest "
        "priority of CPU and disk, and without a trace in the page cache.",
    )
    on_wrong: str = _setting(
        "log",
        _one_of("log", "exit"),
        "What follows if files turn out to be others than those of the weights that were pulled: `log` says so at "
        "CRITICAL, and this process is no source of them any more; `exit` also ends the process, with status 65.",
    )
    fallback: str = _setting(
        "cold",
        _one_of("cold", "error"),
        "What follows if weights cannot be pulled: `cold` loads them as vLLM would have, `error` ends the start.",
    )
    publish: str = _setting(
        "background",
        _one_of("background", "inline", "off"),
        "When an instance that loaded from disk publishes: while it starts up further, before that, or never. Without "
        "an NPU always before that: vLLM makes other weights of those that were loaded, and both would be in memory.",
    )
    wait_for_publisher_s: float = _setting(
        120.0,
        _number(float, 0, 86400),
        "Of instances that start together one reads the disk, and the others wait for what it publishes, at most so "
        "long; with 0 every one reads the disk. If the one that reads dies, another takes its turn within `lease_s`.",
        "s",
    )
    report: str = _setting(
        "",
        _path,
        "File to which every rank appends lines of JSON about what it loaded and published; empty for none.",
    )
    patch: bool = _setting(
        False,
        _boolean,
        "Whether vLLM's own loaders exchange weights too, without a change of load format. Environment only.",
    )

    @staticmethod
    def patch_from_env(environ: Mapping[str, str] | None = None) -> bool:
        """The setting ``patch`` alone: whether anybody asks for an exchange before a loader is made.

        Raises:
            InvalidArgumentError: Its text is not that of a boolean.
        """
        environ = os.environ if environ is None else environ
        name = ENVIRONMENT_PREFIX + "PATCH"
        return bool(_parse(name, environ.get(name, "0"), bool))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> ExchangeConfig:
        """Make one from ``YR_FASTLOAD_<SETTING>`` variables; ``settings`` given here win.

        Raises:
            InvalidArgumentError: A variable's text is not of its setting's type. Unknown names are only warned of.
        """
        return cls(**_read(cls, environ, settings))


# Settings whose values are shown nowhere.
SECRETS = frozenset(field.name for field in attrs.fields(Config) if isinstance(field.default, Secret))


def _read(cls: type, environ: Mapping[str, str] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a class of settings: those given, then those of the environment."""
    environ = os.environ if environ is None else environ
    _warn_of_unknown(environ)
    values = dict(settings)
    for attribute in attrs.fields(cls):
        name = ENVIRONMENT_PREFIX + attribute.name.upper()
        if name in environ and attribute.name not in settings:
            values[attribute.name] = _parse(name, environ[name], _kind(attribute))
    return values


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Tell once a process of each variable that is likely to be a setting misspelt."""
    known = {
        ENVIRONMENT_PREFIX + field.name.upper() for each in (Config, ExchangeConfig) for field in attrs.fields(each)
    }
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in known or name in _told or _is_of_others(name, text):
            continue
        _told.add(name)
        hint = _near(name, known).strip() or "docs/settings.md has all"
        _log.warning("%s names no setting and is ignored; %s", name, hint)


def _is_of_others(name: str, text: str) -> bool:
    of_simulator = name == _SIMULATED or name.startswith(_SIMULATED + "_")
    is_url = name.endswith("_PORT") and _SERVICE_URL.match(text) is not None
    return of_simulator or is_url or _SERVICE.fullmatch(name) is not None


def allowed(name: str, known: Iterable[str]) -> str:
    """What may be meant by a name that is not known, for messages."""
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
                f"{name} has to hold one line of printable ASCII without blanks", op="config"
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
