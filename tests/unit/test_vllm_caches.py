"""What becomes of an instance's caches: published once it is ready, taken by those that would compile the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

import yr_fastload_native as fl
from yr_fastload_native.settings import Config, ExchangeConfig
from yr_fastload_native.vllm import caches, compat, ready, session
from yr_fastload_native.vllm.settings import Settings

ARTIFACT = Path("torch_compile_cache", "torch_aot_compile", "hash", "rank_0_0", "model")


class Instance:
    """A rank that compiles unless it finds an artifact."""

    def __init__(self, root: Path, **exchange: Any) -> None:
        class Worker:
            def compile_or_warm_up_model(self) -> str:
                return "warm"

        self.root = root
        self.worker = Worker
        self.model = SimpleNamespace(model="/models/toy")
        self.settings = Settings(Config(), ExchangeConfig(**exchange))

    def share(self, call: compat.Call | None = None) -> dict[str, Any] | None:
        """What it said of it, if it said something."""
        before = len(session.outcomes())
        whole = compat.Call(SimpleNamespace(model_config=self.model, worker=self.worker), self.model, "")
        caches.share_caches(call or whole, self.settings)
        told = [each for each in session.outcomes()[before:] if each["event"] == "caches"]
        return told[0] if told else None

    def start(self) -> dict[str, Any]:
        """Until it is ready, and has published what it would."""
        told = self.share()
        assert told is not None
        path = self.root / ARTIFACT
        if path.exists():
            path.read_bytes()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"compiled")
        assert self.worker().compile_or_warm_up_model() == "warm"
        assert caches._background.wait(20)
        return told


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_loader: Callable[..., fl.FastLoader]
) -> Iterator[Callable[..., Instance]]:
    """An instance on a machine of its own."""
    for name, value in {
        "version": "0", "platform": "cpu", "platform_version": "0", "device": ["cpu"], "ranks": {"tp": (0, 1)}
    }.items():  # fmt: skip
        monkeypatch.setattr(compat, name, lambda value=value: value)
    monkeypatch.setattr(compat, "compiles", lambda config: True)
    monkeypatch.setattr(compat, "configuration_hash", lambda config: ["hash"])
    monkeypatch.setattr(compat, "worker_class", lambda config: config.worker)
    monkeypatch.setattr(compat, "rank_directory", lambda config: "rank_0_0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))

    def made(name: str = "first", *, root: Path | None = None, **exchange: Any) -> Instance:
        loader = open_loader()
        monkeypatch.setattr(session, "loader_of", lambda config: loader)
        instance = Instance(root or tmp_path / name, **exchange)
        monkeypatch.setattr(compat, "cache_root", lambda: instance.root)
        return instance

    yield made
    ready._waiting.clear()


def test_what_one_compiled_is_there_for_the_next(start: Callable[..., Instance]) -> None:
    assert start().start()["why"] == "NOT_PUBLISHED"
    (published,) = [each for each in session.outcomes() if each["event"] == "published caches"][-1:]
    assert published["files"] == 1
    second = start("second")
    told = second.share()
    assert told is not None
    assert (told["why"], told["written"], told["kept"], told["bytes"]) == (None, 1, 0, len(b"compiled"))
    assert (second.root / ARTIFACT).read_bytes() == b"compiled"
    assert not ready._waiting  # it publishes nothing: it keeps what it took published


def test_another_cpu_finds_nothing(start: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch) -> None:
    start().start()
    monkeypatch.setattr(caches, "_cpu_features", lambda: "another")
    assert start("second").start()["why"] == "NOT_PUBLISHED"


@pytest.mark.parametrize("name", ["version", "platform", "platform_version", "device", "ranks"])
def test_another_environment_finds_nothing(
    start: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start().start()
    monkeypatch.setattr(compat, name, lambda: {"another": (0, 1)})
    assert start("second").start()["why"] == "NOT_PUBLISHED"


def test_of_strangers_it_is_taken_when_told(start: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(caches, "own_key", lambda config: b"another user's".ljust(32))
        start().start()
    assert start("second").share()["why"] == "INTEGRITY"
    assert not (start("second").root / ARTIFACT).exists()
    assert start("third", share_caches="on").share()["why"] is None


def test_without_a_place_for_a_key_nobody_is_believed(
    start: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "own_key", lambda config: None)
    start().start()
    assert start("second").share()["why"] == "INTEGRITY"


@pytest.mark.parametrize("off", [{"share_caches": "off"}, {"publish": "off"}])
def test_who_does_not_share_publishes_nothing(start: Callable[..., Instance], off: dict[str, str]) -> None:
    first = start(**off)
    told = first.share()
    assert (told is None) == ("share_caches" in off)
    assert not ready._waiting
    assert start("second").share()["why"] == "NOT_PUBLISHED"


def test_a_draft_has_no_caches_of_its_own(start: Callable[..., Instance]) -> None:
    first = start()
    config = SimpleNamespace(model_config=first.model, worker=first.worker)
    assert first.share(compat.Call(config, SimpleNamespace(model="/models/draft"), "")) is None
    assert first.share(compat.Call(config, first.model, "draft.")) is None


def test_a_version_that_is_not_as_expected_starts_all_the_same(
    start: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def moved(config: Any) -> bool:
        raise AttributeError("moved")

    monkeypatch.setattr(compat, "compiles", moved)
    assert start().share() is None
    assert "what is compiled is not shared: AttributeError: moved" in caplog.text


def test_a_cache_that_cannot_be_written_to(start: Callable[..., Instance], caplog: pytest.LogCaptureFixture) -> None:
    start().start()
    assert start(root=Path("/proc/nowhere")).share()["why"] == "INVALID_ARGUMENT"
    assert "this instance compiles: place files: " in caplog.text


def test_too_much_is_neither_published_nor_taken(
    start: Callable[..., Instance], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"share_caches_bytes": 1 << 20}
    first = start()
    large = first.root / ARTIFACT.parent / "large"
    large.parent.mkdir(parents=True)
    large.write_bytes(bytes(1 << 20))
    first.start()
    assert start("second", **small).share()["why"] == "RESOURCE_EXHAUSTED"
    alone = start(root=first.root, **small)
    alone.settings = attrs.evolve(alone.settings, transfer=Config())
    alone.start()
    assert "what this instance compiled is not published: " in caplog.text


def test_what_was_left_half_compiled_is_not_published(
    start: Callable[..., Instance], caplog: pytest.LogCaptureFixture
) -> None:
    first = start()
    library = first.root / ARTIFACT.parents[1] / "inductor_cache" / "c" / "x.so"
    library.parent.mkdir(parents=True)
    library.touch()
    first.start()
    assert f"{library} is incomplete" in caplog.text
    assert start("second").share()["why"] == "NOT_PUBLISHED"


def test_what_is_there_and_differs_is_named(start: Callable[..., Instance], caplog: pytest.LogCaptureFixture) -> None:
    start().start()
    second = start("second")
    (second.root / ARTIFACT).parent.mkdir(parents=True)
    (second.root / ARTIFACT).touch()
    assert second.share()["kept"] == 1
    assert "1 files below" in caplog.text
    assert (second.root / ARTIFACT).read_bytes() == b""
