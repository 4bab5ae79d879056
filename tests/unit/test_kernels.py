"""Kernels of GPUs: what is compiled into the package is what their sources say."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

SOURCES = sorted(Path(__file__).parents[2].glob("csrc/devices/*_kernel.cu"))


def test_there_are_some() -> None:
    assert [source.stem for source in SOURCES] == ["cuda_copy_kernel", "cuda_digest_kernel"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_none_was_changed_without_make_ptx(source: Path) -> None:
    header = source.with_suffix(".hpp").read_text()
    found = re.search(r"^// SHA-256 of that: ([0-9a-f]{64})$", header, re.MULTILINE)
    assert found is not None
    assert found[1] == hashlib.sha256(source.read_bytes()).hexdigest(), "run `make ptx`"
    kernel = re.search(r'KernelName = "(\w+)"', header)
    assert kernel is not None
    assert f".visible .entry {kernel[1]}(" in header
    assert ".target sm_70" in header
