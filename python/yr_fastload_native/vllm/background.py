"""Work beside an instance that starts or serves: threads that end when the process does."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import psutil

from yr_fastload_native.process.at_exit import close_at_exit

__all__ = ["Background", "Thread"]

_log = logging.getLogger("vllm.yr_fastload")

_LOWEST_PRIORITY = 19


class _StoppedError(Exception):
    pass


class Background:
    """The threads of one purpose.

    Args:
        name: Of each of them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: list[Thread] = []

    def start(
        self,
        work: Callable[[Thread], None],
        failed: Callable[[Exception], None],
        *,
        end_s: float,
        gives_way: bool = True,
    ) -> None:
        """Begin to work.

        Args:
            work: Calls `Thread.go_on` again and again.
            failed: Called with what the work raised, unless it was to end: the instance serves all the same.
            end_s: How long the end of the process waits for it.
            gives_way: Whether everybody else has the CPU and the disk first.
        """

        def run() -> None:
            try:
                if gives_way:
                    _give_way()
                work(thread)
            except _StoppedError:
                pass
            except Exception as error:
                if not thread.is_to_end:
                    failed(error)
            finally:
                self._running.remove(thread)

        thread = Thread(run, self._name, end_s)
        self._running.append(thread)
        thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until none of them works any more; whether that came in time."""
        end = time.monotonic() + timeout_s
        return all(thread.join(max(0.0, end - time.monotonic())) for thread in list(self._running))


class Thread:
    """What works, as its work sees it."""

    def __init__(self, run: Callable[[], None], name: str, end_s: float) -> None:
        self._end_s = end_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=run, name=name, daemon=True)

    def start(self) -> None:
        close_at_exit(self)
        self._thread.start()

    @property
    def is_to_end(self) -> bool:
        return self._stopped.is_set()

    def go_on(self, *_: object) -> None:
        """Raise once it is to end. Does for a callback of progress too."""
        if self.is_to_end:
            raise _StoppedError

    def pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self.go_on()

    def join(self, timeout_s: float) -> bool:
        """Whether it has ended by then."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Have it end, and wait for that a while."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(self._end_s)


def _give_way() -> None:
    """Take CPU and disk only while nobody else wants them: this thread, not its process."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, _LOWEST_PRIORITY)
    try:
        psutil.Process(thread).ionice(psutil.IOPRIO_CLASS_IDLE)
    except (psutil.Error, OSError) as error:
        _log.debug("the disk is used at the usual priority: %s", error)
