"""Checkpoints through a real worker, and the commands for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import yr_fastload_native as fl
from yr_fastload_native.checkpoints.read_directory import compare
from yr_fastload_native.checkpoints.safetensors_files import scan_directory
from yr_fastload_native.checkpoints.synthetic import make_qwen2
from yr_fastload_native.cli import main

from ..conftest import open_store
from ..waiting import wait_until

pytestmark = pytest.mark.worker

PATIENCE_S = 60.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_qwen2(tmp_path / "qwen2", size_mb=8, seed=int.from_bytes(tmp_path.name.encode()[-4:], "big"))


def run(worker: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["checkpoint", *arguments, "--worker", worker])


def answer(worker: str, *arguments: str) -> dict[str, Any]:
    done = run(worker, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_readers_share_what_a_publisher_read(
    loader: fl.FastLoader, other_loader: fl.FastLoader, directory: Path
) -> None:
    stored = scan_directory(directory)
    publication = loader.publish_checkpoint(directory)
    for verify in ("once", "digest"):
        assert not compare(stored, other_loader.checkpoint(directory, verify=verify))
    tensor = other_loader.checkpoint(directory, framework="torch")["lm_head.weight"]
    kept = tensor.clone()
    publication.close()
    assert not compare(stored, other_loader.checkpoint(directory))  # it is a source too
    other_loader.close()
    assert tensor.equal(kept)


def test_files_that_are_replaced_are_withdrawn(
    loader: fl.FastLoader, other_loader: fl.FastLoader, directory: Path
) -> None:
    publication = loader.publish_checkpoint(directory)
    other_loader.checkpoint(directory)  # it is a source too, of the same files
    (file,) = directory.glob("*.safetensors")
    (directory / "new").write_bytes(file.read_bytes())
    (directory / "new").rename(file)
    assert wait_until(lambda: publication.state == "failed")
    assert wait_until(lambda: not other_loader.is_published(publication.identity))
    with pytest.raises(fl.NotPublishedError):
        other_loader.checkpoint(dict(publication.identity))


def test_a_publisher_that_is_killed_half_way(worker: str, directory: Path) -> None:
    """What came stays right, and only what is missing is read from the files."""
    stored = scan_directory(directory)
    command = [sys.executable, "-m", "yr_fastload_native", "checkpoint", "publish", str(directory), "--worker", worker]
    settings = {"YR_FASTLOAD_LEASE_S": "2", "YR_FASTLOAD_DATA_GRACE_S": "1", "YR_FASTLOAD_MAX_BLOBS": "1"}
    config = fl.Config(worker=worker, hold=False)
    with (
        subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True) as publisher,
        fl.FastLoader(config) as loader,
    ):
        assert publisher.stdout is not None
        assert publisher.stdout.readline().startswith("published ")
        opened = loader.checkpoint(directory, window=1)
        came = {name: opened[name] for name in list(opened)[:5]}
        assert not opened.from_files
        publisher.kill()
        keys = [chunk.key for chunk in opened._reader.generation.manifest.chunks]
        look = open_store(config)
        assert wait_until(lambda: not any(look.exist(keys, deadline_s=5)))
        rest = {name: opened[name] for name in opened if name not in came}
        assert not compare(stored, came | rest)
        assert not came.keys() & set(opened.from_files)
        assert len(opened.from_files) >= len(rest) - 1  # one may lie in the chunk that is kept


HALF_WAY = """
import sys, time
import yr_fastload_native as fl
from yr_fastload_native.publishing.growth import Growth

real, told = Growth.stored, []

def stored(growth, chunks):
    real(growth, chunks[:5])
    told.extend(chunks[:5])
    if len(told) >= 5:
        print("half way", flush=True)
        time.sleep(600)

Growth.stored = stored
config = fl.Config(worker=sys.argv[1], lease_s=2, data_grace_s=1, publish_deadline_s=60, max_blobs=1)
with fl.FastLoader(config) as loader:
    loader.publish_checkpoint(sys.argv[2])
"""


def test_a_publisher_that_is_killed_while_it_publishes(worker: str, directory: Path) -> None:
    """Readers have what it has told of by then, and go on with the files as soon as its lease has ended."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", HALF_WAY, worker, str(directory)], stdout=subprocess.PIPE, text=True
        ) as publisher,
        fl.FastLoader(fl.Config(worker=worker, hold=False)) as loader,
    ):
        try:
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == "half way\n"
            opened = loader.checkpoint(directory)
            arriving = opened._reader._arriving
            assert arriving is not None
            arriving._look()
            told = {name for name in opened if arriving.has(opened._reader.entries[name].chunk)}
            assert 0 < len(told) < len(opened) / 2
        finally:
            publisher.kill()
        assert not compare(scan_directory(directory), opened)
        assert set(opened.from_files) == opened.keys() - told


def test_publish_list_export_evict(worker: str, directory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "yr_fastload_native", "checkpoint", "publish", str(directory)]
    with subprocess.Popen(
        [*command, "--worker", worker, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as publisher:
        try:
            assert publisher.stdout is not None
            published = json.loads(publisher.stdout.readline())
            assert published["files"].keys() == {path.name for path in directory.glob("model*")}

            def listed() -> list[Any]:
                found = answer(worker, "ls")["published"]
                return [each for each in found if each["identity"] == published["identity"]]

            assert wait_until(listed)
            (row,) = [line for line in run(worker, "ls").stdout.splitlines() if published["identity"][:12] in line]
            assert "qwen2" in row
            written = answer(worker, "export", published["identity"][:16], str(tmp_path / "again"))["files"]
            assert {each["name"]: each["sha256"] for each in written} == published["files"]
            assert all(each["compared"] for each in written)
            for path in directory.glob("model*"):
                assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
            publisher.send_signal(signal.SIGINT)
            _, errors = publisher.communicate(timeout=PATIENCE_S)
            assert (publisher.returncode, errors) == (0, "")
            assert not listed()
        finally:
            publisher.kill()


def test_evict(loader: fl.FastLoader, worker: str, directory: Path, tmp_path: Path) -> None:
    publication = loader.publish_checkpoint(directory)
    loader.publish({"a": np.ones(3)}, {"model": "no checkpoint", "unique": str(tmp_path)})
    assert wait_until(lambda: answer(worker, "ls")["published"])
    (mine,) = [each for each in answer(worker, "ls")["published"] if each["generation"] == publication.generation]
    assert answer(worker, "evict", mine["identity"])["evicted"]["generation"] == publication.generation
    assert wait_until(lambda: publication.state == "lost")
    refused = run(worker, "export", mine["identity"], str(tmp_path / "none"))
    assert isinstance(refused.exception, fl.NotPublishedError) or refused.exit_code == 1
    assert not (tmp_path / "none").exists()


def test_a_file_that_changes_ends_the_command(worker: str, directory: Path) -> None:
    command = [sys.executable, "-m", "yr_fastload_native", "checkpoint", "publish", str(directory)]
    with subprocess.Popen(
        [*command, "--worker", worker], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as publisher:
        try:
            assert publisher.stdout is not None
            assert publisher.stdout.readline().startswith("published ")
            next(directory.glob("*.safetensors")).touch()
            _, errors = publisher.communicate(timeout=PATIENCE_S)
            assert publisher.returncode == 1
            assert "is not published any more" in errors
        finally:
            publisher.kill()
