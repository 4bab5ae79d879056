"""One round: who publishes, who reads, what strikes when, and whether it ended as it may."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Set
from pathlib import Path

from herd import DeadError, Node, SilentError, Workers
from schedule import CONNECT_S, PUBLISH_DEADLINE_S, Part, Round
from watch import Ledger, Watch

_SPARE_S = 1.0  # "within the deadline plus one second"
# A loader that cannot connect gives up after its timeout, and gives its client a second or two to end.
_CONNECT_SPARE_S = 4.0
_SILENT_S = 20.0
_LATE_S = 0.5  # what was abandoned has so long to write, once whoever was frozen goes on
_STARVED_S = 0.3
_SLOWED_S = (0.2, 1.0)


class Stage:
    """What a fault may do to a round."""

    def __init__(self, spec: Round, workers: Workers, watch: Watch, room: Path) -> None:
        self.spec = spec
        self.workers = workers
        self.ledger = Ledger(room / "ledger", spec.identity)
        self._watch, self._tally, self._pulse = watch, watch.tally, watch.pulse
        self.nodes: list[Node] = []
        self.publishers: list[Node] = []
        self.readers: list[Node] = []
        self._parts: dict[Node, Part] = {}
        self._second: int | None = None
        self._device_lines: dict[Node, list[str]] = {}
        self._frozen_s: dict[object, float] = {}
        self._timers: list[threading.Timer] = []
        self._worker_gone = False
        self._abandoned = False  # whether a transfer between devices may have been

    # -- the course -----------------------------------------------------------------------------------------------

    def run(self, fault) -> None:
        """Publish, load, and strike at the moment that was drawn."""
        spec = self.spec
        self.publishers = [self._take(spec.publishers[0])]
        self.readers = [self._take(part) for part in spec.readers]
        if spec.kind == "two.publishers":
            self.publishers.append(self._take(spec.publishers[1]))
        self._slow_down(fault)
        if spec.connects_first:
            for node in self.nodes:
                node.start("open", settings=self._settings(node))
            for node in self.nodes:
                self._judge_connection(node, self._finish(node, CONNECT_S + _CONNECT_SPARE_S), fault)
        fault.before(self)
        self.workers.current.calm()
        self._start_publish(self.publishers[0], 0, fault.settle_s)
        if fault.moment == "publishing":
            time.sleep(fault.delay_s)
            fault.strike(self)
        self._finish_publishes(fault)
        if fault.moment == "published":
            fault.strike(self)
        self.load(self.readers, allowed=fault.allowed, during=fault if fault.moment == "loading" else None)
        fault.lift(self)
        if spec.again and not self._worker_gone:
            self.load(self.readers[-1:], allowed=fault.allowed)
        fault.after(self)
        self._look_for_late_writes(_LATE_S if self._abandoned else _LATE_S / 5)
        self._close(fault)

    def abandon(self) -> None:
        """End everybody, and go on with another worker."""
        self.thaw()
        for node in self.nodes:
            node.busy = False
            if not node.gone:
                node.end()
        self.workers.replace()

    def _take(self, part: Part) -> Node:
        node = self._watch.idle()
        node.busy = True
        self.nodes.append(node)
        self._parts[node] = part
        return node

    def _settings(self, node: Node) -> dict:
        return {**self._parts[node].settings, "worker": self.workers.current.address}

    def _slow_down(self, fault) -> None:
        """Between devices a load of a few MiB takes as long as a host's memory does; give the fault time to meet it."""
        if "d2d" in self.spec.publish_as and fault.slow and fault.moment == "loading":
            seconds = fault.rng.uniform(*_SLOWED_S)
            gbps = max(0.001, self.spec.model["size"] * 8 / 1e9 / seconds)
            self.device_faults(self.publishers[0], f"link:gbps={gbps:.4f}")

    def _finish(self, node: Node, bound_s: float) -> dict:
        """Its answer; `dead` or `silent` if there is none."""
        if node.gone:
            return {"dead": True}
        try:
            return node.finish(bound_s + self._frozen_s.get(node, 0.0) + _SILENT_S)
        except DeadError:
            return {"dead": True}
        except SilentError as silent:
            self._tally.stall(self.spec, f"no answer of {silent}")
            node.end()
            return {"silent": True}

    def _late_s(self, node: Node, answer: dict, bound_s: float) -> float:
        """How long after its bound a call came back, without the time in which it, or everybody, stood still."""
        now = time.monotonic()
        still_s = self._frozen_s.get(node, 0.0) + self._pulse.lag(now - answer["seconds"], now)
        return answer["seconds"] - bound_s - still_s

    def _starved(self, answer: dict) -> bool:
        """Whether the machine stood still for so long that times which suffice otherwise did not."""
        now = time.monotonic()
        return self._pulse.lag(now - answer["seconds"], now) > _STARVED_S

    # -- publishing -----------------------------------------------------------------------------------------------

    def _start_publish(self, node: Node, content: int, settle_s: float = 0.0) -> None:
        part = self._parts[node]
        node.start(
            "publish",
            identity=self.spec.identity,
            model=self.spec.model,
            framework=part.framework,
            content=self.spec.contents[content],
            settings=self._settings(node),
            settle_s=settle_s,
        )

    def publish(self) -> None:
        """Once more, by the first publisher, on whatever worker there is; an error is no problem."""
        node = self.publishers[0]
        if not node.gone:
            self._start_publish(node, 0)
            self._judge_publish(node, self._finish(node, PUBLISH_DEADLINE_S), None)

    def start_second_publisher(self, content: int) -> None:
        self._second = content
        self._start_publish(self.publishers[1], content)

    def _finish_publishes(self, fault) -> None:
        for node in self.publishers[: 1 if self._second is None else 2]:
            self._judge_publish(node, self._finish(node, PUBLISH_DEADLINE_S), fault)

    def _judge_connection(self, node: Node, answer: dict, fault) -> None:
        if "unexpected" in answer:
            self._tally.surprise(self.spec, f"{node.name}: {answer['unexpected']}")
        elif "seconds" in answer and self._late_s(node, answer, CONNECT_S) > _CONNECT_SPARE_S:
            self._tally.stall(self.spec, f"{node.name} took {answer['seconds']:.2f} s to connect")

    def _judge_publish(self, node: Node, answer: dict, fault) -> None:
        allowed = fault.publish_allowed if fault is not None else None
        if "dead" in answer or "silent" in answer:
            self._judge_death(node, answer)
        elif "unexpected" in answer:
            self._tally.surprise(self.spec, f"publish by {node.name}: {answer['unexpected']}\n{node.tail()}")
        elif answer.get("connecting"):
            self._judge_connection(node, answer, fault)
        else:
            if self._late_s(node, answer, PUBLISH_DEADLINE_S) > _SPARE_S:
                self._tally.stall(self.spec, f"publish by {node.name} took {answer['seconds']:.2f} s: {answer}")
            if (
                "error" in answer
                and allowed is not None
                and answer["error"] not in allowed
                and not self._starved(answer)
            ):
                self._tally.surprise(self.spec, f"publish by {node.name}: {answer}\n{node.tail()}")

    def _judge_death(self, node: Node, answer: dict) -> None:
        if "dead" in answer and node not in self._to_die:
            self._tally.surprise(self.spec, f"{node.name} died\n{node.tail()}")

    @property
    def _to_die(self) -> set[Node]:
        """Whom this round's fault ends."""
        targets = {"publisher": self.publishers[:1], "reader": self.readers[:1]}
        who, _, how = self.spec.kind.partition(".")
        return set(targets.get(who, [])) if how in ("sigkill", "sigterm") else set()

    # -- loading --------------------------------------------------------------------------------------------------

    def load(self, readers: list[Node], *, allowed: Set[str], during=None, must_fail: bool = False) -> None:
        """Load in each of them at once; ``during`` is the fault that strikes meanwhile."""
        readers = [node for node in readers if not node.gone]
        contents = self.spec.contents[: 1 if not self._second else 2]
        for node in readers:
            part = self._parts[node]
            node.start(
                "load",
                number=self.spec.number,
                identity=self.spec.identity,
                model=self.spec.model,
                framework=part.framework,
                contents=contents,
                settings=self._settings(node),
                deadline_s=self.spec.deadline_s,
            )
        if during is not None:
            time.sleep(during.delay_s)
            during.strike(self)
        for node in readers:
            self._judge_load(node, self._finish(node, self.spec.deadline_s), allowed, must_fail)

    def _judge_load(self, node: Node, answer: dict, allowed: Set[str], must_fail: bool) -> None:
        spec, tally = self.spec, self._tally
        if "dead" in answer or "silent" in answer:
            tally.loaded(spec, "ended with its process", 0, 0)
            return self._judge_death(node, answer)
        if "unexpected" in answer:
            return tally.surprise(spec, f"load by {node.name}: {answer['unexpected']}\n{node.tail()}")
        if answer.get("connecting"):
            tally.loaded(spec, f"{answer['error']} connecting", 0, 0)
            return self._judge_connection(node, answer, None)
        late_s = self._late_s(node, answer, spec.deadline_s)
        if late_s > _SPARE_S:
            tally.stall(spec, f"load by {node.name} took {answer['seconds']:.2f} s: {answer}\n{node.tail()}")
        if answer.get("wrong"):
            tally.wrong(spec, answer["wrong"], f"load by {node.name}: {answer}\n{node.tail()}")
        if "d2d" in spec.publish_as and (answer.get("retried") or answer.get("memory_written")):
            self._abandoned = True
        if "error" in answer:
            tally.loaded(spec, answer["error"], 0, late_s)
            if answer["error"] not in allowed and not self._starved(answer):
                tally.surprise(spec, f"load by {node.name}: {answer}\n{node.tail()}")
        else:
            tally.loaded(spec, "loaded", 0 if answer["wrong"] else answer["bytes"], late_s)
            if must_fail:
                tally.surprise(spec, f"load by {node.name} found what was gone: {answer}")
        return None

    def _look_for_late_writes(self, patience_s: float) -> None:
        time.sleep(patience_s)
        for node in self.readers:
            if node.gone:
                continue
            node.start("watch")
            self._watch.judge_written(self.spec, node, self._finish(node, _SILENT_S))

    # -- what faults do -------------------------------------------------------------------------------------------

    def device_faults(self, node: Node, line: str) -> None:
        lines = self._device_lines.setdefault(node, [])
        lines.append(line)
        node.faults(*lines)

    def freeze(self, whom, seconds: float) -> None:
        """Stop a node or the worker for a while."""
        whom.signal(signal.SIGSTOP)
        if isinstance(whom, Node):
            self._frozen_s[whom] = seconds
        timer = threading.Timer(seconds, whom.signal, [signal.SIGCONT])
        timer.start()
        self._timers.append(timer)

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
        while any(self.workers.current.store.exist(keys, deadline_s=5)):
            if time.monotonic() > end:
                self._tally.surprise(self.spec, f"{keys} are still there, long after they have expired")
                return
            time.sleep(0.05)

    def close(self, node: Node) -> None:
        node.start("close")
        self._finish(node, _SILENT_S)

    def _close(self, fault) -> None:
        for node in self.nodes:
            node.busy = False
            if node in self._to_die:
                self._await_death(node)
            if not node.gone:
                node.faults()
                self._watch.close(self.spec, node)
        self._watch.expect_gone(self.spec, self.ledger.keys(), self.nodes, clean=fault.clean)
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
            self._tally.stall(self.spec, f"outlives its signal: {silent}")
            node.end()
