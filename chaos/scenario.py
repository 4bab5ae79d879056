"""One round: who publishes, who reads, and what strikes when."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

from chaos.faults import Fault
from chaos.leak_checker import LeakChecker
from chaos.ledger import Ledger
from chaos.processes import DeadError, Node, SilentError
from chaos.schedule import PUBLISH_DEADLINE_S, Part, Round
from chaos.verdict import Verdict
from chaos.workers import LocalWorkers, Worker, Workers
from yr_fastload_native.errors import FastLoadError

__all__ = ["Scenario"]

_SILENT_S = 20.0
_LATE_S = 0.5  # what was abandoned has so long to write, once whoever was frozen goes on
_SLOWED_S = (0.2, 1.0)
_POLL_S = 0.05


class Scenario:
    """What a fault may do to a round.

    Args:
        spec: What was drawn for it.
        workers: What everybody connects to.
        leaks: Gives processes, and takes them back.
        ledger: The file in which processes write down what they store.

    Attributes:
        verify: How checkpoints are read.
    """

    def __init__(self, spec: Round, workers: Workers, leaks: LeakChecker, ledger: Path) -> None:
        self.spec = spec
        self.workers = workers
        self.ledger = Ledger(ledger, spec.identity)
        self._leaks = leaks
        self._verdict = Verdict(spec, leaks.tally, leaks.stalls)
        self.nodes: list[Node] = []
        self.publishers: list[Node] = []
        self.readers: list[Node] = []
        self._second: int | None = None
        self._device_lines: dict[Node, list[str]] = {}
        self._timers: list[threading.Timer] = []
        self._worker_gone = False
        self._files = ledger.with_name(f"files-{spec.number}")
        self._has_files = False
        self.verify = "once"

    # -- the course -----------------------------------------------------------------------------------------------

    def run(self, fault: Fault) -> None:
        """Publish, load, and strike at the moment that was drawn."""
        spec = self.spec
        self.publishers = [self._take(spec.publishers[0])]
        holders = [self._take(part) for part in spec.holders]
        self.readers = [self._take(part) for part in spec.readers]
        if spec.kind == "two.publishers":
            self.publishers.append(self._take(spec.publishers[1]))
        self._verdict.expect_deaths(self.publishers[0], self.readers[0])
        self._slow_down(fault)
        if spec.connects_first:
            self._connect()
        fault.before(self)
        self.workers.calm()
        self._start_publish(self.publishers[0], 0, fault.settle_s)
        if fault.moment == "publishing":
            time.sleep(fault.delay_s)
            fault.strike(self)
        if fault.beside:
            self.load(self.readers, allowed=fault.allowed)
        published = [
            self._verdict.publish(node, self._finish(node, PUBLISH_DEADLINE_S), fault.publish_allowed)
            for node in self.publishers[: 1 if self._second is None else 2]
        ]
        if holders:
            has_to_be_found = any(published) and fault.moment != "publishing"
            self.load(holders, allowed=frozenset() if has_to_be_found else fault.allowed)
        if fault.moment == "published":
            fault.strike(self)
        self.load(self.readers, allowed=fault.allowed, during=fault if fault.moment == "loading" else None)
        fault.lift(self)
        if spec.again and not self._worker_gone:
            self.load(self.readers[-1:], allowed=fault.allowed)
        fault.after(self)
        self._recover()
        self._look_for_late_writes()
        self._close(clean=fault.clean)

    def _recover(self) -> None:
        """See to it that what somebody still has can be loaded: on one host a worker that ends takes it along."""

    def abandon(self) -> None:
        """End everybody, and go on with another worker."""
        self.thaw()
        for node in self.nodes:
            node.busy = False
            if not node.gone:
                node.end()
        self.workers.replace()

    def _take(self, part: Part) -> Node:
        node = self._leaks.idle(part.where, part.framework)
        node.busy = True
        self.nodes.append(node)
        self._verdict.parts[node] = part
        return node

    def _settings(self, node: Node) -> dict[str, Any]:
        return {**self._verdict.parts[node].settings, "worker": self.workers.address_of(node)}

    def _slow_down(self, fault: Fault) -> None:
        """Between devices a load of a few MiB takes as long as a host's memory does; give the fault time to meet it."""
        if "d2d" in self.spec.publish_as and fault.slow and fault.moment == "loading":
            seconds = fault.rng.uniform(*_SLOWED_S)
            gbps = max(0.001, self.spec.model["size"] * 8 / 1e9 / seconds)
            self.device_faults(self.publishers[0], f"link:gbps={gbps:.4f}")

    def _connect(self) -> None:
        for node in self.nodes:
            node.start("open", settings=self._settings(node))
        for node in self.nodes:
            self._verdict.connection(node, self._finish(node, self._verdict.connect_bound_s(node)))

    def _finish(self, node: Node, bound_s: float) -> dict[str, Any]:
        """Its answer; `dead` or `silent` if there is none."""
        if node.gone:
            return {"dead": True}
        try:
            return node.finish(bound_s + self._verdict.frozen_s.get(node, 0.0) + _SILENT_S)
        except DeadError:
            return {"dead": True}
        except SilentError as silent:
            self._verdict.silence(silent)
            node.end()
            return {"silent": True}

    def _close(self, *, clean: bool) -> None:
        for node in self.nodes:
            node.busy = False
            if node in self._verdict.to_die:
                self._await_death(node)
            if not node.gone:
                node.faults()
                self._leaks.close(self.spec, node)
        self._leaks.expect_gone(self.spec, self.ledger.everything(), self.nodes, clean=clean)
        if self._worker_gone:
            self.workers.replace()

    def _await_death(self, node: Node) -> None:
        """SIGTERM withdraws first; that is bounded too."""
        if node.gone:
            return
        try:
            while True:
                node.finish(self.spec.deadline_s + _SILENT_S)
        except DeadError:
            return
        except SilentError as silent:
            self._verdict.outlives_its_signal(silent)
            node.end()

    # -- publishing and loading -----------------------------------------------------------------------------------

    def write_files(self, content: int) -> None:
        """Have what is published from now on be a checkpoint in files; the first one's is what is read."""
        node = self._leaks.idle()
        answer = node.call(
            "write_files",
            _SILENT_S,
            directory=str(self._files),
            model=self.spec.model,
            content=self.spec.contents[content],
            settings={"worker": self.workers.address_of(node)},
        )
        self._leaks.close(self.spec, node)
        if "identity" not in answer:
            raise FastLoadError(f"no files were written: {answer}", op="chaos")
        if not self._has_files:
            self.spec.identity = answer["identity"]
            self.ledger = self.ledger.of(answer["identity"])
            self._has_files = True

    def _start_publish(self, node: Node, content: int, settle_s: float = 0.0) -> None:
        if self._has_files:
            node.start("publish_files", directory=str(self._files), settings=self._settings(node))
            return
        node.start(
            "publish",
            identity=self.spec.identity,
            model=self.spec.model,
            framework=self._verdict.parts[node].framework,
            content=self.spec.contents[content],
            settings=self._settings(node),
            settle_s=settle_s,
        )

    def publish(self) -> None:
        """Once more, by the first publisher, on whatever worker there is; an error is no problem."""
        node = self.publishers[0]
        if not node.gone:
            self._start_publish(node, 0)
            self._verdict.publish(node, self._finish(node, PUBLISH_DEADLINE_S), None)

    def start_second_publisher(self, content: int) -> None:
        self._second = content
        self._start_publish(self.publishers[1], content)

    def load(
        self, readers: list[Node], *, allowed: Set[str], during: Fault | None = None, must_fail: bool = False
    ) -> None:
        """Load in each of them at once.

        Args:
            readers: Of this round.
            allowed: Codes that a load may end with.
            during: What strikes meanwhile.
            must_fail: Whether there is nothing to be found.
        """
        readers = [node for node in readers if not node.gone]
        contents = self.spec.contents[: 1 if not self._second else 2]
        for node in readers:
            if self._has_files:
                self._start_read(node)
            else:
                self._start_load(node, contents)
        if during is not None:
            time.sleep(during.delay_s)
            during.strike(self)
        for node in readers:
            self._verdict.load(node, self._finish(node, self.spec.deadline_s), allowed, must_fail=must_fail)

    def _start_load(self, node: Node, contents: list[int]) -> None:
        node.start(
            "load",
            number=self.spec.number,
            identity=self.spec.identity,
            model=self.spec.model,
            framework=self._verdict.parts[node].framework,
            contents=contents,
            settings=self._settings(node),
            deadline_s=self.spec.deadline_s,
        )

    def _start_read(self, node: Node) -> None:
        """By the files, or without them: each reader in its own way."""
        by_files = self.readers.index(node) % 2
        node.start(
            "read_files",
            source=str(self._files) if by_files else self.spec.identity,
            model=self.spec.model,
            framework=self._verdict.parts[node].framework,
            contents=self.spec.contents if by_files else self.spec.contents[:1],  # they may be replaced
            settings=self._settings(node),
            verify=self.verify,
            deadline_s=self.spec.deadline_s,
        )

    def _look_for_late_writes(self) -> None:
        time.sleep(_LATE_S if self._verdict.was_abandoned else _LATE_S / 5)
        for node in self.readers:
            if not node.gone:
                node.start("written")
                self._leaks.judge_written(self.spec, node, self._finish(node, _SILENT_S))

    @property
    def worker(self) -> Worker:
        """The worker of a campaign on one host."""
        assert isinstance(self.workers, LocalWorkers)
        return self.workers.current

    # -- what faults do -------------------------------------------------------------------------------------------

    def device_faults(self, node: Node, line: str) -> None:
        lines = self._device_lines.setdefault(node, [])
        lines.append(line)
        node.faults(*lines)

    def freeze(self, whom: Node | Worker, seconds: float) -> None:
        """Stop a node or the worker for a while."""
        whom.signal(signal.SIGSTOP)
        if isinstance(whom, Node):
            self._verdict.frozen_s[whom] = seconds
        timer = threading.Timer(seconds, whom.signal, [signal.SIGCONT])
        timer.start()
        self._timers.append(timer)

    def kill(self, node: Node) -> None:
        """End a node at once."""
        self._verdict.to_die.add(node)
        node.signal(signal.SIGKILL)

    def thaw(self) -> None:
        """Wait until everybody goes on."""
        for timer in self._timers:
            timer.join()

    def worker_is_gone(self) -> None:
        self._worker_gone = True

    def overwrite(self, *, seen: bool) -> None:
        """Write to what the first publisher has published."""
        node = self.publishers[0]
        node.start("overwrite", identity=self.spec.identity, content=self.spec.contents[1], seen=seen)
        self._finish(node, _SILENT_S)

    def wait_until_gone(self, keys: list[str]) -> None:
        end = time.monotonic() + _SILENT_S
        while any(self.workers.exist(keys)):
            if time.monotonic() > end:
                self._verdict.still_there(keys)
                return
            time.sleep(_POLL_S)

    def close(self, node: Node) -> None:
        node.start("close")
        self._finish(node, _SILENT_S)
