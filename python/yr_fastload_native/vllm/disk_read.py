"""Weights that vLLM reads from disk, and whether others may get them from here."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from yr_fastload_native.vllm.exchanged_weights import ExchangedWeights
from yr_fastload_native.vllm.model_contents import Live
from yr_fastload_native.vllm.outcome import Outcome
from yr_fastload_native.vllm.process_wide import process_wide
from yr_fastload_native.vllm.publishing import RawWeights, publish_final
from yr_fastload_native.vllm.read_elsewhere import Watch
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.shared_checkpoint import SharedCheckpoint
from yr_fastload_native.vllm.state import State
from yr_fastload_native.vllm.weights import exchanged_tensors

__all__ = ["DiskRead"]

_log = logging.getLogger("vllm.yr_fastload")

_NAMED = 3
_MOST_CHANGES = 20  # in what is reported


class DiskRead:
    """What one ``load_model`` reads from disk.

    Args:
        cold: The loader that reads it; its ``load_weights`` as it is now.
        settings: Settings of the exchange.
        outcome: Where it is reported.
        checkpoint: From which it may be read instead; None: from none.

    Attributes:
        has_happened: Whether the model has got its weights this way.
        is_refused: Whether others may not get them from here.
        raw: What is published of them once vLLM has processed the model; None for nothing, and at stage `final`.
    """

    def __init__(self, cold: Any, settings: Settings, outcome: Outcome, checkpoint: SharedCheckpoint | None) -> None:
        self._cold = cold
        self._load_weights = cold.load_weights
        self._settings = settings
        self._outcome = outcome
        self._checkpoint = checkpoint
        self.raw: RawWeights | None = None
        self.has_happened = False
        self.is_refused = False

    def run(self, weights: ExchangedWeights | None, model: Any, model_config: Any) -> None:
        """Read, as vLLM would have.

        Args:
            weights: As what it is exchanged; None for nothing.
            model: What it is read into.
            model_config: Its config.
        """
        before = None if weights is None else State(model, exchanged_tensors(model, process_wide(model)))
        reading = self._read(model, model_config)
        if weights is None or before is None:
            return
        checkpoint = self._checkpoint
        if self._settings.exchange.share == "auto" and checkpoint is not None and checkpoint.is_shared():
            self._outcome.facts["published"] = "no: the checkpoint is published"
            _log.info("published by its checkpoint alone: share=both publishes these weights too")
            return
        why = weights.unlike_fingerprint(reading, self._cold, model, model_config)
        tensors = exchanged_tensors(model, process_wide(model))
        changes = before.changes(State(model, tensors))
        if why or changes:
            self._refuse(weights, model, why, changes)
        elif self._settings.exchange.stage == "raw":
            started = time.perf_counter()
            self.raw = RawWeights(weights.source(model), tensors)
            self.raw.before_processing(model)
            self._outcome.facts["publish_s"] += time.perf_counter() - started

    def _read(self, model: Any, model_config: Any) -> Watch:
        """What saw it being read."""
        started = time.perf_counter()
        instead = (
            contextlib.nullcontext()
            if self._checkpoint is None
            else self._checkpoint.read_instead(model, model_config, self._outcome.facts)
        )
        with Watch() as reading, instead:
            self._load_weights(model, model_config)
        self._outcome.facts["cold_load_s"] = time.perf_counter() - started
        self.has_happened = True
        return reading

    def _refuse(self, weights: ExchangedWeights, model: Any, why: str, changes: list[str]) -> None:
        """Publish nothing: an instance that pulls would get other weights, or lack what reading set beside them."""
        self.is_refused = True
        if changes:
            self._outcome.facts["changed_by_reading"] = changes[:_MOST_CHANGES]
        self._outcome.facts["published"] = f"no: {why or changes[0]}"
        weights.source(model).refuse(
            why
            or "reading the weights set or changed more than the tensors that are exchanged, such as "
            + ", ".join(changes[:_NAMED])
        )

    def publish_final(self, weights: ExchangedWeights, model: Any, live: Live) -> None:
        """Publish what the processed model consists of."""
        if self._settings.exchange.publish != "off" and not self.is_refused:
            publish_final(weights.source(model), live, self._outcome.facts)
