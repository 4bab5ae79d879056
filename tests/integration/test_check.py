"""Whether what is published by reference stayed what it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

from yr_fastload_native import sim

pytestmark = pytest.mark.worker


def test_a_publication_by_reference_knows_what_changed(worker: str, identity: dict[str, str]) -> None:
    script = f"""
import gc, torch, yr_fastload_native as fl
tensors = {{"a": torch.arange(1 << 20), "b": torch.ones(1 << 20), "c": torch.zeros(1 << 20)}}
with fl.FastLoader(fl.Config(worker={worker!r}, transport="d2d", max_blobs=1)) as loader:
    publication = loader.publish(tensors, {identity!r})
    assert publication.wait_settled(30) and publication.by_reference
    print(publication.changed(), flush=True)
    tensors["b"].numpy()[5] = 3  # past torch's own counter of writes
    tensors["c"].data = torch.zeros(1 << 20)
    print(sorted(publication.changed()), publication.kept_beside(set()) > 0)
    publication.close()
    print(publication.changed(), publication.kept_beside(set()), gc.get_referrers(tensors["a"]) == [tensors])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=sim.environment(),
        check=True,
        timeout=120,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout.splitlines() == ["[]", "['b', 'c'] True", "[] 0 True"]
