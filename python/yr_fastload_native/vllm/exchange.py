"""One model load of vLLM, with the weights pulled from a running instance instead of read from disk.

Every way in (load format, patch, patched source) ends here: vLLM's own ``load_model`` runs unchanged, and only
``load_weights`` of that one loader object is replaced meanwhile.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.vllm import compat, session
from yr_fastload_native.vllm.as_made import AsMade
from yr_fastload_native.vllm.caches import share_caches
from yr_fastload_native.vllm.disk_read import DiskRead
from yr_fastload_native.vllm.exchanged_weights import ExchangedWeights
from yr_fastload_native.vllm.files_read import Checkpoint
from yr_fastload_native.vllm.identity import identity_of
from yr_fastload_native.vllm.model_contents import Live
from yr_fastload_native.vllm.model_elsewhere import hash_as_there, share_model
from yr_fastload_native.vllm.near_misses import near_miss
from yr_fastload_native.vllm.outcome import Outcome
from yr_fastload_native.vllm.phases import follow, mark
from yr_fastload_native.vllm.process_wide import process_wide
from yr_fastload_native.vllm.pull import Pull
from yr_fastload_native.vllm.read_elsewhere import Watch
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.shared_checkpoint import SharedCheckpoint
from yr_fastload_native.vllm.verifying import compare_later
from yr_fastload_native.vllm.weights import exchanged_tensors, on_one_device

__all__ = ["SHADOWED", "Exchange"]

_log = logging.getLogger("vllm.yr_fastload")  # below vLLM's logger, which has the handlers

SHADOWED = "load_weights"  # of the loader whose ``load_model`` runs


class _AfreshError(Exception):
    """The model must be constructed anew: some of its tensors may hold unverified bytes."""


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
        self._cold = cold
        self._call = call
        self._settings = settings
        self._load_format = load_format
        self._stage = settings.exchange.stage
        self._making = Watch()  # sees what is read while the model is constructed
        self._weights: ExchangedWeights | None = None
        self._shared: frozenset[int] = frozenset()  # memory of the process, as it was when the model had been made
        self._shared_checkpoint = None
        if settings.exchange.share != "sharded":
            self._shared_checkpoint = SharedCheckpoint(cold, settings)
        self._outcome = Outcome(call, self._stage)
        self._pull = Pull(self._outcome)
        self._disk = DiskRead(cold, settings, self._outcome, self._shared_checkpoint)

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

        setattr(self._loader, SHADOWED, marked)
        try:
            return load_model()
        finally:
            delattr(self._loader, SHADOWED)

    def _came(self) -> dict[str, Any]:
        """How the weights came, for the phases of the start; nothing if they are yet to come."""
        if self._disk.has_happened:
            fallback = self._outcome.facts["fallback"]
            return {"source": "disk", **({"fallback": fallback} if fallback else {})}
        return {"source": "instance", "transport": self._pull.report.transport} if self._pull.report is not None else {}

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
                    self._pull.raw(weights, model, self._shared)
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
            self._pull.forget()
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
        self._pull.check_afresh(model)
        self._disk.run(self._weights if self._settings.exchange.publish != "off" else None, model, model_config)

    # -- after vLLM has processed the weights ---------------------------------------------------------------------

    def _finish(self, model: Any) -> None:
        weights = self._weights
        if weights is None:
            return
        started = time.perf_counter()
        if self._stage == "final":
            self._finish_final(weights, model)
        elif self._disk.raw is not None:
            self._disk.raw.after_processing(model, self._outcome.facts)
        elif self._pull.report is not None:
            self._pull.serve(weights, model)
        if self._pull.report is not None:
            compare_later(weights.source(model), self._pull.report.generation)
        if self._disk.has_happened:
            self._outcome.facts["publish_s"] += time.perf_counter() - started
        if not self._disk.is_refused:
            share_model(self._call, self._settings, weights.files)

    def _finish_final(self, weights: ExchangedWeights, model: Any) -> None:
        live = Live.of(model)
        if self._disk.has_happened:
            self._disk.publish_final(weights, model, live)
            return
        started = time.perf_counter()
        try:
            self._pull.final(weights, model, live)
        except FastLoadError as error:
            self._fall_back(error, time.perf_counter() - started)
        if not self._agree(self._pull.report is not None):
            raise _AfreshError
