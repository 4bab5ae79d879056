"""The files of one checkpoint: what identifies them, and whether they have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

import attrs

from yr_fastload_native.checkpoints import known_digests
from yr_fastload_native.checkpoints.file_state import FileState
from yr_fastload_native.checkpoints.sample import Sampled, sample
from yr_fastload_native.checkpoints.sums import digest_of
from yr_fastload_native.checkpoints.weight_files import NamedFile
from yr_fastload_native.checkpoints.whole_file import ChangedError, sum_of
from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["ReadFiles"]

_THREADS = 8
_POLL_S = 0.2
_SETTLES = 15


@attrs.define
class ReadFiles:
    """Files as they were when they were sampled.

    Attributes:
        files: Sorted by name.
        sampled: The sample of each file.
        sums: SHA-256 by name, where known: without reading, or since `read_whole`.
    """

    files: tuple[NamedFile, ...]
    sampled: tuple[Sampled, ...]
    sums: dict[str, str]

    @classmethod
    def of(cls, files: Sequence[NamedFile], *, deadline_s: float) -> ReadFiles:
        """Sample them.

        Raises:
            InvalidArgumentError: One cannot be read.
            TransferTimeoutError: Not done in time.
        """
        files = sorted(files)
        sampled = sample([file.path for file in files], deadline_s=deadline_s)
        sums = {}
        for file, found in zip(files, sampled, strict=True):
            known = found.digest if found.whole else known_digests.remembered(found.state)
            known = known or known_digests.claimed(file.path)
            if known:
                sums[file.name] = known
        return cls(tuple(files), tuple(sampled), sums)

    def fingerprint(self) -> str:
        """The digest of names and samples: the same on every host with the same files, whatever sums it knows."""
        return digest_of([(file.name, found.digest) for file, found in zip(self.files, self.sampled, strict=True)])

    def changed(self, now: Sequence[NamedFile]) -> list[str]:
        """Names of the files that have changed.

        Args:
            now: The files that would be read now.
        """
        before = {file: found.state for file, found in zip(self.files, self.sampled, strict=True)}
        wrong = {file.name for file in before.keys() ^ set(now)}
        wrong |= {file.name for file, state in before.items() if _state(file) != state}
        return sorted(wrong)

    def unknown(self) -> list[tuple[NamedFile, FileState]]:
        """The files whose sum is not known."""
        pairs = zip(self.files, self.sampled, strict=True)
        return [(file, found.state) for file, found in pairs if file.name not in self.sums]

    def read_afterwards(self, go_on: Callable[[], None]) -> list[str]:
        """Read each file whose sum is not known, while no other process of this user reads one.

        Args:
            go_on: Called repeatedly; may raise to stop.

        Returns:
            Names of files that cannot be read or have changed.
        """
        lost = []
        for file, state in self.unknown():
            try:
                self.sums[file.name] = _in_turn(file, state, go_on)
            except (ChangedError, OSError):
                lost.append(file.name)
        return lost

    def read_whole(self) -> str:
        """Read every file whose sum is not known, and return the digest of all names and sums.

        Raises:
            InvalidArgumentError: One cannot be read, or is being written to.
        """
        stopped = threading.Event()

        def go_on() -> None:
            if stopped.is_set():
                raise CancelledError

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="yr-fastload-fingerprint") as pool:
            reading = [(file.name, pool.submit(_sum, file, state, go_on)) for file, state in self.unknown()]
            try:
                for name, digest in reading:
                    self.sums[name] = digest.result()
            finally:
                stopped.set()  # so that an interrupt does not wait for the others
        return digest_of(sorted(self.sums.items()))


def _in_turn(file: NamedFile, state: FileState, go_on: Callable[[], None]) -> str:
    for _ in range(_SETTLES):  # the sum of a file that was only just written could not be remembered
        if state.settled:
            break
        go_on()
        time.sleep(_POLL_S)
    while True:
        go_on()
        with known_digests.one_at_a_time() as mine:
            known = known_digests.remembered(state)
            if known or mine:
                return known or sum_of(file.path, state, go_on)
        time.sleep(_POLL_S)


def _sum(file: NamedFile, state: FileState, go_on: Callable[[], None]) -> str:
    try:
        return sum_of(file.path, state, go_on)
    except ChangedError:
        why = "is being written to; start again when it is whole"
    except OSError as error:
        why = f"cannot be read: {error.strerror}; check its permissions"
    raise InvalidArgumentError(f"{file.path} {why}", op="fingerprint", failed_keys=[str(file.path)])


def _state(file: NamedFile) -> FileState | None:
    try:
        return FileState.of(file.path)
    except OSError:
        return None
