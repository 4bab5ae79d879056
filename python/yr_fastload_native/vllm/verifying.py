"""Files that were only sampled before weights were exchanged are read completely afterwards, and compared.

A publisher announces its sums beside the publication, and a reader compares its own with them. Both read at the lowest
CPU and disk priority, once per machine, user and state of a file.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.process.at_exit import close_all
from yr_fastload_native.vllm import session
from yr_fastload_native.vllm.background import Background, Thread

if TYPE_CHECKING:
    from yr_fastload_native.publishing.publication import Publication
    from yr_fastload_native.vllm.publishing import Source

__all__ = ["WRONG_STATUS", "compare_later", "tell_later", "wait"]

_log = logging.getLogger("vllm.yr_fastload")

WRONG_STATUS = 65  # EX_DATAERR of sysexits.h
_END_S = 5.0
_POLL_S = 5.0  # a publisher reads for minutes
_PATIENCE_S = 3600.0
_NAMED = 3


_afterwards = Background("yr-fastload-verify")
wait = _afterwards.wait  # until nothing is being read or compared any more


def _failed(error: Exception) -> None:
    _log.warning("files were not compared whole: %s", error)


def tell_later(source: Source, publication: Publication) -> None:
    """Announce the sums of files that were not known when their weights were published."""
    files = source.files
    if files is None or not files.unknown() or source.settings.exchange.verify_files == "off":
        return

    def tell(thread: Thread) -> None:
        files.read_afterwards(thread.go_on)
        source.fast.tell_files(publication, files.sums)

    _afterwards.start(tell, _failed, end_s=_END_S)


def compare_later(source: Source, generation: str) -> None:
    """Compare files with those that the pulled weights came from."""
    files = source.files
    if files is None or source.settings.exchange.verify_files == "off":
        return

    def compare(thread: Thread) -> None:
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

    _afterwards.start(compare, _failed, end_s=_END_S)


def _await_sums(source: Source, files: ReadFiles, generation: str, thread: Thread) -> Mapping[str, str]:
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
    """Report that these weights are not those of the local files, and stop being a source of them."""
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
