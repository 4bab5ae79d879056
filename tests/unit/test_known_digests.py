"""Sums of files that need not be read, and of those that have to be."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from yr_fastload_native.checkpoints import known_digests, whole_file
from yr_fastload_native.checkpoints.file_state import FileState
from yr_fastload_native.checkpoints.known_digests import claimed, remember, remembered
from yr_fastload_native.checkpoints.page_cache import drop_page_cache
from yr_fastload_native.checkpoints.whole_file import ChangedError, sum_of

SUM = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Forgetful(dict[str, str]):
    def __setitem__(self, key: str, value: str) -> None:
        pass


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was read was read by another process."""
    monkeypatch.setattr(known_digests, "_here", Forgetful())


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass, as the file system's clock has it."""
    real = time.time_ns
    return lambda seconds: monkeypatch.setattr(time, "time_ns", lambda: real() + int(seconds * 1e9))


def in_hub_cache(root: Path, name: str) -> Path:
    """As `hf download` leaves a file: a blob that is named by its sum, and a link to it in a snapshot."""
    blob = root / "models--org--tiny" / "blobs" / name
    link = root / "models--org--tiny" / "snapshots" / "c0ffee" / "model.safetensors"
    blob.parent.mkdir(parents=True)
    link.parent.mkdir(parents=True)
    blob.write_bytes(b"weights")
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def downloaded(root: Path, etag: str, *, later_s: float = 0) -> Path:
    """As `hf download --local-dir` leaves a file."""
    path = root / "model" / "sub" / "model.safetensors"
    beside = root / "model" / ".cache" / "huggingface" / "download" / "sub" / "model.safetensors.metadata"
    path.parent.mkdir(parents=True)
    beside.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    beside.write_text(f"c0ffee\n{etag}\n{time.time() - later_s}\n")
    return path


def test_a_blob_is_named_by_its_sum(tmp_path: Path) -> None:
    assert claimed(in_hub_cache(tmp_path, SUM)) == SUM


def test_gits_own_sums_are_none(tmp_path: Path) -> None:
    assert claimed(in_hub_cache(tmp_path, SUM[:40])) == ""


def test_a_blob_that_was_written_to_in_its_place(tmp_path: Path) -> None:
    link = in_hub_cache(tmp_path, SUM)
    link.resolve().write_bytes(b"others!")
    os.utime(link.resolve(), (time.time() + 5, time.time() + 5))
    assert claimed(link) == ""


def test_what_a_download_wrote_beside_the_file(tmp_path: Path) -> None:
    assert claimed(downloaded(tmp_path, SUM)) == SUM
    assert claimed(downloaded(tmp_path / "git", SUM[:40])) == ""
    assert claimed(downloaded(tmp_path / "edited", SUM, later_s=60)) == ""
    assert claimed(tmp_path / "missing") == ""


@pytest.mark.parametrize("text", ["", "one line", "a\nb\nnot a time\n", "\xff"])
def test_damaged_words_beside_the_file(tmp_path: Path, text: str) -> None:
    path = downloaded(tmp_path, SUM)
    (path.parents[1] / ".cache/huggingface/download/sub/model.safetensors.metadata").write_text(text, "latin-1")
    assert claimed(path) == ""


# -- remembered ----------------------------------------------------------------------------------------------------


def test_a_file_is_read_once(tmp_path: Path, aged: Callable[[float], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    state = FileState.of(path)
    assert remembered(state) == ""
    aged(3)
    assert sum_of(path, state, lambda: None) == SUM
    assert remembered(state) == SUM
    path.write_bytes(b"others!")
    assert remembered(FileState.of(path)) == ""


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    """Another write in the same tick of the clock would leave it in the same state."""
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    assert sum_of(path, FileState.of(path), lambda: None) == SUM
    assert remembered(FileState.of(path)) == ""


def test_what_is_remembered_may_be_damaged(cache: Path, tmp_path: Path) -> None:
    state = FileState.of(tmp_path)
    remember(state, SUM)
    (kept,) = (cache / "yr-fastload" / "sha256").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    kept.write_bytes(b"\xff torn")
    assert remembered(state) == ""
    kept.unlink()
    kept.mkdir()
    assert remembered(state) == ""
    remember(state, SUM)  # cannot be, and does not matter
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_where_nothing_can_be_remembered(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = FileState.of(tmp_path)
    cache.write_bytes(b"a file where the directory should be")
    remember(state, SUM)
    assert remembered(state) == ""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/")
    remember(state, SUM)
    assert remembered(state) == ""
    monkeypatch.setattr(known_digests, "_here", {})
    remember(state, SUM)
    assert remembered(state) == SUM  # by this process itself


def test_what_others_may_write_to_is_not_believed(cache: Path, tmp_path: Path) -> None:
    state = FileState.of(tmp_path)
    remember(state, SUM)
    (cache / "yr-fastload" / "sha256").chmod(0o777)
    assert remembered(state) == ""


def test_the_oldest_are_forgotten(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_digests, "_MOST", 4)
    states = [FileState(0, inode, 0, 0, 0) for inode in range(5)]
    for age, state in enumerate(states):
        remember(state, SUM)
        os.utime(cache / "yr-fastload" / "sha256" / state.key, (age, age))
    assert [bool(remembered(state)) for state in states] == [False, False, False, True, True]


# -- read whole ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, (4 << 20) - 1, (4 << 20) + 5000])
@pytest.mark.parametrize("direct", [True, False], ids=["past the cache", "through the cache"])
def test_the_sum_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool) -> None:
    if not direct:
        monkeypatch.setattr(whole_file, "_open_direct", lambda path: -1)
    data = np.random.default_rng(0).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    drop_page_cache(path)
    assert sum_of(path, FileState.of(path), lambda: None) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("direct", [True, False], ids=["past the cache", "through the cache"])
def test_the_page_cache_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool) -> None:
    if not direct:
        monkeypatch.setattr(whole_file, "_open_direct", lambda path: -1)
    path = tmp_path / "file"
    path.write_bytes(bytes(8 << 20))
    if drop_page_cache(path):
        pytest.skip("this file system keeps its files in memory")
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 64 << 10, 5 << 20)  # somebody uses these
    before = resident(path)
    sum_of(path, FileState.of(path), lambda: None)
    assert 0 < sum(before) < len(before)
    assert resident(path) == before


def resident(path: Path) -> bytes:
    with whole_file._Reader(path, FileState.of(path)) as reader:
        assert reader._mapping is not None
        return whole_file._resident(reader._mapping, 0, path.stat().st_size) or b""


def test_a_file_in_another_state(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    state = FileState.of(path)
    with pytest.raises(ChangedError):
        sum_of(path, state, lambda: path.write_bytes(b"longer than it was") and None)
    with pytest.raises(ChangedError):
        sum_of(path, state, lambda: None)


def test_reading_can_be_ended(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"weights")

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sum_of(path, FileState.of(path), stop)
