"""Weights that come from another instance, into a model that vLLM loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import torch

from yr_fastload_native.errors import IntegrityError, LayoutMismatchError
from yr_fastload_native.reporting.load_report import LoadReport
from yr_fastload_native.vllm.exchanged_weights import ExchangedWeights
from yr_fastload_native.vllm.model_contents import SCALARS, Live, storages
from yr_fastload_native.vllm.outcome import Outcome
from yr_fastload_native.vllm.process_wide import GivenUp, process_wide
from yr_fastload_native.vllm.publishing import guard
from yr_fastload_native.vllm.pulled_weights import PulledWeights
from yr_fastload_native.vllm.stored_form import in_stored_form
from yr_fastload_native.vllm.weights import Landing, exchanged_tensors

__all__ = ["Pull"]

_NAMED = 3


class Pull:
    """What one ``load_model`` pulls.

    Args:
        outcome: Where it is reported.

    Attributes:
        report: Of what was pulled; None if the model has not got its weights this way.
    """

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.report: LoadReport | None = None
        self._landing: Landing | None = None
        self._pulled: PulledWeights | None = None
        self._given_up = GivenUp(())

    def raw(self, weights: ExchangedWeights, model: Any, shared: Set[int]) -> None:
        """Pull the weights of a model that vLLM has not processed.

        Args:
            weights: As what they are exchanged.
            model: Whose they are.
            shared: `process_wide` memory.

        Raises:
            FastLoadError: As from `FastLoader.load`.
        """
        landing = Landing(model, exchanged_tensors(model, shared), shared)
        report = self._fill(weights, landing)
        self._pulled = PulledWeights(weights.source(model), landing.tensors, model)
        self._outcome.pulled(report)

    def final(self, weights: ExchangedWeights, model: Any, live: Live) -> None:
        """Pull what a processed model consists of.

        Args:
            weights: As what it is exchanged.
            model: That vLLM has processed without its weights.
            live: Its contents.

        Raises:
            FastLoadError: As from `FastLoader.load`.
            LayoutMismatchError: Processing made something else here than there.
        """
        if live.opaque:
            raise LayoutMismatchError(f"stage=final is refused: {live.opaque[0]} may hold weights", op="load")
        mine = live.digest()

        def check(pulled: Mapping[str, torch.Tensor]) -> None:
            if not torch.equal(pulled[SCALARS].cpu(), mine):
                error = LayoutMismatchError("stage=final is refused: numbers beside the tensors differ", op="load")
                error.memory_written = True
                raise error

        landing = Landing(model, {**live.tensors, SCALARS: mine.clone()}, process_wide(model))
        self._outcome.pulled(self._fill(weights, landing, in_stored_form, check))

    def _fill(
        self,
        weights: ExchangedWeights,
        landing: Landing,
        form: Callable[[Mapping[str, torch.Tensor]], Mapping[str, Any]] = lambda tensors: tensors,
        check: Callable[[Mapping[str, torch.Tensor]], None] = lambda pulled: None,
    ) -> LoadReport:
        """Pull to where it lands.

        Args:
            weights: As what it is exchanged.
            landing: Where.
            form: Of tensors, as they are exchanged.
            check: Of what was pulled, before it counts as verified.
        """
        try:
            report = weights.fast.load(form(landing.tensors), weights.identity, files=weights.files.sums)
            check(landing.tensors)
        except BaseException as error:
            if getattr(error, "memory_written", True):
                self._given_up = landing.given_up()
            raise
        landing.finish()
        self._landing, self.report = landing, report
        return report

    def forget(self) -> None:
        """The model gets its weights in another way after all."""
        self.report = None

    def serve(self, weights: ExchangedWeights, model: Any) -> None:
        """Keep what was pulled as it is for others, once vLLM has processed it: for as long as it stays."""
        if self._pulled is not None:
            self._pulled.end()
        guard(weights.source(model), storages(model) | (self._landing.storages() if self._landing else set()))

    def check_afresh(self, model: Any) -> None:
        """Refuse a newly constructed model that reuses memory which may hold unverified bytes.

        Raises:
            IntegrityError: It does, because something keeps the memory of the abandoned model.
        """
        again = self._given_up.found_in(Live.of(model).tensors)
        if again:
            raise IntegrityError(
                f"{len(again)} tensors of the newly constructed model, such as {', '.join(again[:_NAMED])}, lie in "
                "memory of the abandoned one, which may hold damaged bytes: something here keeps them; restart the "
                "process again",
                op="load",
                failed_keys=again,
            )
