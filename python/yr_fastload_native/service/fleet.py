"""The instances of one model: starting, watching, restarting and stopping them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import attrs

from yr_fastload_native.errors import FastLoadError, InvalidArgumentError, ResourceExhaustedError
from yr_fastload_native.service.changes import Changes
from yr_fastload_native.service.connection import Connection
from yr_fastload_native.service.instance import Instance
from yr_fastload_native.service.launcher import Launched, Launcher, Order
from yr_fastload_native.service.weights_origin import origin_of

__all__ = ["Fleet", "Limits"]

_T = TypeVar("_T")


@attrs.frozen
class Limits:
    """Limits of a fleet; times are in seconds.

    Attributes:
        instances: Largest number at a time.
        start_s: From launch to ready.
        drain_s: How long an instance that is to stop may finish requests in flight.
        health_s: For the answer to a health check.
        unwell: Number of failed health checks in a row after which an instance is restarted.
        restarts: Number of restarts in a row, without becoming ready, after which it stays failed.
        backoff_s: Pause before the first restart, doubled for each further one.
        most_backoff_s: Longest pause.
    """

    instances: int = 8
    start_s: float = 900.0
    drain_s: float = 30.0
    health_s: float = 10.0
    unwell: int = 3
    restarts: int = 4
    backoff_s: float = 1.0
    most_backoff_s: float = 60.0


_POLL_S = 0.25
_STARTING_POLL_S = 0.05  # a start from a template takes a second or two
_HEALTH_EVERY_S = 5.0


class Fleet:
    """Instances of one model behind one launcher.

    Call its methods on one event loop.

    Args:
        launcher: Starts servers.
        order: Creates the order for an instance with this name.
        limits: Of the fleet.
    """

    def __init__(self, launcher: Launcher, order: Callable[[str], Order], limits: Limits) -> None:
        self._launcher = launcher
        self._order = order
        self._limits = limits
        self._numbers = itertools.count(1)
        self._turn = itertools.count()
        self.instances: dict[str, Instance] = {}
        self.cold_s: float | None = None  # time to load the weights in the last instance that read them from disk
        self.changes = Changes(limits.start_s)
        # Launchers block. Each instance waits for one call at a time, and never for another instance's.
        self._threads = ThreadPoolExecutor(limits.instances, thread_name_prefix="launcher")

    # -- scaling ----------------------------------------------------------------------------------------------------

    def scale_out(self, count: int = 1) -> list[str]:
        """Start some instances; returns their names at once.

        Raises:
            InvalidArgumentError: ``count`` is less than 1.
            ResourceExhaustedError: There would be too many; none is started.
        """
        if count < 1:
            raise InvalidArgumentError(f"count={count}: must be a number from 1", op="scaleout")
        room = self._limits.instances - len(self.instances)
        if count > room:
            raise ResourceExhaustedError(
                f"{count} more would be {len(self.instances) + count} instances and {self._limits.instances} are "
                "allowed; see --max-instances, or scale in first",
                op="scaleout",
            )
        return [self._add().name for _ in range(count)]

    def _add(self) -> Instance:
        instance = Instance(f"instance-{next(self._numbers)}")
        self.instances[instance.name] = instance
        instance.task = asyncio.create_task(self._run(instance), name=instance.name)
        return instance

    def scale_in(self, count: int = 1, names: Sequence[str] = ()) -> list[str]:
        """Stop some once they are idle; returns their names at once. By default those that do least, latest first.

        Raises:
            InvalidArgumentError: There is no such instance, or there are not that many; none is stopped.
        """
        staying = [each for each in self.instances.values() if not each.leave.is_set()]
        unknown = sorted(set(names) - {each.name for each in staying})
        if unknown:
            raise InvalidArgumentError(
                f"there is no instance {unknown[0]!r} to stop; there are {', '.join(self.instances) or 'none'}",
                op="scalein",
            )
        if not names and not 1 <= count <= len(staying):
            raise InvalidArgumentError(f"count={count}: must be a number from 1 to {len(staying)}", op="scalein")
        worth = {"failed": 0, "starting": 1, "loading": 2, "ready": 3}
        latest_first = list(reversed(staying))
        order = sorted(latest_first, key=lambda each: worth.get(each.state, 0))
        leaving = [each for each in staying if each.name in names] if names else order[:count]
        for instance in leaving:
            instance.leave.set()
            if instance.state == "ready":
                instance.state = "stopping"
        return [each.name for each in leaving]

    async def close(self) -> None:
        """Stop all instances, each once it is idle, within a time limit."""
        tasks = [each.task for each in self.instances.values() if each.task is not None]
        for instance in self.instances.values():
            instance.leave.set()
        if tasks:
            await asyncio.wait(tasks)
        await self._blocking(self._launcher.close)
        self._threads.shutdown(wait=False)

    async def template(self) -> dict[str, Any] | None:
        """The state of what its servers are forked from."""
        return await asyncio.to_thread(self._launcher.template)  # also while all the others wait for it

    async def prepare(self) -> None:
        """Get ready to start instances, without waiting for it."""
        await asyncio.to_thread(self._launcher.prepare, self._order("template"))

    async def _blocking(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    # -- serving ---------------------------------------------------------------------------------------------------

    def ready(self) -> list[Instance]:
        """The instances that serve."""
        return [each for each in self.instances.values() if each.state == "ready"]

    def pick(self, but: set[str]) -> Instance | None:
        """The next ready instance in turn, except those in ``but``; None if there is none."""
        ready = [each for each in self.ready() if each.name not in but]
        return ready[next(self._turn) % len(ready)] if ready else None

    # -- life of an instance---------------------------------------------------------------------------------------

    async def _run(self, instance: Instance) -> None:
        """Start, watch and restart an instance until it is told to leave."""
        in_a_row = 0
        try:
            while not instance.leave.is_set():
                instance.state = "starting"
                was_ready, instance.error = await self._live(instance)
                if instance.leave.is_set():
                    break
                in_a_row = 0 if was_ready else in_a_row + 1
                instance.state = "failed"
                if in_a_row > self._limits.restarts:
                    await instance.leave.wait()
                    break
                instance.restarts += 1
                pause = min(self._limits.most_backoff_s, self._limits.backoff_s * 2 ** max(0, in_a_row - 1))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(instance.leave.wait(), pause)
        finally:
            self.instances.pop(instance.name, None)

    async def _live(self, instance: Instance) -> tuple[bool, str | None]:
        """Run one start to its end. Returns whether it was ever ready, and what went wrong."""
        instance.load = instance.ready_s = instance.broken = None
        instance.phases = []
        started = time.monotonic()
        try:
            instance.launched = await self._blocking(self._launcher.launch, self._order(instance.name))
        except FastLoadError as error:
            return False, str(error)
        instance.connection = connection = Connection(instance.launched)
        try:
            wrong = await self._until_ready(instance, instance.launched, started)
            if wrong is not None or instance.leave.is_set():
                return False, wrong
            async with self.changes.lock:  # so that it misses no change
                wrong = await self.changes.catch_up(connection)
                if wrong is not None or instance.leave.is_set():
                    return False, wrong
                instance.ready_s = time.monotonic() - started
                instance.phases = await self._blocking(instance.launched.is_ready)
                instance.state = "ready"
                instance.error = None
            return True, await self._until_unwell(instance, instance.launched)
        finally:
            launched = instance.launched
            if instance.leave.is_set():
                instance.state = "stopping"
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(instance.idle.wait(), self._limits.drain_s)
            else:
                instance.state = "failed"  # so that no request goes there while it stops
            await connection.close()  # first, because a server waits for its connections to end, with TLS for long
            await self._blocking(launched.stop)
            instance.launched = instance.connection = None

    async def _until_ready(self, instance: Instance, launched: Launched, started: float) -> str | None:
        while not instance.leave.is_set():
            how = await self._blocking(launched.ended)
            if how is not None:
                return how
            await self._look(instance, launched)
            if await self._is_well(instance):
                await self._look(instance, launched)
                return None
            if time.monotonic() - started > self._limits.start_s:
                said = instance.connection.said if instance.connection else ""
                return f"not ready within {self._limits.start_s:g} s, last answer: {said}; see --start-timeout"
            await self._pause(instance, _STARTING_POLL_S)
        return None

    async def _until_unwell(self, instance: Instance, launched: Launched) -> str | None:
        unanswered, asked = 0, time.monotonic()
        while not instance.leave.is_set():
            how = await self._blocking(launched.ended)
            if how is not None:
                return how
            if instance.broken is not None:
                return instance.broken
            if time.monotonic() - asked > _HEALTH_EVERY_S:
                unanswered = 0 if await self._is_well(instance) else unanswered + 1
                asked = time.monotonic()
                await self._look(instance, launched)
            if unanswered >= self._limits.unwell:
                return f"failed {unanswered} health checks in a row"
            await self._pause(instance, _POLL_S)
        return None

    async def _look(self, instance: Instance, launched: Launched) -> None:
        """Process what its ranks reported."""
        events = await self._blocking(launched.events)
        instance.load = origin_of(events)
        if instance.state == "starting" and any(each["event"] == "loading" for each in events):
            instance.state = "loading"
        if instance.load is not None and instance.load.source == "disk":
            self.cold_s = instance.load.seconds

    async def _is_well(self, instance: Instance) -> bool:
        return instance.connection is not None and await instance.connection.is_well(self._limits.health_s)

    @staticmethod
    async def _pause(instance: Instance, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(instance.leave.wait(), seconds)
