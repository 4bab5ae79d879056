"""A checkpoint that one host has published, read by another."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.hosts.bed import ANSWER_S, Bed

from yr_fastload_native.checkpoints.synthetic import make_qwen2


@pytest.mark.long
def test_a_pool_smaller_than_the_checkpoint(bed: Bed, tmp_path: Path) -> None:
    """The reader has no files: chunks that no tensor uses any more make room for the next ones."""
    directory = make_qwen2(tmp_path / "model", size_mb=256)
    bed.hosts[0].start_worker(1024)
    bed.hosts[1].start_worker(128)
    published = bed.hosts[0].guest().call("publish_files", ANSWER_S, directory=str(directory))
    answer = bed.hosts[1].guest().call("read_checkpoint", ANSWER_S, **published, directory=str(directory))
    assert answer == {"equal": True, "from_files": []}
