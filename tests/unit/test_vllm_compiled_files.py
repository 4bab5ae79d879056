"""Which compiled files of a process are published: those that it used, all of them, and only if they are whole."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from yr_fastload_native.errors import IntegrityError
from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.compiled_files import CompiledFiles

MOST = 64 << 20


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compat, "cache_root", lambda: tmp_path / "vllm")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path


@pytest.fixture
def compiled(root: Path) -> Iterator[CompiledFiles]:
    files = CompiledFiles()
    yield files
    files.end()


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(compiled: CompiledFiles, rank: str = "rank_0_0") -> list[str]:
    return [each.name for each in compiled.read(rank, MOST)]


def test_what_is_used_is_published_with_what_lies_beside_it(compiled: CompiledFiles, root: Path) -> None:
    compiled.end()  # what is there before
    aot = root / "vllm/torch_compile_cache/torch_aot_compile/hash"
    older = root / "vllm/torch_compile_cache/0123456789"
    for each in (aot / "rank_1_0/model", aot / "inductor_cache/c/x.cpp", aot / "inductor_cache/c/x.lock"):
        write(each)
    write(aot.parent / "another/rank_0_0/model")
    write(older / "rank_0_0/backbone/graph.py")
    write(root / "kernels/KERNEL/k.cubin")
    write(root / "kernels/ANOTHER/k.cubin")
    (aot / "link").symlink_to("/etc")
    used = CompiledFiles()
    try:
        write(aot / "rank_0_0/model")
        (older / "rank_0_0/backbone/graph.py").read_bytes()
        write(root / "kernels/KERNEL/k.json")
        write(root / "vllm/modelinfos/x.json")
    finally:
        used.end()
    (aot.parent / "another/rank_0_0/model").read_bytes()  # by whoever comes next
    assert names(used) == [
        "torch_compile_cache/0123456789/rank_0_0/backbone/graph.py",
        "torch_compile_cache/torch_aot_compile/hash/inductor_cache/c/x.cpp",
        "torch_compile_cache/torch_aot_compile/hash/rank_0_0/model",
        "triton/KERNEL/k.cubin",
        "triton/KERNEL/k.json",
    ]


def test_a_process_that_compiles_nothing_has_nothing(compiled: CompiledFiles, root: Path) -> None:
    write(root / "elsewhere")
    write(root / "vllm/torch_compile_cache/a file")
    assert names(compiled) == []


def test_a_library_that_was_never_written_is_noticed(compiled: CompiledFiles, root: Path) -> None:
    cache = root / "vllm/torch_compile_cache/0123456789/inductor_cache"
    left, under_way = write(cache / "a/left.so", b""), write(cache / "b/under_way.so", b"")
    write(cache / "c/whole.so")
    write(cache / "d/empty.txt", b"")
    for path in cache.rglob("*.*"):
        if path != under_way:
            os.utime(path, (1, 1))
    assert compiled.left_empty() == [left]


@pytest.mark.parametrize("length", [0, 10, 1000])
def test_a_library_that_was_not_written_to_its_end_is_not_published(
    compiled: CompiledFiles, root: Path, length: int
) -> None:
    library = root / "vllm/torch_compile_cache/0123456789/inductor_cache/c/x.so"
    library.parent.mkdir(parents=True)
    shutil.copyfile(sys.executable, library)
    assert names(compiled) == ["torch_compile_cache/0123456789/inductor_cache/c/x.so"]
    write(library, library.read_bytes()[:length])
    with pytest.raises(IntegrityError, match=r"x\.so is incomplete.*remove it"):
        names(compiled)
