"""Two checkpoints that differ where no sample looks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.weight_files import named, weight_files

from ..waiting import wait_until

pytestmark = pytest.mark.worker

WORDS = 150_000  # rows of a table that is too large to be read whole at once


def fingerprint(directory: Path) -> str:
    return ReadFiles.of(named(weight_files(directory), directory), deadline_s=60).fingerprint()


def change_a_byte(directory: Path) -> None:
    """Of the embedding of a word in the middle, off the blocks that are read."""
    (path,) = weight_files(directory)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        begin, end = json.loads(file.read(size))["model.embed_tokens.weight"]["data_offsets"]
        file.seek(8 + size + begin + (end - begin) * 5 // 11)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x40]))


def test_one_byte_is_found_and_not_pulled_again(
    make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path
) -> None:
    model = make("qwen2_tied", vocabulary=WORDS)
    other = tmp_path / "tiny"
    shutil.copytree(model, other)
    change_a_byte(other)
    assert fingerprint(other) == fingerprint(model)
    first = start(model)
    first.wait_until_published()
    second = start(other)
    assert second.loaded["fallback"] is None
    assert wait_until(lambda: second.events("wrong weights"), 120)[0]["files"] == ["model.safetensors"]
    third = start(other)
    assert third.loaded["fallback"] == "NOT_PUBLISHED"
    assert third.loaded["identity"]["files"]
    assert not first.events("wrong weights")
