"""A process of ``yr-fastload doctor --npu``: what it does with one NPU, real or simulated."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from yr_fastload_native import _core
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.measuring.child_process import serve
from yr_fastload_native.measuring.device_arrays import DeviceArray, upload
from yr_fastload_native.measuring.moves import Move
from yr_fastload_native.measuring.symbols import missing, needs_of
from yr_fastload_native.publishing.publication import Publication

__all__ = ["Trial"]

_HBM = 1  # ACL_HBM_MEM
_GLOBAL = 0  # ACL_MODEL_RI_CAPTURE_MODE_GLOBAL, torch_npu's
_SAMPLE_S = 0.005
_ROUNDS = 3
_TENSORS = 8


@attrs.frozen(kw_only=True)
class Trial(Move):
    """What all processes work on.

    Attributes:
        identity: Of what they publish and load.
        bytes: Of the tensors.
        device: Number of the process's NPU.
    """

    identity: str
    bytes: int
    device: int = 0


class _Commands:
    def __init__(self, task: dict[str, Any]) -> None:
        self._trial = Trial(**task)
        self._device = NPU.open_device(self._trial.device)
        self._acl = ctypes.CDLL("libascendcl.so")
        self._pool = _core.PinnedPool(self._device, 64 << 20)
        self._loader: FastLoader | None = None
        self._tensors: dict[str, DeviceArray] = {}
        self._publication: Publication | None = None
        self._ends_capture = threading.Event()

    # -- what is there --------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        name = self._acl.aclrtGetSocName
        name.restype = ctypes.c_char_p
        return {
            "soc": (name() or b"").decode(),
            "devices": _core.acl_device_count(),
            "memory_bytes": self._device.memory_bytes,
            "digests": _core.digests_on_device(self._device, self._pool, deadline_s=self._trial.deadline_s),
        }

    def plugin(self, path: str) -> dict[str, Any]:
        """What openYuanrong's plugin needs, and what of it is not here."""
        needs = needs_of(Path(path))
        libraries, symbols = missing(needs)
        return {"needed": len(needs.symbols), "libraries": libraries, "symbols": symbols}

    # -- transfers ------------------------------------------------------------------------------------------------

    def make(self, seed: int) -> dict[str, Any]:
        """Tensors of random bytes."""
        random = np.random.default_rng(seed)
        each = self._trial.bytes // _TENSORS
        arrays = {str(i): random.integers(0, 1 << 63, each // 8, np.int64) for i in range(_TENSORS)}
        self._tensors = upload(NPU.at(self._trial.device), arrays)
        return {"bytes": sum(array.nbytes for array in self._tensors.values())}

    def publish(self) -> dict[str, Any]:
        self._publication = self._connected().publish(self._tensors, {"doctor": self._trial.identity})
        if not self._publication.wait_settled(self._trial.deadline_s):
            raise RuntimeError(self._publication.failure or self._publication.state)
        return {"seconds": self._publication.seconds}

    def load(self, rounds: int) -> dict[str, Any]:
        """Load over and over."""
        with self._sampled() as used:
            reports = [self._connected().load(self._tensors, {"doctor": self._trial.identity}) for _ in range(rounds)]
        return {
            "seconds": min(report.seconds for report in reports),
            "transport": reports[-1].transport,
            "verified": all(report.verified for report in reports),
            "most_beside": max(used, default=0),
        }

    def sums(self) -> dict[str, Any]:
        """Of all bytes, as the device hands them out."""
        return {name: int(each.bytes().view(np.uint64).sum()) for name, each in self._tensors.items()}

    def _connected(self) -> FastLoader:
        if self._loader is None:
            self._loader = FastLoader(self._trial.config(hold=False, device=self._trial.device))
        return self._loader

    # -- rates ----------------------------------------------------------------------------------------------------

    def rates(self) -> dict[str, Any]:
        """The best of a few: seconds of a copy on the device, and of the digests of the same bytes."""
        size = self._trial.bytes
        here, there = (_core.DeviceMemory(self._device, size) for _ in range(2))
        plan = _core.make_plan(array("Q", [size]), chunk_bytes=max(1 << 20, size // _TENSORS), max_blobs=1)
        addresses = array("Q", [here.address])

        def digests() -> None:
            _core.digest_chunks(
                plan,
                addresses,
                copy_threads=2,
                deadline_s=self._trial.deadline_s,
                device=self._device,
                pool=self._pool,
                digest=NPU.digest,
            )

        def copy() -> None:
            there.copy_from(here, deadline_s=self._trial.deadline_s)

        return {"copy_s": _best_s(copy), "digest_s": _best_s(digests)}

    # -- beside the capture of a graph ----------------------------------------------------------------------------

    def capture(self, seconds: float) -> dict[str, Any]:
        """Begin to capture a stream, as a framework does after loading; it ends by itself, or by `end_capture`."""
        begin = getattr(self._acl, "aclmdlRICaptureBegin", None)
        if begin is None:
            return {"captures": False, "error": None}
        begun = threading.Event()
        found: list[int] = []

        def run() -> None:
            stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
            self._acl.aclrtSetDevice(self._trial.device)
            self._acl.aclrtCreateStream(ctypes.byref(stream))
            found.append(begin(stream, _GLOBAL))
            begun.set()
            if found[0] == 0:
                self._ends_capture.wait(seconds)
                self._acl.aclmdlRICaptureEnd(stream, ctypes.byref(graph))
                self._acl.aclmdlRIDestroy(graph)
            self._acl.aclrtDestroyStream(stream)

        self._ends_capture.clear()
        threading.Thread(target=run, daemon=True).start()
        begun.wait(seconds)
        return {"captures": found == [0], "error": found[0] if found else None}

    def end_capture(self) -> dict[str, Any]:
        self._ends_capture.set()
        return {}

    # -- memory ---------------------------------------------------------------------------------------------------

    def _free(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._acl.aclrtSetDevice(self._trial.device)
        failed = self._acl.aclrtGetMemInfo(_HBM, ctypes.byref(free), ctypes.byref(total))
        return 0 if failed else free.value

    @contextlib.contextmanager
    def _sampled(self) -> Iterator[list[int]]:
        """Bytes that the device has less than before, again and again meanwhile."""
        used: list[int] = []
        over = threading.Event()

        def sample() -> None:
            before = self._free()
            while True:
                used.append(before - self._free())
                if over.wait(_SAMPLE_S):
                    return

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield used
        finally:
            over.set()
            thread.join()


def _best_s(work: Callable[[], None]) -> float:
    found = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    serve(_Commands)
