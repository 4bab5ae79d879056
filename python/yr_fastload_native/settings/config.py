"""Settings of a loader: every bound and default in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.settings.environment import ENVIRONMENT_PREFIX, read, settings
from yr_fastload_native.settings.fields import (
    MIB,
    TRANSPORTS,
    boolean,
    chunk_bytes,
    number,
    one_of,
    path,
    secret,
    setting,
    sha256_sums,
    switch,
    tenant,
    transports,
    worker_address,
)
from yr_fastload_native.settings.secret import Secret

__all__ = ["SECRETS", "Config"]

_WORKER_VARIABLE = "DS_WORKER_ADDR"
_TENANT_VARIABLE = "DATASYSTEM_TENANT_ID"
_LOGS_VARIABLE = "DATASYSTEM_CLIENT_LOG_DIR"


@settings
@attrs.frozen(kw_only=True)
class Config:
    """Settings of a :class:`FastLoader`; immutable, and checked when created.

    ``docs/settings.md`` lists each with its meaning, unit, default and environment variable.

    Raises:
        InvalidArgumentError: A value is not allowed; the message says which ones are.
    """

    worker: str = setting(
        "auto",
        worker_address,
        "Address of the openYuanrong worker, HOST:PORT. `auto` uses DS_WORKER_ADDR or, if that is unset, a local "
        "worker, started once per machine and user.",
    )
    transport: str = setting(
        "auto",
        one_of("auto", *TRANSPORTS),
        "How bytes move. `d2d`: from one NPU's or GPU's memory to another's. `staged`: between NPUs, through the "
        "worker's memory. `host`: through the worker's memory, between processes on one machine or, in a cluster, by "
        "way of the workers of both machines: the reader's own gets each chunk over the network once, for all its "
        "readers, from a machine that has it. `auto`: the first of these that the publication offers and this machine "
        "supports; if it fails, the next one.",
    )
    publish_as: str = setting(
        "auto",
        transports,
        "Transports that a publication offers, joined by `+`: `d2d+staged` also keeps a copy in the worker that "
        "outlives the publisher. `auto` uses the value of `transport`; if that is `auto` too, `d2d` on an NPU and "
        "`host` elsewhere. `d2d` on GPUs serves the tensors themselves, which must not change then.",
    )
    device_index: int = setting(
        -1,
        number(int, -1, 1023),
        "This process's NPU. -1 uses the device of the tensors or, with simulated devices, that of the calling "
        "thread (`aclrtSetDevice`), or the first one if it has none.",
    )
    verify: str = setting(
        "digest",
        one_of("digest", "layout"),
        "`digest` compares every byte with the publisher's digest; `layout` trusts the bytes.",
    )
    staging: str = setting(
        "auto",
        one_of("auto", "always"),
        "`always` verifies a chunk in page-locked staging memory before its first byte is written to a tensor, at "
        "the price of a second copy. `auto` stages only if the device requires it.",
    )
    deadline_s: float = setting(30.0, number(float, 0.01, 86400), "Time limit of one load.", "s")
    publish_deadline_s: float = setting(300.0, number(float, 0.01, 86400), "Time limit of one publish.", "s")
    connect_timeout_s: float = setting(5.0, number(float, 0.5, 600), "Time limit for connecting to the worker.", "s")
    rpc_timeout_s: float = setting(
        5.0,
        number(float, 0.1, 600),
        "Time limit of one call to the worker, which includes its search for free memory. A load makes calls that took "
        "longer again, with more time, while its deadline lasts.",
        "s",
    )
    lease_s: int = setting(
        10,
        number(int, 2, 3600),
        "Lifetime of a publication that no source renews. Sources renew three times per lease.",
        "s",
    )
    data_grace_s: int = setting(
        60,
        number(int, 1, 3600),
        "How much longer than `lease_s` manifest and chunks live that no source renews: so long may a reader that saw "
        "them published just before their sources went go on to read.",
        "s",
    )
    hold: bool = setting(
        True, boolean, "Whether a loader that has pulled an identity keeps it published, as another source."
    )
    zero_copy: bool | str = switch(
        "Whether torch tensors in CPU memory may use the worker's memory directly instead of a copy (`host`): `on`, "
        "`off`, or `auto`, which is `on` in vLLM if the model is in CPU memory and the worker is reached by loopback, "
        "and `off` otherwise. All processes share the memory until one of them writes. Where the worker does not run "
        "as the same user in the same container, tensors are copied. A publisher's chunks become as large as its "
        "largest tensor, because a tensor that is cut must be copied.",
    )
    chunk_bytes: int = setting(
        0,
        chunk_bytes,
        "Largest chunk (one openYuanrong key). 0 chooses by the transports that a publication offers: 128 MiB for "
        "`d2d`, 32 MiB for `host`, and never more than 8 MiB for `staged`.",
        "bytes",
    )
    max_blobs: int = setting(4096, number(int, 1, 65536), "Largest number of blobs in a chunk.")
    copy_threads: int = setting(
        0, number(int, 0, 256), "Threads that copy and verify. 0 uses the available cores, at most 8, or 16 with a GPU."
    )
    chunks_ahead: int = setting(8, number(int, 1, 64), "Number of chunks requested ahead, with `d2d` and `staged`.")
    source_stall_s: float = setting(
        5.0,
        number(float, 0.05, 3600),
        "How long a source may send nothing before the reader moves on to the next one (`d2d`). At most half of the "
        "time that is left for the load.",
        "s",
    )
    chunks_in_flight: int = setting(64, number(int, 1, 1024), "Largest number of chunks between fetching and copying.")
    staging_bytes: int = setting(
        256 * MIB,
        number(int, 0, 1 << 40),
        "Most page-locked staging memory, and as much device memory for arriving chunks.",
        "bytes",
    )
    pin: str = setting(
        "slots",
        one_of("slots", "pool"),
        "What is page-locked for a GPU (`host`). `slots`: staging memory that bytes pass through. `pool`: what a load "
        "has read is locked behind it where it lies, in the worker's shared memory, and later loads copy "
        "straight from there, at no cost of CPU: for processes that load again and again. Locking takes about 0.1 s a "
        "GB, in the background; what none of the last eight loads has read is unlocked. Where it is refused, bytes go "
        "on passing through slots, with one warning. Works with `verify=digest` alone.",
    )
    max_tensors: int = setting(1_000_000, number(int, 1, 1 << 32), "Largest number of tensors in one publication.")
    max_manifest_bytes: int = setting(
        256 * MIB, number(int, 1024, 1 << 31), "Largest manifest that is written or parsed.", "bytes"
    )
    publish_sha256: bool = setting(
        False,
        boolean,
        "Whether a publication includes the SHA-256 of every tensor, which readers with `trusted_digests` need. "
        "Costs about a second per GiB and core.",
    )
    trusted_digests: str = setting(
        "",
        sha256_sums,
        "Content digests (`Publication.digest`), joined by `,`. Nothing else is loaded, and every byte is compared "
        "by SHA-256. Empty trusts whoever the worker lets publish.",
    )
    curve_key_dir: str = setting(
        "",
        path,
        "Directory of curve keys, for a worker with `enable_curve_zmq`: `client.key`, `client.key_secret` and "
        "`worker.key`. `yr-fastload worker keys` creates one. A worker started by `auto` requires these keys. "
        "Empty: no keys.",
    )
    access_key: Secret = secret("Access key (AK), for a worker that requires one; never shown.")
    access_key_file: str = setting("", path, "File with the `access_key`, mode 0600.")
    secret_key: Secret = secret("Secret key (SK) of `access_key`; never shown.")
    secret_key_file: str = setting("", path, "File with the `secret_key`, mode 0600.")
    token: Secret = secret("Token, for a worker that checks tokens with its IAM server; never shown.")
    token_file: str = setting("", path, "File with the `token`, mode 0600.")
    tenant_id: str = setting(
        "",
        tenant,
        "Tenant whose publications are visible. A worker with `authorization_enable` restricts a client to its own "
        "tenant; any other worker believes the name.",
        shown=False,
    )
    worker_memory_mb: int = setting(
        0,
        number(int, 0, 1 << 30),
        "Shared memory of a worker started by `auto`. 0 uses half of the memory available at that time.",
        "MiB",
    )
    worker_home: str = setting(
        "",
        path,
        "Directory of a worker started by `auto`, which also identifies it. Empty: the one of this machine and user.",
    )
    worker_start_timeout_s: float = setting(
        60.0, number(float, 1, 3600), "Time limit for starting a local worker.", "s"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Config:
        """Create a config from ``YR_FASTLOAD_<SETTING>`` variables; ``settings`` take precedence.

        Raises:
            InvalidArgumentError: A variable does not have its setting's type. Unknown names only cause a warning.
        """
        return cls(**read(cls, environ, settings))

    @staticmethod
    def worker_from_env(environ: Mapping[str, str] | None = None) -> str | None:
        """The worker that ``DS_WORKER_ADDR`` names, None if unset."""
        environ = os.environ if environ is None else environ
        return environ.get(_WORKER_VARIABLE) or None

    def worker_address(self) -> str:
        """The address of the worker: the one that is set, or that of ``DS_WORKER_ADDR``; ``auto`` if neither is."""
        return self.worker if self.worker != "auto" else Config.worker_from_env() or "auto"

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


# Settings whose values are never shown.
SECRETS = frozenset(field.name for field in attrs.fields(Config) if isinstance(field.default, Secret))
