"""What identifies a checkpoint's files: the same for the same files, another one for other weights."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from yr_fastload_native.checkpoints import sample as sampling
from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.checkpoints.weight_files import INDEXES, named, weight_files
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError, TransferTimeoutError


def checkpoint(directory: Path, seed: int = 0, tensors: int = 20, shards: int = 2) -> Path:
    directory.mkdir()
    random = np.random.default_rng(seed)
    for shard in range(shards):
        arrays = {f"layer.{shard}.{i}.weight": random.random((64, 32), np.float32) for i in range(tensors)}
        save_file(arrays, directory / f"model-{shard}.safetensors")
    return directory


def read(directory: Path) -> ReadFiles:
    return ReadFiles.of(named(weight_files(directory), directory), deadline_s=30)


def of(directory: Path) -> str:
    return read(directory).fingerprint()


def write_index(directory: Path, *shards: str, name: str = INDEXES[0]) -> None:
    (directory / name).write_text(json.dumps({"weight_map": {f"t{i}": shard for i, shard in enumerate(shards)}}))


@pytest.fixture
def only_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of large files: no file is read whole for being small."""
    monkeypatch.setattr(sampling, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(sampling, "_LEAST_WHOLE_BYTES", 64)


def test_the_same_files_elsewhere_have_the_same(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "a")
    shutil.copytree(first, tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "b" / "config.json").write_text("{}")
    assert of(first) == of(tmp_path / "b")


def test_weights_of_the_same_shapes_differ(tmp_path: Path) -> None:
    assert of(checkpoint(tmp_path / "a", seed=1)) != of(checkpoint(tmp_path / "b", seed=2))


@pytest.mark.usefixtures("only_samples")
@pytest.mark.parametrize("where", ["first rows", "last rows", "a column"])
def test_a_tensor_of_which_little_was_trained_is_seen(tmp_path: Path, where: str) -> None:
    random = np.random.default_rng(0)
    embedding = random.random((2000, 512), np.float32)
    arrays = {"embed": embedding, "norm": random.random(512, np.float32), "head": random.random((2000, 512))}
    save_file(arrays, tmp_path / "model.safetensors")
    before = of(tmp_path)
    part = {"first rows": np.s_[:100], "last rows": np.s_[-3:], "a column": np.s_[:, 5]}[where]
    embedding[part] += 1
    save_file(arrays, tmp_path / "model.safetensors")
    assert of(tmp_path) != before


@pytest.mark.usefixtures("only_samples")
@pytest.mark.parametrize("changed", range(0, 900, 90))
def test_every_tensor_is_looked_at(tmp_path: Path, changed: int) -> None:
    directory = checkpoint(tmp_path / "a", tensors=900, shards=1)
    before = of(directory)
    path = directory / "model-0.safetensors"
    data = bytearray(path.read_bytes())
    start = len(data) - 900 * 64 * 32 * 4 + changed * 64 * 32 * 4
    data[start : start + 64 * 32 * 4] = bytes(64 * 32 * 4)
    path.write_bytes(data)
    assert of(directory) != before


def test_a_renamed_shard_is_seen(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a")
    before = of(directory)
    (directory / "model-1.safetensors").rename(directory / "model-2.safetensors")
    assert of(directory) != before


@pytest.mark.parametrize("suffix", ["bin", "pt", "gguf"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(3 << 20))
    before = of(tmp_path)
    assert weight_files(path) == [path]  # a file may be named itself
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert of(tmp_path) != before


@pytest.mark.usefixtures("only_samples")
def test_an_archive_tells_by_the_checksums_at_its_end(tmp_path: Path) -> None:
    """Whatever byte of whatever tensor differs."""
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(1 << 20)
    torch.save({"weight": tensor}, tmp_path / "model.pt")
    before = of(tmp_path)
    tensor[123_457] = 1
    torch.save({"weight": tensor}, tmp_path / "model.pt")
    assert of(tmp_path) != before


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="fingerprint to a text") as caught:
        weight_files(tmp_path)
    assert caught.value.failed_keys == (str(tmp_path),)


# -- which files -------------------------------------------------------------------------------------------------


def test_an_index_picks_the_files(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a", shards=2)
    write_index(directory, "model-0.safetensors")
    (directory / "model-1.safetensors").write_bytes(b"torn")  # nobody reads it
    assert [path.name for path in weight_files(directory)] == ["model-0.safetensors", INDEXES[0]]
    before = of(directory)
    (directory / "model-9.safetensors").write_bytes(b"torn too")
    assert of(directory) == before


def test_an_index_that_points_elsewhere_is_another_checkpoint(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a", shards=2)
    write_index(directory, "model-0.safetensors")
    before = of(directory)
    write_index(directory, "model-1.safetensors")
    assert of(directory) != before


def test_which_file_has_a_tensor_counts(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a", shards=2)
    write_index(directory, "model-0.safetensors", "model-1.safetensors")
    before = of(directory)
    write_index(directory, "model-1.safetensors", "model-0.safetensors")
    assert of(directory) != before


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"weight_map": 3}', b'{"weight_map": {"t": "gone.safetensors"}}'])
def test_an_index_that_makes_no_sense(tmp_path: Path, text: bytes) -> None:
    directory = checkpoint(tmp_path / "a")
    (directory / INDEXES[0]).write_bytes(text)
    with pytest.raises(IntegrityError, match="fetch the checkpoint again"):
        weight_files(directory)


def test_mistrals_own_files_come_first(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a", shards=1)
    for name in ("consolidated-0.safetensors", "consolidated-1.safetensors"):
        shutil.copy(directory / "model-0.safetensors", directory / name)
    assert [path.name for path in weight_files(directory)] == [
        "consolidated-0.safetensors",
        "consolidated-1.safetensors",
    ]
    write_index(directory, "consolidated-1.safetensors", name=INDEXES[1])
    assert [path.name for path in weight_files(directory)] == ["consolidated-1.safetensors", INDEXES[1]]


def test_what_a_trainer_keeps_is_no_weights(tmp_path: Path) -> None:
    for name in ("optimizer.bin", "pytorch_model.bin", "training_args.bin"):
        (tmp_path / name).write_bytes(name.encode())
    assert [path.name for path in weight_files(tmp_path)] == ["pytorch_model.bin"]


@pytest.mark.usefixtures("only_samples")
@pytest.mark.parametrize("damage", ["dtype", "offsets", "fractions", "header", "end"])
def test_what_a_file_means_is_not_judged(tmp_path: Path, damage: str) -> None:
    """Whether it can be loaded is for who loads it to say."""
    directory = checkpoint(tmp_path / "a", shards=1)
    path = directory / "model-0.safetensors"
    data = path.read_bytes()
    damaged = {
        "dtype": data.replace(b'"F32"', b'"F4"  ', 1),
        "offsets": data.replace(b'"data_offsets":[0,', b'"data_offsets":[-,', 1),
        "fractions": data.replace(b'"data_offsets":[0,8192]', b'"data_offsets":[0.5,99]', 1),
        "header": b"\xff" * 8 + data[8:],
        "end": data[:-1],
    }[damage]
    assert damaged != data
    before = of(directory)
    path.write_bytes(damaged)
    assert of(directory) != before


# -- at what price -------------------------------------------------------------------------------------------------


class SlowReads:
    """Stands for ``os.pread`` of a file system that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.count = self.bytes = self.most_at_once = 0
        self._seconds, self._at_once, self._lock, self._real = seconds, 0, threading.Lock(), os.pread

    def __call__(self, descriptor: int, count: int, offset: int) -> bytes:
        with self._lock:
            self.count += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self._seconds)
        try:
            data = self._real(descriptor, count, offset)
        finally:
            with self._lock:
                self._at_once -= 1
                self.bytes += count
        return data


def nothing_in_memory(*_: object) -> int:
    """Stands for ``os.preadv`` without waiting."""
    raise BlockingIOError(errno.EAGAIN, "nothing is in memory")


def test_a_small_file_is_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint(tmp_path / "a", tensors=400, shards=1)
    monkeypatch.setattr(os, "pread", reads := SlowReads(0))
    assert read(directory).sums.keys() == {"model-0.safetensors"}  # and its sum is known
    assert reads.count == 1


@pytest.mark.usefixtures("only_samples")
def test_the_inside_of_one_file_is_read_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({f"t{i}": np.zeros((1 << 20), np.uint8) for i in range(40)}, tmp_path / "model.safetensors")
    in_memory = of(tmp_path)
    monkeypatch.setattr(os, "preadv", nothing_in_memory)
    monkeypatch.setattr(os, "pread", reads := SlowReads(0.001))
    assert of(tmp_path) == in_memory
    assert reads.most_at_once > 16
    assert reads.bytes < 4 << 20
    assert reads.count < 700


@pytest.mark.usefixtures("only_samples")
def test_a_file_system_that_is_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint(tmp_path / "a", tensors=900, shards=1)
    monkeypatch.setattr(os, "preadv", nothing_in_memory)
    monkeypatch.setattr(os, "pread", SlowReads(0.02))
    with pytest.raises(TransferTimeoutError, match="file system is slow"):
        ReadFiles.of(named(weight_files(directory), directory), deadline_s=0.01)
    assert not [thread for thread in threading.enumerate() if "fingerprint" in thread.name]


# -- what changes --------------------------------------------------------------------------------------------------


def test_what_changed_since(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a", shards=3)

    def files() -> list[Path]:
        return weight_files(directory)

    before = read(directory)
    assert before.changed(named(files(), directory)) == []
    other = directory / "new"
    other.write_bytes((directory / "model-0.safetensors").read_bytes())  # the same bytes: nobody would know
    other.replace(directory / "model-0.safetensors")
    assert before.changed(named(files(), directory)) == ["model-0.safetensors"]
    (directory / "model-1.safetensors").unlink()
    (directory / "model-3.safetensors").write_bytes(b"")
    assert before.changed(named(files(), directory)) == [f"model-{i}.safetensors" for i in (0, 1, 3)]


@pytest.mark.usefixtures("only_samples")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_can_differ_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Another fingerprint at once, or another sum once both files were read whole."""
    directory = checkpoint(tmp_path_factory.mktemp("byte") / "a", tensors=3, shards=2)
    write_index(directory, "model-0.safetensors", "model-1.safetensors")
    mine = read(directory)
    mine.read_whole()
    path = data.draw(st.sampled_from(weight_files(directory)))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        theirs = read(directory)
    except IntegrityError:  # an index that is none any more
        return
    theirs.read_whole()
    assert mine.fingerprint() != theirs.fingerprint() or differing(mine.sums, theirs.sums) == [path.name]
