"""Files of which only a sample decided whether weights were exchanged are read whole afterwards, and compared.

Who published tells its sums beside the publication; who pulled compares its own with them. Both read at the lowest
priority of CPU and disk, once a machine, user and state of a file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import psutil

from yr_fastload_native.at_exit import close_all, close_at_exit
from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.vllm import session

if TYPE_CHECKING:
    from yr_fastload_native.publication import Publication
    from yr_fastload_native.vllm.publishing import Source

__all__ = ["WRONG_STATUS", "compare_later", "tell_later", "wait"]

_log = logging.getLogger("vllm.yr_fastload")

WRONG_STATUS = 65  # EX_DATAERR of sysexits.h
_LOWEST_PRIORITY = 19
_END_S = 5.0
_POLL_S = 5.0  # a publisher reads for minutes
_PATIENCE_S = 3600.0
_NAMED = 3


class _StoppedError(Exception):
    pass


class _Afterwards:
    """Work beside an instance that serves; ends when the process does."""

    def __init__(self, work: Callable[[_Afterwards], None]) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,), name="yr-fastload-verify", daemon=True)
        close_at_exit(self)
        _running.append(self)
        self._thread.start()

    def close(self) -> None:
        """Have it end, and wait for that a moment."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_END_S)

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def go_on(self) -> None:
        """Raise once it is to end."""
        if self._stopped.is_set():
            raise _StoppedError

    def pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self.go_on()

    def _run(self, work: Callable[[_Afterwards], None]) -> None:
        try:
            _give_way()
            work(self)
        except _StoppedError:
            pass
        except Exception as error:  # the instance serves all the same
            if not self._stopped.is_set():
                _log.warning("files were not compared whole: %s", error)
        finally:
            _running.remove(self)


_running: list[_Afterwards] = []


def wait(timeout_s: float) -> bool:
    """Wait until nothing is being read or compared any more; whether that came in time."""
    return all(each.join(timeout_s) for each in list(_running))


def _give_way() -> None:
    """Take CPU and disk only while nobody else wants them: this thread, not its process."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, _LOWEST_PRIORITY)
    try:
        psutil.Process(thread).ionice(psutil.IOPRIO_CLASS_IDLE)
    except (psutil.Error, OSError) as error:
        _log.debug("files are read at the usual priority of the disk: %s", error)


def tell_later(source: Source, publication: Publication) -> None:
    """Tell the sums of files that were not known when their weights were published."""
    files = source.files
    if files is None or not files.unknown() or source.settings.exchange.verify_files == "off":
        return

    def tell(thread: _Afterwards) -> None:
        files.read_afterwards(thread.go_on)
        source.fast.tell_files(publication, files.sums)

    _Afterwards(tell)


def compare_later(source: Source, generation: str) -> None:
    """Compare files with those that the weights which were pulled were read from."""
    files = source.files
    if files is None or source.settings.exchange.verify_files == "off":
        return

    def compare(thread: _Afterwards) -> None:
        lost = files.read_afterwards(thread.go_on)
        theirs = _await_sums(source, files, generation, thread)
        wrong = differing(files.sums, theirs)
        if wrong:
            _withdraw(source, generation, wrong)
            return
        compared = sorted(files.sums.keys() & theirs.keys())
        session.record("compared files", {"files": compared, "lost": lost}, source.settings.exchange.report)
        if len(compared) == len(files.files):
            _log.info("the files are those of the weights that were pulled, by the SHA-256 of each")
        else:
            _log.info(
                "%d of %d files were not compared whole: they changed, or the publisher left before it had read them",
                len(files.files) - len(compared),
                len(files.files),
            )

    _Afterwards(compare)


def _await_sums(source: Source, files: ReadFiles, generation: str, thread: _Afterwards) -> Mapping[str, str]:
    """The publisher's sums, as soon as one differs, all are there, or no more will come."""
    ends = time.monotonic() + _PATIENCE_S
    theirs: Mapping[str, str] = {}
    while True:
        try:
            told = source.fast.files(source.identity, generation)
            if told is None:  # it was withdrawn
                return theirs
            theirs = told
        except FastLoadError as error:
            _log.debug("the sums of a publication are asked for again: %s", str(error))
        if differing(files.sums, theirs) or theirs.keys() >= files.sums.keys() or time.monotonic() > ends:
            return theirs
        thread.pause(_POLL_S)


def _withdraw(source: Source, generation: str, wrong: list[str]) -> None:
    """These weights are not those of the files here: say so, and pass them on to nobody."""
    publication = source.fast.publication(source.identity)
    if publication is not None and publication.generation == generation:
        publication.close()
    leaves = source.settings.exchange.on_wrong == "exit"
    _log.critical(
        "WRONG WEIGHTS: %d files here are not those that the weights which were pulled were read from, such as %s: "
        "what this instance answers may not be what its files say. It is no source of them any more%s; started again, "
        "it knows its files and reads them",
        len(wrong),
        ", ".join(wrong[:_NAMED]),
        ", and ends" if leaves else "",
    )
    what: dict[str, Any] = {"files": wrong, "generation": generation, "identity": source.identity}
    session.record("wrong weights", what, source.settings.exchange.report)
    if leaves:
        try:
            close_all()
            logging.shutdown()
        finally:
            os._exit(WRONG_STATUS)
