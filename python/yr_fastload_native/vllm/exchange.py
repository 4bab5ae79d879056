"""One model load of vLLM, with the weights pulled from a running instance instead of read from disk.

Every way in (load format, patch, patched source) ends in `exchanged`: vLLM's own ``load_model`` runs unchanged, and
only ``load_weights`` of that one loader object is replaced meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from yr_fastload_native.errors import FastLoadError, IntegrityError, LayoutMismatchError, NotPublishedError
from yr_fastload_native.reporting.load_report import LoadReport
from yr_fastload_native.vllm import compat, session
from yr_fastload_native.vllm.as_made import AsMade
from yr_fastload_native.vllm.caches import share_caches
from yr_fastload_native.vllm.exchanged_weights import ExchangedWeights
from yr_fastload_native.vllm.files_read import Checkpoint
from yr_fastload_native.vllm.identity import identity_of
from yr_fastload_native.vllm.model_contents import SCALARS, Live, storages
from yr_fastload_native.vllm.model_elsewhere import hash_as_there, share_model
from yr_fastload_native.vllm.near_misses import near_miss
from yr_fastload_native.vllm.outcome import Outcome
from yr_fastload_native.vllm.phases import follow, mark
from yr_fastload_native.vllm.process_wide import GivenUp, process_wide
from yr_fastload_native.vllm.publishing import RawWeights, guard, publish_final
from yr_fastload_native.vllm.pulled_weights import PulledWeights
from yr_fastload_native.vllm.read_elsewhere import Watch
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.shared_checkpoint import SharedCheckpoint
from yr_fastload_native.vllm.state import State
from yr_fastload_native.vllm.stored_form import in_stored_form
from yr_fastload_native.vllm.verifying import compare_later
from yr_fastload_native.vllm.weights import Landing, exchanged_tensors, on_one_device

__all__ = ["Exchange", "exchanged", "unwrapped"]

_log = logging.getLogger("vllm.yr_fastload")  # below vLLM's logger, which has the handlers

_MARK = "_yr_fastload_wraps"
_SHADOWED = "load_weights"
# They inherit load_model, but produce no weights, or more than tensors.
_LEFT_ALONE = ("DummyModelLoader", "BitsAndBytesModelLoader")
_NAMED = 3
_MOST_CHANGES = 20  # in what is reported


class _AfreshError(Exception):
    """The model must be constructed anew: some of its tensors may hold unverified bytes."""


def exchanged(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a ``BaseModelLoader.load_model`` so that it exchanges weights. Idempotent.

    Loaders that override ``load_model`` never get here; if one calls the base class's, nothing is exchanged.
    """
    if unwrapped(load_model) is not None:
        return load_model

    @functools.wraps(load_model)
    def exchanging(self: Any, *args: Any, **kwargs: Any) -> Any:
        def plain() -> Any:
            return load_model(self, *args, **kwargs)

        inherited = unwrapped(type(self).load_model) is load_model
        if not inherited or _SHADOWED in vars(self) or type(self).__name__ in _LEFT_ALONE:
            return plain()
        settings = Settings.of({})
        load_format = str(getattr(self.load_config.load_format, "value", self.load_config.load_format))
        call = compat.Call.of(load_model, self, args, kwargs)
        return Exchange(self, self, call, settings, load_format).run(plain)

    setattr(exchanging, _MARK, load_model)
    return exchanging


def unwrapped(load_model: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function that `exchanged` wrapped; None for any other function."""
    return getattr(load_model, _MARK, None)


class Exchange:
    """The exchange of weights in one ``load_model``.

    Args:
        loader: The loader whose ``load_model`` runs.
        cold: The loader that reads from disk: the same one, or that of the cold load format.
        call: The arguments of ``load_model``.
        settings: Settings of the exchange.
        load_format: The load format for reading from disk.
    """

    def __init__(self, loader: Any, cold: Any, call: compat.Call, settings: Settings, load_format: str) -> None:
        self._loader = loader
        self._cold_weights = cold.load_weights  # bound now, before it is shadowed
        self._cold = cold
        self._call = call
        self._settings = settings
        self._load_format = load_format
        self._stage = settings.exchange.stage
        self._making = Watch()  # sees what is read while the model is constructed
        self._weights: ExchangedWeights | None = None
        self._report: LoadReport | None = None
        self._raw: RawWeights | None = None
        self._landing: Landing | None = None
        self._pulled: PulledWeights | None = None
        self._given_up = GivenUp(())
        self._shared: frozenset[int] = frozenset()  # memory of the process, as it was when the model had been made
        self._read_from_disk = False
        self._is_refused = False
        self._shared_checkpoint = None
        if settings.exchange.share != "sharded":
            self._shared_checkpoint = SharedCheckpoint(cold, settings)
        self._outcome = Outcome(call, self._stage)

    def run(self, load_model: Callable[[], Any]) -> Any:
        """Run vLLM's ``load_model``, and publish what it loaded if it came from disk."""
        try:
            return self._run(load_model)
        except BaseException:  # interrupts too: others must not wait for as long as this process lives
            self._let_go()
            raise

    def _run(self, load_model: Callable[[], Any]) -> Any:
        if not compat.is_tested(compat.version()):
            _log.warning(
                "vLLM %s is outside the tested versions %s to %s: trying anyway", compat.version(), *compat.TESTED
            )
        compat.let_artifacts_load()
        hash_as_there()
        compat.note_failed_artifacts()
        worker = compat.worker_class(self._call.vllm_config)
        if worker is not None:
            follow(worker, self._settings.exchange.report, compat.compiled)
        mark(self._settings.exchange.report, "rank set up")
        session.record("loading", {"prefix": self._call.prefix}, self._settings.exchange.report)
        started = time.perf_counter()
        registered = compat.Registered(self._call.vllm_config)
        dtype = torch.get_default_dtype()
        try:
            with self._making:
                model = self._shadowed(load_model, self._load_weights)
            self._finish(model)
        except _AfreshError:
            model = None  # release its memory before the next one is constructed
            if self._weights is not None:
                self._weights.withdraw()
        if model is None:
            torch.set_default_dtype(dtype)  # vLLM's own context does not do so after an exception
            registered.restore()
            gc.collect()
            model = self._shadowed(load_model, self._read)
            self._finish(model)
        if self._weights is not None:
            self._weights.end_with(model)
        if self._shared_checkpoint is not None:
            self._shared_checkpoint.ends_with(model)
        self._outcome.facts["load_model_s"] = time.perf_counter() - started
        mark(self._settings.exchange.report, "processed")
        session.record("loaded", self._outcome.facts, self._settings.exchange.report)
        session.watch_leases(self._settings.exchange.report)
        return model

    def _let_go(self) -> None:
        """Stop being a source, and pass on the turn to read the disk."""
        if self._weights is not None:
            self._weights.let_go()
        if self._shared_checkpoint is not None:
            self._shared_checkpoint.let_go()

    def _shadowed(self, load_model: Callable[[], Any], load_weights: Callable[[Any, Any], None]) -> Any:
        report = self._settings.exchange.report

        def marked(model: Any, model_config: Any) -> None:
            mark(report, "model made")
            load_weights(model, model_config)
            mark(report, "weights", **self._came())

        setattr(self._loader, _SHADOWED, marked)
        try:
            return load_model()
        finally:
            delattr(self._loader, _SHADOWED)

    def _came(self) -> dict[str, Any]:
        """How the weights came, for the phases of the start; nothing if they are yet to come."""
        if self._read_from_disk:
            fallback = self._outcome.facts["fallback"]
            return {"source": "disk", **({"fallback": fallback} if fallback else {})}
        return {"source": "instance", "transport": self._report.transport} if self._report is not None else {}

    # -- loading --------------------------------------------------------------------------------------------------

    def _load_weights(self, model: Any, model_config: Any) -> None:
        """Called by vLLM instead of its loader's method."""
        self._making.end()
        started = time.perf_counter()
        written = False
        has_weights = False
        if self._settings.exchange.share == "checkpoint":
            if self._settings.exchange.fallback == "error" and not self._has_checkpoint(model, model_config):
                raise NotPublishedError("no live source publishes this checkpoint", op="load")
        elif (weights := self._prepare(model)) is not None:
            try:
                self._await_publisher(weights)
                if weights.part_from_others():
                    self._outcome.facts["identity"] = weights.identity
                    self._await_publisher(weights)
                if self._stage == "final":
                    # Pulled after vLLM has processed the uninitialised weights.
                    has_weights = weights.fast.is_published(weights.identity)
                    if not has_weights:
                        raise NotPublishedError("no live source publishes this identity", op="load")
                else:
                    written = True
                    self._pull(weights, model, exchanged_tensors(model, self._shared), self._shared)
                    # Identity and connecting too.
                    self._outcome.facts["pull_s"] = time.perf_counter() - started - self._outcome.facts["waited_s"]
                    has_weights = True
            except FastLoadError as error:
                written = error.memory_written
                if self._has_checkpoint(model, model_config):
                    self._outcome.facts["fallback"] = error.code
                    _log.info("loading from the published checkpoint: %s", str(error))
                else:
                    self._fall_back(error, time.perf_counter() - started)
        if self._agree(has_weights):
            return
        if written:
            raise _AfreshError
        self._read(model, model_config)

    def _pull(
        self,
        weights: ExchangedWeights,
        model: Any,
        tensors: dict[str, torch.Tensor],
        shared: frozenset[int],
        check: Callable[[dict[str, torch.Tensor]], None] = lambda pulled: None,
    ) -> None:
        """Fill tensors of a model.

        Args:
            weights: As what they are exchanged.
            model: Whose they are.
            tensors: By the names under which they are published.
            shared: `process_wide` memory.
            check: Of what was pulled, before it counts as verified.

        Raises:
            FastLoadError: As from `FastLoader.load`.
        """
        landing = Landing(model, tensors, shared)
        try:
            exchanged = in_stored_form(landing.tensors) if self._stage == "final" else landing.tensors
            report = weights.fast.load(exchanged, weights.identity, files=weights.files.sums)
            check(landing.tensors)
        except BaseException as error:
            if getattr(error, "memory_written", True):
                self._given_up = landing.given_up()
            raise
        landing.finish()
        self._landing = landing
        self._report = report
        if self._stage == "raw":
            self._pulled = PulledWeights(weights.source(model), landing.tensors, model)
        self._outcome.pulled(report)

    def _await_publisher(self, weights: ExchangedWeights) -> None:
        """Wait for the one of several starting instances that reads the disk.

        Not if all ranks read together: each could be waiting for another instance's rank. Nor for weights of one
        layout, if the checkpoint is shared: then the checkpoint is what instances wait for.
        """
        exchange = self._settings.exchange
        if exchange.publish == "off" or not exchange.wait_for_publisher_s or not compat.reads_alone(self._load_format):
            return
        if self._shared_checkpoint is not None:
            return
        started = time.perf_counter()
        try:
            weights.fast.wait_for_publisher(weights.identity, timeout_s=exchange.wait_for_publisher_s)
        finally:
            self._outcome.facts["waited_s"] = time.perf_counter() - started

    def _has_checkpoint(self, model: Any, model_config: Any) -> bool:
        """Whether the weights can be loaded from a published checkpoint."""
        return self._shared_checkpoint is not None and self._shared_checkpoint.is_published(model, model_config)

    def _agree(self, has_weights: bool) -> bool:
        """Whether this rank need not read from disk: it has its weights, and no rank waits for it to read along."""
        if compat.reads_alone(self._load_format) or compat.on_all_ranks(has_weights):
            return has_weights
        if has_weights:
            self._outcome.facts.update(fallback="OTHER_RANK", transport=None, bytes=0, pull_s=None)
            self._report = None
            _log.warning(
                "another rank reads from disk, which all ranks do together by load format %s: so does this one",
                self._load_format,
            )
        return False

    def _prepare(self, model: Any) -> ExchangedWeights | None:
        """Determine the identity of the weights, and connect. None if nothing can be exchanged."""
        started = time.perf_counter()
        if compat.has_online_quantization(model):
            _log.info("weights are quantised while they are read: nothing to exchange, reading from disk")
            return None
        try:
            self._shared = process_wide(model)
            self._weights = self._identify(model)
        except FastLoadError as error:
            self._fall_back(error, time.perf_counter() - started)
            return None
        except Exception as error:  # a version of vLLM in which something has moved
            if self._settings.exchange.fallback == "error":
                raise
            self._outcome.facts["fallback"] = f"{type(error).__name__}: {error}"
            _log.warning(
                "cannot exchange weights with this vLLM, reading from disk: %s", self._outcome.facts["fallback"]
            )
            return None
        self._outcome.facts["identity"] = self._weights.identity
        return self._weights

    def _identify(self, model: Any) -> ExchangedWeights:
        fast = session.loader_of(self._settings.transfer_of(model))
        share_caches(self._call, self._settings)
        files = Checkpoint.of(
            self._settings.exchange.fingerprint,
            self._cold,
            model,
            self._call.model_config,
            deadline_s=self._settings.transfer.deadline_s,
        )

        def digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
            return fast.digests(on_one_device(tensors))

        identity = identity_of(
            self._call,
            stage=self._stage,
            checkpoint=files.text,
            load_format=self._load_format,
            made=AsMade.of(model, exchanged_tensors(model, self._shared), digests),
            read_elsewhere=self._making.contents(files.paths),
        )
        return ExchangedWeights(fast, self._call, self._settings, files, identity)

    def _fall_back(self, error: FastLoadError, seconds: float) -> None:
        """Log the reason and continue, or raise."""
        if self._settings.exchange.fallback == "error":
            raise error
        reason = str(error)
        if isinstance(error, NotPublishedError):
            reason = f"no live source publishes these weights of {self._call.model_config.model!r}"
            waited_s = self._settings.exchange.wait_for_publisher_s
            if 0 < waited_s <= self._outcome.facts["waited_s"]:
                reason += f", nor did the instance that reads them within {waited_s:g} s"
            near = None if self._weights is None else near_miss(self._weights.fast, self._weights.identity)
            reason += f"; {near}" if near else ""
        self._outcome.fell_back(error, reason, seconds)

    def _read(self, model: Any, model_config: Any) -> None:
        """Read from disk, as vLLM would have."""
        self._check_afresh(model)
        weights = self._weights if self._settings.exchange.publish != "off" else None
        before = None if weights is None else State(model, exchanged_tensors(model, process_wide(model)))
        started = time.perf_counter()
        shared = self._shared_checkpoint
        instead = (
            contextlib.nullcontext()
            if shared is None
            else shared.read_instead(model, model_config, self._outcome.facts)
        )
        with Watch() as reading, instead:
            self._cold_weights(model, model_config)
        self._outcome.facts["cold_load_s"] = time.perf_counter() - started
        self._read_from_disk = True
        if weights is None or before is None:
            return
        if self._settings.exchange.share == "auto" and shared is not None and shared.is_shared():
            self._outcome.facts["published"] = "no: the checkpoint is published"
            _log.info("published by its checkpoint alone: share=both publishes these weights too")
            return
        why = weights.unlike_fingerprint(reading, self._cold, model, model_config)
        tensors = exchanged_tensors(model, process_wide(model))
        changes = before.changes(State(model, tensors))
        if why or changes:
            self._refuse(weights, model, why, changes)
        elif self._stage == "raw":
            started = time.perf_counter()
            self._raw = RawWeights(weights.source(model), tensors)
            self._raw.before_processing(model)
            self._outcome.facts["publish_s"] += time.perf_counter() - started

    def _check_afresh(self, model: Any) -> None:
        """Refuse a newly constructed model that reuses memory which may hold unverified bytes."""
        again = self._given_up.found_in(Live.of(model).tensors)
        if again:
            raise IntegrityError(
                f"{len(again)} tensors of the newly constructed model, such as {', '.join(again[:_NAMED])}, lie in "
                "memory of the abandoned one, which may hold damaged bytes: something here keeps them; restart the "
                "process again",
                op="load",
                failed_keys=again,
            )

    def _refuse(self, weights: ExchangedWeights, model: Any, why: str, changes: list[str]) -> None:
        """Publish nothing: an instance that pulls would get other weights, or lack what reading set beside them."""
        self._is_refused = True
        if changes:
            self._outcome.facts["changed_by_reading"] = changes[:_MOST_CHANGES]
        self._outcome.facts["published"] = f"no: {why or changes[0]}"
        weights.source(model).refuse(
            why
            or "reading the weights set or changed more than the tensors that are exchanged, such as "
            + ", ".join(changes[:_NAMED])
        )

    # -- after vLLM has processed the weights ---------------------------------------------------------------------

    def _finish(self, model: Any) -> None:
        weights = self._weights
        if weights is None:
            return
        started = time.perf_counter()
        if self._stage == "final":
            self._finish_final(weights, model)
        elif self._raw is not None:
            self._raw.after_processing(model, self._outcome.facts)
        elif self._report is not None:
            if self._pulled is not None:
                self._pulled.end()
            guard(weights.source(model), storages(model) | (self._landing.storages() if self._landing else set()))
        if self._report is not None:
            compare_later(weights.source(model), self._report.generation)
        if self._read_from_disk:
            self._outcome.facts["publish_s"] += time.perf_counter() - started
        if not self._is_refused:
            share_model(self._call, self._settings, weights.files)

    def _finish_final(self, weights: ExchangedWeights, model: Any) -> None:
        live = Live.of(model)
        if self._read_from_disk:
            if self._settings.exchange.publish != "off" and not self._is_refused:
                publish_final(weights.source(model), live, self._outcome.facts)
            return
        started = time.perf_counter()
        try:
            if live.opaque:
                raise LayoutMismatchError(f"stage=final is refused: {live.opaque[0]} may hold weights", op="load")
            mine = live.digest()

            def check(pulled: dict[str, torch.Tensor]) -> None:
                if not torch.equal(pulled[SCALARS].cpu(), mine):
                    error = LayoutMismatchError("stage=final is refused: numbers beside the tensors differ", op="load")
                    error.memory_written = True
                    raise error

            self._pull(weights, model, {**live.tensors, SCALARS: mine.clone()}, process_wide(model), check)
        except FastLoadError as error:
            self._fall_back(error, time.perf_counter() - started)
        if not self._agree(self._report is not None):
            raise _AfreshError
