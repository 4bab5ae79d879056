"""The template of this machine's servers: made, asked to fork them, and made again."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from yr_fastload_native.process.scratch import Scratch
from yr_fastload_native.service.learned import Learned
from yr_fastload_native.service.processes import ForkedKeeper
from yr_fastload_native.service.template_process import NotForkedError, Request, TemplateProcess
from yr_fastload_native.template.telling import Told

__all__ = ["IMPORT_S", "Template"]

IMPORT_S = 120.0
_END_S = 15.0
_POLL_S = 0.05
_LOOK_S = 1.0  # nobody who asks for the state waits for one that stands still
_ATTEMPTS = 3  # in a row that came to nothing
_LESSONS = 2  # so often one is made anew because more is known of what it should be


class Template:
    """Forks servers from a process that has imported what they need. Its methods may be called from any thread.

    Args:
        scratch: Where its sockets and logs are.
        imports: To begin with.
        environment: In which it imports: that of servers, without what only one of them has.
    """

    def __init__(self, scratch: Scratch, imports: Sequence[str], environment: Mapping[str, str]) -> None:
        self._scratch = scratch
        self._environment = environment
        self._learned = Learned.remembered(tuple(imports))
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._process: TemplateProcess | None = None
        self._next: TemplateProcess | None = None
        self._retired: list[TemplateProcess] = []
        self._attempts = 0
        self._lessons = 0
        self._forked = 0
        self._why: str | None = None
        self._closed = False

    def prepare(self) -> None:
        """Have one made, if there is none; does not wait for it."""
        with self._lock:
            self._take_next()
            process = self._process
            if process is not None and process.ended:
                self._lose(process, process.why())
            if self._process is None and self._attempts < _ATTEMPTS and not self._closed:
                self._process = self._make()

    def fork(self, request: Request) -> ForkedKeeper:
        """A keeper with the server that it keeps.

        Raises:
            NotForkedError: There is none, and it has to be started as ever. Bounded.
        """
        self.prepare()
        process = self._await()
        try:
            process.look()
            keeper = process.fork(request)
        except (OSError, ValueError, KeyError) as error:
            why = f"the template does not answer: {type(error).__name__}: {error}"
            if not self._lose(process, why):
                return self.fork(request)  # another has taken its place meanwhile, which is not without an end
            self.prepare()
            raise NotForkedError(why) from None
        except NotForkedError as error:
            if error.ends:
                self._lose(process, str(error))
                self.prepare()
            raise
        with self._lock:
            self._taken()
        return keeper

    def socket(self) -> str:
        """Where one listens that has imported and answers, for others on this machine that have servers forked.

        Raises:
            NotForkedError: There is none. Bounded.
        """
        self.prepare()
        process = self._await()
        try:
            process.look()
        except (OSError, ValueError) as error:
            why = f"the template does not answer: {type(error).__name__}: {error}"
            self._lose(process, why)
            self.prepare()
            raise NotForkedError(why) from None
        return process.socket

    def tell(self, socket: str, lost: str | None) -> None:
        """Take down what somebody else has found of one that listens there: that it forks, or why it is of no use."""
        with self._lock:
            process = self._process
            if lost is None:
                self._taken()
        if lost is not None and process is not None and process.socket == socket and self._lose(process, lost):
            self.prepare()

    def learn(self, told: Told) -> None:
        """Take in what the processes of a server told, and have another template made if this one knew less."""
        with self._lock:
            known = self._learned
            self._learned = known.with_told(told)
            if self._learned is known:
                return
            self._learned.remember()
            if self._lessons >= _LESSONS or self._closed:
                return
            self._lessons += 1
            if self._next is not None:
                self._retire(self._next)
            self._next = self._make()

    def status(self) -> dict[str, Any]:
        """For `GET /status`."""
        with self._lock:
            self._take_next()
            process = self._process
            if process is not None and process.ended:
                self._lose(process, process.why())
                process = None
            why, forked = self._why, self._forked
        state, facts = "none", {}
        if process is not None:
            state = "ready" if process.ready else "importing"
            with contextlib.suppress(OSError, ValueError):
                facts = process.look(_LOOK_S) if process.ready else {}
        return {
            "state": state,
            "reason": why,
            "pid": facts.get("pid"),
            "modules": facts.get("modules"),
            "import_seconds": facts.get("seconds"),
            "forked": forked,
            **_memory(facts.get("pid")),
        }

    def close(self) -> None:
        """End it, once servers have. Bounded; twice is as once."""
        with self._lock:
            self._closed = True
            for process in (self._process, self._next):
                if process is not None:
                    self._retire(process)
            self._process = self._next = None
            retired, self._retired = self._retired, []
        for process in retired:
            if not process.reaped(_END_S):
                process.kill()

    # -- one after the other ----------------------------------------------------------------------------------------

    def _make(self) -> TemplateProcess | None:
        try:
            return TemplateProcess(next(self._numbers), self._environment, self._learned, self._scratch)
        except OSError as error:
            self._attempts += 1
            self._why = f"the template cannot be started: {error}"
            return None

    def _await(self) -> TemplateProcess:
        ends = time.monotonic() + IMPORT_S
        while True:
            with self._lock:
                process = self._process
                if process is None:
                    raise NotForkedError(self._why or "there is no template")
                if process.ready:
                    return process
                if process.ended:
                    self._lose(process, process.why())
                    raise NotForkedError(process.why())
            if time.monotonic() > ends:
                why = f"the template has not imported within {IMPORT_S:g} s"
                self._lose(process, why)
                raise NotForkedError(why)
            time.sleep(_POLL_S)

    def _taken(self) -> None:
        self._forked += 1
        self._attempts = 0
        self._why = None

    def _take_next(self) -> None:
        following = self._next
        if following is None:
            return
        if following.ready:
            if self._process is not None:
                self._retire(self._process)
            self._process, self._next = following, None
        elif following.ended:
            self._why = following.why()
            self._retire(following)
            self._next = None

    def _lose(self, process: TemplateProcess, why: str) -> bool:
        """Give it up; false if it has been given up before."""
        with self._lock:
            if self._process is not process:
                return False
            self._process = None
            self._attempts += 1
            self._why = why
            self._retire(process)
            return True

    def _retire(self, process: TemplateProcess) -> None:
        process.ask_to_end()
        self._retired = [each for each in [*self._retired, process] if not each.reaped()]


def _memory(pid: int | None) -> dict[str, int | None]:
    """Of a process, bytes: what it alone has, and what it shares with processes that it has forked and with files."""
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(pid).memory_full_info()
            return {"private_bytes": found.uss, "shared_bytes": found.rss - found.uss}
    return {"private_bytes": None, "shared_bytes": None}
