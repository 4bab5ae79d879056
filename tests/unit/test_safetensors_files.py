from __future__ import annotations

import json
import os
import shutil
import struct
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yr_fastload_native.checkpoints import page_cache, read_directory, safetensors_files, synthetic
from yr_fastload_native.errors import FastLoadError, IntegrityError, InvalidArgumentError, ResourceExhaustedError

TORCH_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.uint16,
    torch.int16,
    torch.float16,
    torch.bfloat16,
    torch.uint32,
    torch.int32,
    torch.float32,
    torch.uint64,
    torch.int64,
    torch.float64,
    torch.complex64,
]


def write_file(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def write_index(directory: Path, weight_map: dict[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_qwen2(tmp_path_factory.mktemp("made") / "qwen2", size_mb=16)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_reads_what_torch_wrote(tmp_path, dtype):
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (6, 5, 8), dtype=torch.uint8)
    tensors = {
        "weight": raw.view(dtype),
        "scalar": torch.ones((), dtype=dtype),
        "empty": torch.empty((0, 7), dtype=dtype),
    }
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    arrays = read_directory.read_directory(tmp_path)

    expected = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.shape == tuple(expected[name].shape)
        assert array.tobytes() == expected[name].reshape(-1).view(torch.uint8).numpy().tobytes()
    assert arrays["weight"].dtype.itemsize == dtype.itemsize


def test_values_of_types_that_numpy_lacks(tmp_path):
    values = [0.5, -1.5, 2.0, 96.0]
    tensors = {str(dtype): torch.tensor(values, dtype=dtype) for dtype in TORCH_DTYPES if dtype.is_floating_point}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    for name, array in read_directory.read_directory(tmp_path).items():
        assert array.astype(np.float64).tolist() == values, name


def test_reads_what_numpy_wrote(tmp_path):
    expected = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int64)}
    safetensors.numpy.save_file(expected, tmp_path / "model.safetensors")
    arrays = read_directory.read_directory(tmp_path)
    assert {name: array.dtype for name, array in arrays.items()} == {"a": np.float32, "b": np.int64}
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)


def test_tensors_larger_than_a_piece_and_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(read_directory, "_PIECE_BYTES", 100)
    expected = {"a": np.arange(1000, dtype=np.uint16), "b": np.arange(7, dtype=np.uint8)}
    safetensors.numpy.save_file(expected, tmp_path / "model.safetensors")
    calls: list[tuple[int, int]] = []
    arrays = read_directory.read_directory(tmp_path, drop_cache=True, progress=lambda *call: calls.append(call))
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    assert calls[-1] == (2007, 2007)
    assert all(earlier < later and later - earlier <= 100 for (earlier, _), (later, _) in pairwise(calls))
    assert read_directory.compare(safetensors_files.scan_directory(tmp_path), arrays) == []


def test_index_chooses_the_files(tmp_path):
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "model-1.safetensors")
    safetensors.numpy.save_file({"b": np.ones(1)}, tmp_path / "model-2.safetensors")
    safetensors.numpy.save_file({"a": np.ones(9)}, tmp_path / "consolidated.safetensors")
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    arrays = read_directory.read_directory(tmp_path)
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [0.0], "b": [1.0]}


def test_two_files_with_one_name_are_refused(tmp_path):
    for number in (1, 2):
        safetensors.numpy.save_file({"same": np.zeros(1)}, tmp_path / f"model-{number}.safetensors")
    with pytest.raises(IntegrityError, match=r"model-2.*'same': model-1\.safetensors holds it too"):
        read_directory.read_directory(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "model.safetensors", "b": "absent.safetensors"}, r"absent\.safetensors: it is missing"),
        ({"a": "model.safetensors", "b": "model.safetensors"}, "'b': it places a tensor in 'model.safetensors'"),
        ({"a": "../model.safetensors"}, "not a safetensors file of this directory"),
        ({"a": "/etc/passwd"}, "not a safetensors file of this directory"),
        ({"a": "config.json"}, "not a safetensors file of this directory"),
        ({"a": "model\0.safetensors"}, "not a safetensors file of this directory"),
        ({"a": 1}, "it is not an index"),
    ],
)
def test_wrong_index(tmp_path, weight_map, message):
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    write_index(tmp_path, weight_map)
    with pytest.raises(IntegrityError, match=message):
        read_directory.read_directory(tmp_path)


def test_wrong_directories(tmp_path):
    with pytest.raises(InvalidArgumentError, match="is not a directory"):
        read_directory.read_directory(tmp_path / "absent")
    with pytest.raises(InvalidArgumentError, match=r"holds no \*\.safetensors file"):
        read_directory.read_directory(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InvalidArgumentError, match="is not a file"):
        read_directory.read_directory(tmp_path)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", "its header would be 0 bytes"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a":', b"", "not a JSON object"),
        (b'{"\xff":{}}', b"", "not a JSON object"),
        (b'{"a":' * 50_000, b"", "not a JSON object"),
        ({"a": 1}, b"", "'a': its entry in the header is malformed"),
        ({"a": {"dtype": "U8", "shape": [4]}}, bytes(4), "malformed"),
        ({"a": entry(shape=(-4,))}, bytes(4), "malformed"),
        ({"a": entry(shape=(4.0,))}, bytes(4), "malformed"),
        ({"a": entry(shape=[1] * 33, offsets=(0, 1))}, bytes(1), "malformed"),
        ({"a": entry(offsets=(0, 4, 8))}, bytes(4), "malformed"),
        ({"a": entry(dtype="F4")}, bytes(4), "its dtype 'F4' is not one of BOOL, U8"),
        ({"a": entry(dtype="F16")}, bytes(4), r"offsets 0:4 do not span F16\[4\], 8 bytes"),
        ({"a": entry(offsets=(4, 0))}, bytes(4), "do not span"),
        ({"a": entry(offsets=(-4, 0))}, bytes(4), "do not span"),
        ({"a": entry(shape=(2**62, 2**62), offsets=(0, 0))}, b"", "is too large"),
        ({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}, b"", "is too large"),
        ({"a": entry(shape=(2**40,), offsets=(0, 2**40))}, bytes(4), "passes the end of the file"),
        ({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6), "'b': its data overlaps"),
        ({"a": entry(), "b": entry()}, bytes(4), "'b': its data overlaps"),
        ({"a": entry(), "b": entry(offsets=(6, 10))}, bytes(10), "leaves a gap"),
        ({"a": entry(offsets=(2, 6))}, bytes(6), "leaves a gap"),
        ({"a": entry()}, bytes(5), "1 bytes at its end belong to no tensor"),
        ({"a": entry()}, bytes(3), "passes the end"),
    ],
)
def test_hostile_header(tmp_path, header, data, message):
    path = write_file(tmp_path / "model.safetensors", header, data)
    with pytest.raises(IntegrityError, match=message) as caught:
        read_directory.read_directory(tmp_path)
    assert str(path) in str(caught.value)
    assert caught.value.failed_keys in ((str(path),), ("a",), ("b",))


def test_a_duplicated_name_leaves_a_gap(tmp_path):
    one, two = json.dumps(entry()), json.dumps(entry(offsets=(4, 8)))
    path = write_file(tmp_path / "model.safetensors", f'{{"a":{one},"a":{two}}}'.encode(), bytes(8))
    with pytest.raises(IntegrityError, match="leaves a gap"):
        safetensors_files.scan_file(path)


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 100_000_001) + bytes(64), b"\xff" * 64])
def test_hostile_header_length(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        safetensors_files.scan_file(path)


def test_header_length_is_bounded_even_if_the_file_is_larger(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 100_000_001))
    os.truncate(path, 200_000_000)  # sparse
    with pytest.raises(IntegrityError, match="its header would be 100000001 bytes"):
        safetensors_files.scan_file(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BF16", "F8_E4M3", "F4", "I64"]) | json_values,
        "shape": st.lists(st.integers(-1, 2**64), max_size=4) | st.lists(st.integers(0, 3), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | json_values,
    }
)
headers = (
    st.binary(max_size=64)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.text(max_size=4), entries, max_size=3).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=headers, data=st.binary(max_size=64))
def test_garbage_is_read_in_bounds_or_refused_by_a_typed_error(tmp_path, header, data):
    path = write_file(tmp_path / "model.safetensors", header, data)
    try:
        stored = safetensors_files.scan_file(path)
    except FastLoadError:
        return
    assert sum(tensor.nbytes for tensor in stored) == len(data)
    arrays = read_directory.read_directory(tmp_path)
    assert b"".join(arrays[tensor.name].tobytes() for tensor in stored) == data


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_of_a_header_never_escapes(tmp_path, data):
    good = write_file(tmp_path / "good", {"a": entry("BF16", (2, 2), (0, 8)), "b": entry("U8", (), (8, 9))}, bytes(9))
    content = bytearray(good.read_bytes())
    content[data.draw(st.integers(0, len(content) - 10))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    try:
        stored = safetensors_files.scan_file(path)
    except FastLoadError:
        return
    assert all(tensor.offset + tensor.nbytes <= len(content) for tensor in stored)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(100)}, path)
    stored = safetensors_files.scan_directory(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(IntegrityError, match="it ends too early"):
        read_directory.compare(stored, {"a": np.zeros(100)})


def test_compare_finds_a_single_corrupted_byte(qwen2, tmp_path):
    directory = Path(shutil.copytree(qwen2, tmp_path / "copy"))
    stored = safetensors_files.scan_directory(directory)
    arrays = read_directory.read_directory(directory)
    assert read_directory.compare(stored, arrays) == []

    victim = stored["model.layers.13.mlp.up_proj.weight"]
    with victim.path.open("r+b") as file:
        file.seek(victim.offset + victim.nbytes - 1)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    assert read_directory.compare(stored, arrays) == [victim.name]


def test_compare_names_whatever_is_not_the_same_tensor(tmp_path):
    names = ["same", "other_dtype", "other_shape", "absent"]
    safetensors.numpy.save_file({name: np.zeros((2, 3), np.int32) for name in names}, tmp_path / "m.safetensors")
    arrays = {
        "same": np.zeros((2, 3), np.int32),
        "other_dtype": np.zeros((2, 3), np.float32),
        "other_shape": np.zeros((3, 2), np.int32),
        "extra": np.zeros(1),
    }
    found = read_directory.compare(safetensors_files.scan_directory(tmp_path), arrays)
    assert sorted(found) == ["absent", "extra", "other_dtype", "other_shape"]


def test_fingerprint_follows_the_layout(tmp_path):
    def layout(*shape: int) -> str:
        safetensors.numpy.save_file({"a": np.zeros(shape)}, tmp_path / "model.safetensors")
        return safetensors_files.fingerprint(safetensors_files.scan_directory(tmp_path))

    assert layout(2, 3) == layout(2, 3)
    assert layout(2, 3) != layout(3, 2)


def test_drop_page_cache(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    assert 0 <= page_cache.drop_page_cache(path) <= 1 << 20
    with path.open("rb") as file:
        file.read()
        assert page_cache._cached_bytes(file) == 1 << 20
    path.write_bytes(b"")
    assert page_cache.drop_page_cache(path) == 0


@pytest.mark.parametrize("size_mb", [1, 16, 17, 100, 777, 1024, 8000, 14525])
def test_size_is_met_and_names_stay(size_mb):
    config, shapes = synthetic._qwen2(size_mb << 20)
    assert len(shapes) == 339
    assert synthetic._nbytes(shapes) == pytest.approx(size_mb << 20, rel=0.1 if size_mb >= 16 else 0.5)
    assert shapes["lm_head.weight"] == (config["vocab_size"], config["hidden_size"])
    assert shapes["model.layers.27.self_attn.k_proj.bias"] == (config["hidden_size"] // 7,)


def test_full_size_is_that_of_the_original():
    _, shapes = synthetic._qwen2(15_231_233_024)
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (512, 3584)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (3584, 18944)
    assert shapes["model.embed_tokens.weight"] == (152064, 3584)
    assert synthetic._nbytes(shapes) == 15_231_233_024


def test_made_checkpoint_is_what_safetensors_reads(qwen2):
    arrays = read_directory.read_directory(qwen2)
    expected = {}
    for path in qwen2.glob("*.safetensors"):
        expected |= safetensors.torch.load_file(path)
    assert len(arrays) == 339
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == ml_dtypes.bfloat16
        assert array.tobytes() == expected[name].view(torch.uint8).numpy().tobytes()
        assert expected[name].isfinite().all()
    assert len({array.tobytes()[:64] for array in arrays.values()}) == 339
    assert not list(qwen2.parent.glob(".making-*"))


def test_shards_are_bounded_and_indexed(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_SHARD_BYTES", 1 << 20)
    directory = synthetic.make_qwen2(tmp_path / "made", size_mb=4)
    shards = sorted(directory.glob("*.safetensors"))
    assert len(shards) > 4
    for path in shards:
        tensors = safetensors_files.scan_file(path)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors) <= 1 << 20
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    stored = safetensors_files.scan_directory(directory)
    assert index["weight_map"].keys() == stored.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())


def test_seed_decides_the_weights(tmp_path):
    made = [
        read_directory.read_directory(synthetic.make_qwen2(tmp_path / name, size_mb=1, seed=seed))
        for name, seed in (("one", 1), ("again", 1), ("two", 2))
    ]
    head = [arrays["lm_head.weight"].tobytes() for arrays in made]
    assert head[0] == head[1] != head[2]


def test_make_refuses_before_it_writes(tmp_path, monkeypatch):
    with pytest.raises(InvalidArgumentError, match="size_mb=0 is not allowed"):
        synthetic.make_qwen2(tmp_path / "made", size_mb=0)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(InvalidArgumentError, match="taken is not empty"):
        synthetic.make_qwen2(tmp_path / "taken", size_mb=1)
    with pytest.raises(InvalidArgumentError, match="cannot be written: File exists"):
        synthetic.make_qwen2(tmp_path / "taken" / "file" / "made", size_mb=1)
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(ResourceExhaustedError, match=r"1000 bytes are free and \d+ are needed"):
        synthetic.make_qwen2(tmp_path / "made", size_mb=1)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(tmp_path, monkeypatch, failure):
    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceExhaustedError if isinstance(failure, OSError) else KeyboardInterrupt):
        synthetic.make_qwen2(tmp_path / "made", size_mb=1)
    assert list(tmp_path.iterdir()) == []
