"""What is known of versions of vLLM, without one."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.compat import Call, Registered, is_tested, let_artifacts_load, note_failed_artifacts


@pytest.mark.parametrize("version", ["0.10.0", "0.10.1.1", "0.15.0rc1", "0.32.0+cpu", "0.32.0"])
def test_versions_in_range(version: str) -> None:
    assert is_tested(version)


@pytest.mark.parametrize("version", ["0.9.2", "0.32.1", "0.33.0", "1.0", "unknown", ""])
def test_versions_outside(version: str) -> None:
    assert not is_tested(version)


CONFIG = SimpleNamespace(model_config="the target's")


def old(self: Any, vllm_config: Any, model_config: Any) -> None:
    """As in 0.10.0."""


def new(self: Any, vllm_config: Any, model_config: Any, prefix: str = "") -> None:
    """As in 0.15.0."""


def open_ended(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
    """As a plugin may wrap it."""


def test_arguments_by_place_and_by_name() -> None:
    assert Call.of(old, None, [CONFIG, "m"], {}) == Call(CONFIG, "m", "")
    assert Call.of(old, None, [], {"vllm_config": CONFIG, "model_config": "m"}) == Call(CONFIG, "m", "")
    assert Call.of(new, None, [CONFIG, "m", "draft"], {}) == Call(CONFIG, "m", "draft")
    assert Call.of(new, None, [CONFIG], {"model_config": "m", "prefix": "draft"}) == Call(CONFIG, "m", "draft")
    assert Call.of(open_ended, None, [CONFIG], {"model_config": "m", "prefix": "p"}) == Call(CONFIG, "m", "p")
    assert Call.of(open_ended, None, [CONFIG, "m", "p"], {}) == Call(CONFIG, "m", "p")
    assert Call.of(open_ended, None, [CONFIG], {}) == Call(CONFIG, "the target's", "")


def test_arguments_that_load_model_does_not_take() -> None:
    with pytest.raises(TypeError):
        Call.of(old, None, [CONFIG, "m", "draft"], {})


def test_a_model_can_be_made_again() -> None:
    """Layers enter themselves by name when they are made, and a second one of a name is refused."""
    compilation = SimpleNamespace(static_forward_context={"kept": 1}, static_all_moe_layers=["kept"], level=3)
    context, layers = compilation.static_forward_context, compilation.static_all_moe_layers
    registered = Registered(SimpleNamespace(compilation_config=compilation))
    context["model.layers.0.attn"] = object()
    layers.append("model.layers.0.experts")
    registered.restore()
    assert compilation.static_forward_context is context
    assert (context, layers) == ({"kept": 1}, ["kept"])


def test_a_config_without_any_is_left_alone() -> None:
    Registered(SimpleNamespace()).restore()


class OfVllm:
    def finalize_loading(self, vllm_config: Any) -> str:
        return "finished"


class OfTorch:
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def put(monkeypatch: pytest.MonkeyPatch, caching: dict[str, Any], torchs: dict[str, Any]) -> None:
    """Have modules of vLLM and torch hold these."""
    for name, found in {"vllm.compilation.caching": caching, "torch._dynamo.aot_compile_types": torchs}.items():
        for each in (name.partition(".")[0], name.rpartition(".")[0], name):
            monkeypatch.setitem(sys.modules, each, ModuleType(each))
        vars(sys.modules[name]).update(found)


def test_artifacts_of_torch_are_finished_where_vllm_finishes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own, torchs = type("Own", (OfVllm,), {}), type("Torchs", (OfTorch,), {})
    put(
        monkeypatch,
        {"VllmSerializableFunction": own},
        {"BundledAOTAutogradSerializableCallable": torchs},
    )
    for _ in range(2):
        let_artifacts_load()
        assert torchs().finalize_loading(CONFIG) is None
        assert own().finalize_loading(CONFIG) == "finished"


@pytest.mark.parametrize(
    ("caching", "torchs"),
    [
        ({}, {"BundledAOTAutogradSerializableCallable": OfTorch}),
        ({"VllmSerializableFunction": OfTorch}, {"BundledAOTAutogradSerializableCallable": OfTorch}),
        ({"VllmSerializableFunction": OfVllm}, {}),
    ],
    ids=["vLLM without", "vLLM that finishes nothing", "torch without"],
)
def test_other_versions_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caching: dict[str, Any], torchs: dict[str, Any]
) -> None:
    put(monkeypatch, caching, torchs)
    let_artifacts_load()
    assert not hasattr(OfTorch, "finalize_loading")


@pytest.mark.parametrize(
    ("counters", "told"),
    [
        ({}, {}),
        ({"num_aot_compiles": 0, "num_aot_artifacts_loaded": 0}, {}),
        ({"num_aot_artifacts_loaded": 1}, {"cache": "hit"}),
        ({"num_aot_artifacts_loaded": 0, "num_aot_compiles": 1}, {"cache": "miss"}),
        ({"num_eager_compiles": 2}, {"cache": "miss"}),
    ],
)
def test_how_a_process_came_by_what_it_compiled(
    monkeypatch: pytest.MonkeyPatch, counters: dict[str, int], told: dict[str, str]
) -> None:
    monkeypatch.setattr(compat, "_failures", compat._Failures())
    for name in ("vllm", "vllm.compilation", "vllm.compilation.counter"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["vllm.compilation.counter"])["compilation_counter"] = SimpleNamespace(**counters)
    assert compat.compiled() == told


def test_why_an_artifact_was_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM 0.32.0 says it, in its log."""
    monkeypatch.setattr(compat, "_failures", compat._Failures())
    for name in ("vllm", "vllm.compilation", "vllm.compilation.counter"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["vllm.compilation.counter"])["compilation_counter"] = SimpleNamespace(num_aot_compiles=1)
    logger = logging.getLogger("vllm.compilation.decorators")
    try:
        for _ in range(2):
            note_failed_artifacts()
        logger.warning("something else")
        assert compat.compiled() == {"cache": "miss"}
        message = "%sCompiling model again due to a load failure from %s, reason: %s"
        logger.warning(message, "", "/cache/model", "Compile cache file corrupted.\nmore")
        assert compat.compiled() == {"cache": "failed", "why": "Compile cache file corrupted."}
        assert logger.filters.count(compat._failures) == 1
    finally:
        logger.removeFilter(compat._failures)
