"""A short run of every fuzz target, and everything that was ever found by a longer one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # targets are shared with the fuzzer, a script

from targets import SEEDS, TARGETS  # noqa: E402

RUNS = {"manifest": 20_000, "fields": 10_000, "head": 20_000, "digests": 20_000, "files": 10_000, "plan": 500}
LONGER = pytest.param(10, marks=pytest.mark.long)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_passes(name: str) -> None:
    corpus = [path.read_bytes() for path in sorted((HERE / "corpus" / name).iterdir())]
    assert len(corpus) >= len(SEEDS[name])
    for data in (*SEEDS[name], *corpus, b""):
        TARGETS[name](data)


@pytest.mark.parametrize("times", [1, LONGER])
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name: str, times: int, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    found = tmp_path / "found"
    found.mkdir()
    runs = times * RUNS[name]
    arguments = [
        f"-runs={runs}",
        "-seed=1",
        "-timeout=5",
        "-rss_limit_mb=2048",
        "-max_len=4096",
        f"-artifact_prefix={tmp_path}/",
        str(found),
        str(HERE / "corpus" / name),
    ]
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"Done {runs} runs" in done.stdout
    assert "cov: " in done.stdout  # it is guided by coverage
