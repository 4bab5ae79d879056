"""The whole start of an instance by `yr-fastload serve`: from a template with what was compiled at hand, and without.

The two fleets of a case take turns. What makes a case is an entry of `CASES`; its target is made from it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import psutil

from benchmarks.engine import COMMAND
from yr_fastload_native.measuring.resources import private_worker
from yr_fastload_native.measuring.service_process import ServiceProcess

__all__ = ["CASES", "COMMAND", "Case", "measure"]

_MIB = 1 << 20
_START_S = 600.0
_ORDINARY_ROUNDS = 2  # of starts that take longest and vary least, for time
_MANY = 10
_IDLE_PERCENT, _IDLE_S, _SETTLED_S = 15.0, 1.0, 15.0
_PROMPT, _TOKENS = "an instance that starts now", 12
# Of all fleets: caches of keys and values that are small beside the rest.
_VLLM = ["--served-model-name", "bench", "--max-model-len", "128", "--seed", "0", "--num-gpu-blocks-override", "64"]
_ARTIFACTS = "torch_aot_compile/*/rank_*/model"

Note = Callable[[str], None]


@attrs.frozen
class Case:
    """What is started in two ways.

    Attributes:
        words: For the table.
        bound: How many times as soon as an ordinary start it should be ready.
        large: Whether the model is the large one.
        tp: Tensor parallel size.
        eager: Whether nothing is compiled.
        first: Whether nobody publishes its weights, so that they are read from disk.
        elsewhere: Whether the machine has compiled nothing yet. An ordinary start there is that of a first one, with
            the model's directory; the other one has no such directory, and pulls all of it.
        rounds: Most repetitions of the ordinary start.
    """

    words: str
    bound: float
    large: bool = False
    tp: int = 1
    eager: bool = False
    first: bool = False
    elsewhere: bool = False
    rounds: int = _ORDINARY_ROUNDS

    def reads_disk(self, *, ordinary: bool) -> bool:
        """Whether weights come from disk."""
        return self.first or (self.elsewhere and ordinary)

    @property
    def arguments(self) -> list[str]:
        return ["--tp", str(self.tp), "--", *_VLLM, *(["--enforce-eager"] if self.eager else [])]


CASES = {
    "compiled": Case("one more, compiled, a tiny model", 8),
    "large": Case("one more, compiled, a model of 1 GB", 5, large=True),
    "eager": Case("one more, eager, a tiny model", 8, eager=True),
    "tp2": Case("one more, compiled, a tiny model, tensor parallel size 2", 6, tp=2),
    "first": Case("the first one, weights from disk, what was compiled at hand, a tiny model", 3, first=True),
    "elsewhere": Case("another machine with nothing on its disk, a model of 1 GB", 4, large=True, elsewhere=True),
}


class _Fleet:
    """The instances of a case, in one of the two ways.

    Args:
        case: The case.
        model: Its model.
        ordinary: Whether they start without a template, and have no compiled artifact.
        environment: Of the service.
        caches: Where vLLM keeps what it compiled, and other caches of the machine.
    """

    def __init__(
        self, case: Case, model: Path, *, ordinary: bool, environment: Mapping[str, str], caches: Path
    ) -> None:
        self._ordinary = ordinary
        self._case = case
        self._caches = caches
        own = {"VLLM_CACHE_ROOT": str(caches / "vllm"), "XDG_CACHE_HOME": str(caches)}
        if ordinary:
            own["YR_FASTLOAD_SHARE_CACHES"] = "off"
        if case.reads_disk(ordinary=ordinary):
            own["YR_FASTLOAD_FINGERPRINT"] = f"{case.words}, {ordinary}"  # which nobody publishes
        template = ["--template", "off" if ordinary else "auto", "--instances", "0", "--max-instances", str(_MANY + 2)]
        self.service = ServiceProcess(
            model,
            [*template, *case.arguments],
            {**environment, **own},
            python=str(COMMAND.with_name("python")),
            start_s=_START_S,
        )

    def begin(self) -> dict[str, Any]:
        """Start an instance that stays, and have a template that has learned from it."""
        before = self.service.until_template()
        (started,) = self.service.scale_out()
        self.service.until_learned(before)
        return self._record(started)

    def start(self) -> dict[str, Any]:
        """Start one and stop it; what its start took."""
        self._forget()
        if not self._ordinary and self.service.until_template() is None:
            raise AssertionError(self.service.status()["template"])
        _settle()
        (started,) = self.service.scale_out()
        record = self._record(started)
        self._check(started)
        self.service.scale_in([started])
        return record

    def _forget(self) -> None:
        """What the next start is not to find on this machine's disk."""
        if self._case.elsewhere:
            for cache in ("vllm", "yr-fastload/models"):
                shutil.rmtree(self._caches / cache, ignore_errors=True)
        elif self._ordinary:
            for artifact in self._caches.rglob(_ARTIFACTS):  # and not what Inductor keeps beside them
                artifact.unlink()

    def memory_of_many(self) -> int:
        """Anonymous memory of many instances that run side by side, and of their template, bytes."""
        started = self.service.scale_out(_MANY)
        processes = [*(each["pid"] for each in started), self.service.until_template()]
        found = sum(map(_anonymous_bytes, processes))
        self.service.scale_in(started)
        return found

    def _record(self, started: Mapping[str, Any]) -> dict[str, Any]:
        phases = started["phases"]
        return {
            "ready_s": started["ready_seconds"],
            "unaccounted_s": started["ready_seconds"] - sum(phase["seconds"] for phase in phases),
            "phases": [{key: phase[key] for key in ("name", "seconds", "facts")} for phase in phases],
            "load_source": started["load_source"],
            "load_s": started["load_seconds"],
            "bytes": started["bytes"],
            "from_template": started["from_template"],
            "anonymous_bytes": _anonymous_bytes(started["pid"]),
            "answer": self.service.complete(started, "bench", _PROMPT, _TOKENS),
        }

    def _check(self, started: Mapping[str, Any]) -> None:
        assert started["from_template"] is not self._ordinary, started["not_forked"]
        reads_disk = self._case.reads_disk(ordinary=self._ordinary)
        assert started["load_source"] == ("disk" if reads_disk else "instance"), started
        caches = {phase["facts"]["cache"] for phase in started["phases"] if "cache" in phase["facts"]}
        assert caches <= ({"miss"} if self._ordinary else {"hit"}), started["phases"]


def _anonymous_bytes(pid: int | None) -> int:
    """Of a process and those below it: memory that no file has, what is shared divided among those that share it."""
    found = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss_Anon:"):
                        found += int(line.split()[1]) * 1024
    return found


def _settle() -> None:
    """Wait until what ended or began before is no longer at work."""
    ends = time.monotonic() + _SETTLED_S
    while psutil.cpu_percent(_IDLE_S) > _IDLE_PERCENT and time.monotonic() < ends:
        pass


def _make(folder: Path, name: str, *size: str) -> Path:
    model = folder / name
    making = ["verify-vllm", "--make-tiny", "qwen2", *size, "--only-make", str(model)]
    subprocess.run([str(COMMAND), *making], check=True, capture_output=True, timeout=_START_S)
    return model


@contextlib.contextmanager
def _fleets(
    environment: Mapping[str, str], folder: Path, models: Mapping[bool, Path], note: Note
) -> Iterator[tuple[dict[str, tuple[_Fleet, _Fleet]], dict[str, Any]]]:
    """Both fleets of each case, and the starts of the instances that stay and publish."""
    begun: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:

        def fleet(case: Case, model: Path, caches: str, *, ordinary: bool) -> _Fleet:
            machine = folder / (f"{caches}-elsewhere" if case.elsewhere else caches)
            made = _Fleet(case, model, ordinary=ordinary, environment=environment, caches=machine)
            stack.callback(made.service.close)
            return made

        from_template = {}
        for name, case in CASES.items():
            model = models[case.large]
            if case.elsewhere:
                model = shutil.copytree(model, folder / "elsewhere", copy_function=os.link)
            from_template[name] = fleet(case, model, "compiled", ordinary=False)
            if not (case.eager or case.first):  # whose weights another publishes, or nobody
                note(f"ready: {case.words}: the first instance")
                begun[name] = from_template[name].begin()
            if case.elsewhere:
                model.rename(folder / "away")
        shutil.copytree(folder / "compiled", folder / "ordinary")
        ordinary = {name: fleet(case, models[case.large], "ordinary", ordinary=True) for name, case in CASES.items()}
        yield {name: (from_template[name], ordinary[name]) for name in CASES}, begun


def measure(size_mb: int, rounds: int, folder: Path, note: Note) -> dict[str, Any]:
    """Start instances in both ways, in turn.

    Args:
        size_mb: Of the large model.
        rounds: Repetitions of starts from a template; of ordinary ones at most as many as the case says.
        folder: Where there is room for models and caches.
        note: Says what goes on.
    """
    note("ready: making models for vLLM")
    models = {False: _make(folder, "tiny"), True: _make(folder, "large", "--size-mb", str(size_mb))}
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {name: {"template": [], "ordinary": []} for name in CASES}
    with private_worker(4 * size_mb * _MIB) as worker:
        environment = {
            **os.environ,
            "DS_WORKER_ADDR": worker,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        with _fleets(environment, folder, models, note) as (fleets, begun):
            for turn in range(rounds):
                note(f"ready: round {turn + 1} of {rounds}")
                for name, (quick, ordinary) in fleets.items():
                    samples[name]["template"].append(quick.start())
                    if turn < min(rounds, CASES[name].rounds):
                        samples[name]["ordinary"].append(ordinary.start())
            note(f"ready: {_MANY} side by side")
            many_bytes = fleets["eager"][0].memory_of_many()
    return {**_figures(samples, many_bytes), "rounds": rounds, "size_mb": size_mb, "begun": begun, "records": samples}


def _figures(samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], many_bytes: int) -> dict[str, Any]:
    """What targets and tables take from the records of both ways, by case."""
    seconds = {
        name: {way: statistics.median(each["ready_s"] for each in records) for way, records in ways.items()}
        for name, ways in samples.items()
    }
    every = [each for ways in samples.values() for records in ways.values() for each in records]
    alone = statistics.median(each["anonymous_bytes"] for each in samples["eager"]["ordinary"])
    return {
        "seconds": seconds,
        "speedup": {name: ways["ordinary"] / ways["template"] for name, ways in seconds.items()},
        "phases": {name: {way: _phases(records) for way, records in ways.items()} for name, ways in samples.items()},
        "unaccounted_share": max(abs(each["unaccounted_s"]) / each["ready_s"] for each in every),
        "memory": {"template": many_bytes, "ordinary": _MANY * alone},
        "memory_share": many_bytes / (_MANY * alone),
        "answers_equal": all(
            len({each["answer"] for records in ways.values() for each in records}) == 1 for ways in samples.values()
        ),
    }


def _phases(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median seconds by phase, in the order of a start; 0 in starts that did not have it."""
    names = dict.fromkeys(phase["name"] for each in records for phase in each["phases"])
    took = [{phase["name"]: phase["seconds"] for phase in each["phases"]} for each in records]
    return {name: statistics.median(each.get(name, 0.0) for each in took) for name in names}
