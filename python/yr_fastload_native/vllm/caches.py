"""What one instance has compiled, for those that come later: published when it is ready, taken before they compile.

Such files are code, so it counts who made them. Whatever goes wrong, an instance compiles as it would have.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from yr_fastload_native.catalogue.identity import ABOUT
from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.files.exchange import publish_files, take_files
from yr_fastload_native.files.makers import own_key, trusted_makers
from yr_fastload_native.files.placing import place
from yr_fastload_native.reporting.load_report import size
from yr_fastload_native.vllm import compat, session
from yr_fastload_native.vllm.background import Background, Thread
from yr_fastload_native.vllm.compiled_files import CompiledFiles
from yr_fastload_native.vllm.ready import when_ready
from yr_fastload_native.vllm.settings import Settings

__all__ = ["share_caches"]

_log = logging.getLogger("vllm.yr_fastload")

_MOST_WAIT_S = 10.0
_NAMED = 3
_background = Background("yr-fastload-caches")


def share_caches(call: compat.Call, settings: Settings) -> None:
    """Take what another instance has compiled for this rank; where nobody has, publish what this one compiles.

    Never raises: an instance that takes nothing compiles. Bounded.
    """
    if settings.exchange.share_caches == "off":
        return
    try:
        is_draft = bool(call.prefix) or call.model_config is not call.vllm_config.model_config
        if not is_draft and compat.compiles(call.vllm_config):  # a draft's are among those of its model
            _Caches(call, settings).share()
    except Exception as error:  # a version of vLLM in which something has moved
        _log.warning("what is compiled is not shared: %s: %s", type(error).__name__, str(error))


class _Caches:
    """Those of one rank."""

    def __init__(self, call: compat.Call, settings: Settings) -> None:
        self._settings = settings
        self._worker = compat.worker_class(call.vllm_config)
        self._rank = compat.rank_directory(call.vllm_config)
        self._identity = _identity_of(call)
        self._fast = session.loader_for_files(settings.transfer)
        self._files = CompiledFiles()
        self._key = own_key(settings.transfer)

    def share(self) -> None:
        for path in self._files.left_empty()[:_NAMED]:
            _log.warning(
                "%s is empty: whoever compiled it was killed, and a start that loads it fails; remove it", path
            )
        if self._take() or self._settings.exchange.publish == "off" or self._worker is None:
            self._files.end()
            return
        when_ready(self._worker, self._publish_later)

    def _take(self) -> bool:
        """Whether somebody has published, and it is in place."""
        started = time.perf_counter()
        told: dict[str, Any] = {"why": None}
        try:
            told |= self._put_in_place()
        except FastLoadError as error:
            told["why"] = error.code
            if not isinstance(error, NotPublishedError):
                _log.warning("what others have compiled is not taken, this instance compiles: %s", str(error))
        told["seconds"] = time.perf_counter() - started
        session.record("caches", told, self._settings.exchange.report)
        return told["why"] is None

    def _put_in_place(self) -> dict[str, int]:
        """What came of it, in numbers."""
        files = take_files(
            self._fast,
            self._identity,
            most_bytes=self._settings.exchange.share_caches_bytes,
            deadline_s=min(_MOST_WAIT_S, self._settings.transfer.deadline_s),
            makers=trusted_makers(self._settings.transfer, self._key, self._settings.exchange.share_caches),
        )
        placed = place(files, self._files.roots)
        taken = sum(each.size for each in files)
        written, kept = len(placed.written), len(placed.kept)
        _log.info("%d compiled files of another instance put in place, %d were there (%s)", written, kept, size(taken))
        if placed.differing:
            _log.warning(
                "%d files below %s are others than those of another instance and stay as they are, such as %s; if "
                "loading them fails, remove them",
                len(placed.differing),
                ", ".join(map(str, self._files.roots.values())),
                ", ".join(placed.differing[:_NAMED]),
            )
        return {"written": written, "kept": kept, "bytes": taken}

    def _publish_later(self) -> None:
        self._files.end()
        _background.start(self._publish, self._refuse, end_s=_MOST_WAIT_S)

    def _publish(self, thread: Thread) -> None:
        files = self._files.read(self._rank, self._settings.exchange.share_caches_bytes)
        thread.go_on()
        if not files:
            return
        publication = publish_files(self._fast, self._identity, files, key=self._key)
        _log.info("published %d compiled files (%s)", len(files), size(publication.bytes))
        what = {"files": len(files), "bytes": publication.bytes, "digest": publication.digest}
        session.record("published caches", what, self._settings.exchange.report)

    def _refuse(self, error: Exception) -> None:
        _log.warning("what this instance compiled is not published: %s", str(error))


def _identity_of(call: compat.Call) -> dict[str, Any]:
    """Everything that decides whether what one process has compiled is what another one would."""
    return {
        "kind": "compiled files",
        "engine": "vllm",
        "engine_version": compat.version(),
        "platform": compat.platform(),
        "platform_version": compat.platform_version(),
        "torch": str(importlib.import_module("torch").__version__),
        "python": [platform.python_version(), sys.implementation.cache_tag or "", getattr(sys, "abiflags", "")],
        "system": [platform.system(), platform.machine(), *platform.libc_ver()],
        "cpu": _cpu_features(),
        "device": compat.device(),
        "configuration": compat.configuration_hash(call.vllm_config),
        "ranks": {name: list(place) for name, place in compat.ranks().items()},
        ABOUT: {"model": os.path.basename(str(call.model_config.model).rstrip("/"))},
    }


def _cpu_features() -> str:
    """Digest of what the kernel says of the first CPU's instructions, for which compilers write code."""
    wanted = ("vendor_id", "cpu family", "flags", "Features", "CPU implementer", "CPU part", "isa")
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        first = ""
    lines = [line for line in first.splitlines() if line.split(":")[0].strip() in wanted]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
