"""``yr-fastload doctor --npu``: a trial of this machine's NPUs, or of simulated ones; one page that can be sent on."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.cli import output
from yr_fastload_native.cli.finding import Finding
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.measuring.npu_process import Trial
from yr_fastload_native.measuring.resources import device_count, device_environment, private_worker
from yr_fastload_native.process.versions import installed
from yr_fastload_native.settings import Config

__all__ = ["examine_npus"]

_GIB = 1 << 30
_BYTES = 256 << 20  # that move
_ROUNDS = 3
_STEP_S = 120.0
_MODULE = "yr_fastload_native.measuring.npu_process"
_NAMED = 5
_LEAST_DIGEST = 0.2  # of a copy's reads and writes; simulated devices are not held to it
_MOST_BESIDE = 0.05  # of a device's memory
_DRIVER = Path("/usr/local/Ascend/driver/version.info")
_TOOLKITS = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
_PACKAGES = ("torch", "torch-npu", "vllm-ascend", "openyuanrong-datasystem", "yr-fastload-native")
_REPORT = "send this page, with CANN's logs (~/ascend/log) of this minute"


def examine_npus() -> list[Finding]:
    """Try what publishing and loading between NPUs needs, as far as it gets."""
    environment, simulated = device_environment("d2d")
    environment.setdefault("YR_FASTLOAD_SIM_OPAQUE", "1")  # as real ones are
    findings: list[Finding] = []
    with contextlib.ExitStack() as stack:
        try:
            findings.extend(_Trials(stack, environment, simulated).run())
        except FastLoadError as error:
            todo = _REPORT if findings else "check `npu-smi info`; source CANN's set_env.sh"
            findings.append(Finding("NPU", "wrong", f"the trial ended: {error}", todo))
    return findings


class _Trials:
    def __init__(self, stack: contextlib.ExitStack, environment: Mapping[str, str], simulated: bool) -> None:
        self._stack = stack
        self._environment = environment
        self._simulated = simulated
        self._devices = device_count(environment)
        self._trial = Trial(
            worker=Config.worker_from_env() or stack.enter_context(private_worker(2 * _BYTES, output.note)),
            transport="d2d" if self._devices > 1 else "staged",
            identity=uuid.uuid4().hex,
            bytes=_BYTES,
            deadline_s=_STEP_S / 2,
        )
        self._source = self._process("source", 0)
        self._about = self._source.call("about", _STEP_S)

    def run(self) -> Iterator[Finding]:
        yield self._versions()
        yield self._plugin()
        rates = self._source.call("rates", _STEP_S)
        yield self._digests(rates)
        self._source.call("make", _STEP_S, seed=1)
        self._source.call("publish", _STEP_S)
        reader = self._process("reader", 1 % self._devices)
        reader.call("make", _STEP_S, seed=2)
        loaded = reader.call("load", _STEP_S, rounds=_ROUNDS)
        yield self._transfer(loaded, rates, equal=reader.call("sums", _STEP_S) == self._source.call("sums", _STEP_S))
        yield self._capture(reader)
        yield self._memory(loaded["most_beside"])

    def _process(self, role: str, device: int) -> Process:
        task = attrs.asdict(attrs.evolve(self._trial, device=device))
        return self._stack.enter_context(Process("doctor", _MODULE, role, task, self._environment))

    def _versions(self) -> Finding:
        kind = "simulated: the bytes are real, the rates mean nothing" if self._simulated else self._about["soc"]
        cann = next(filter(None, (_cann(os.environ.get(name)) for name in _TOOLKITS)), None)
        versions = {"driver": _version_in(_DRIVER), "CANN": cann, **{name: installed(name) for name in _PACKAGES}}
        known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        unknown = ", ".join(name for name, version in versions.items() if not version)
        memory = self._about["memory_bytes"] / _GIB
        what = (
            f"{self._about['devices']} of {memory:.0f} GiB, {kind}; {platform.machine()}, {known}; not here: {unknown}"
        )
        return Finding("NPU", "ok", what)

    def _plugin(self) -> Finding:
        found = importlib.util.find_spec("yr.datasystem")
        folder = next(iter((found and found.submodule_search_locations) or ()), "")
        answer = self._source.call("plugin", _STEP_S, path=str(Path(folder, "lib", "libacl_plugin.so")))
        gone = [*answer["libraries"], *answer["symbols"]]
        if not gone:
            what = f"all {answer['needed']} symbols that openYuanrong's plugin needs are there"
            return Finding("plugin", "ok", what)
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        return Finding(
            "plugin",
            "wrong",
            f"openYuanrong's plugin cannot be loaded, for this CANN lacks {', '.join(gone[:_NAMED])}{more}",
            "it was built for CANN 8.5: use that, or transport `host`",
        )

    def _digests(self, rates: Mapping[str, float]) -> Finding:
        share = rates["copy_s"] / 2 / rates["digest_s"]  # a copy reads and writes
        what = f"{_gb_s(rates['digest_s'])}, {share:.0%} of what a copy on the device reads and writes"
        if not self._about["digests"]:
            return Finding(
                "digests",
                "note",
                f"{what}, by the CPU: the device lacks operator aclnnQuantMatmulV4, or its sums are wrong",
                "install CANN's operators for this NPU (Ascend-cann-kernels)",
            )
        slow = share < _LEAST_DIGEST and not self._simulated
        return Finding("digests", "note" if slow else "ok", f"{what}, by the device", _REPORT if slow else "")

    def _transfer(self, loaded: Mapping[str, Any], rates: Mapping[str, float], *, equal: bool) -> Finding:
        between = "between two NPUs" if self._devices > 1 else "through the worker: there is one NPU"
        what = (
            f"{_BYTES >> 20} MiB by {loaded['transport']} {between} at {_gb_s(loaded['seconds'])}, "
            f"{rates['copy_s'] / loaded['seconds']:.0%} of a copy on one"
        )
        if not (equal and loaded["verified"]):
            return Finding("transfer", "wrong", f"{what}; the bytes that arrived are others", _REPORT)
        return Finding("transfer", "ok", f"{what}; every byte is right")

    def _capture(self, reader: Process) -> Finding:
        begun = self._source.call("capture", _STEP_S, seconds=_STEP_S)
        if not begun["captures"]:
            return Finding("capture", "note", f"this CANN captures no graphs (error {begun['error']})")
        try:
            seconds = reader.call("load", _STEP_S, rounds=1)["seconds"]
        except FastLoadError as error:
            todo = "start readers once the source has captured its graphs; and send this page"
            return Finding("capture", "wrong", f"a load while the source captures a graph: {error}", todo)
        finally:
            self._source.call("end_capture", _STEP_S)
        return Finding("capture", "ok", f"a load while the source captures a graph took {seconds:.2f} s")

    def _memory(self, beside: int) -> Finding:
        share = beside / max(1, self._about["memory_bytes"])
        what = f"a load took at most {beside / _GIB:.2f} GiB beside its tensors, {share:.1%} of the device"
        much = share > _MOST_BESIDE
        return Finding("memory of NPU", "note" if much else "ok", what, "lower `staging_bytes`" if much else "")


def _gb_s(seconds: float) -> str:
    return f"{_BYTES / seconds / 1e9:.1f} GB/s"


def _version_in(path: Path) -> str | None:
    try:
        found = re.search(r"^[Vv]ersion\s*=\s*\[?([\w.]+)", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else found[1]


def _cann(home: str | None) -> str | None:
    if not home:
        return None
    places = [Path(home, "version.cfg"), *sorted(Path(home).glob("*/ascend_toolkit_install.info"))]
    return next(filter(None, map(_version_in, places)), None)
