"""What a pulled model serves to others while vLLM processes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set

import torch

from yr_fastload_native.vllm.processing import Processing
from yr_fastload_native.vllm.publishing import Source, by_address, by_reference, most_left

__all__ = ["PulledWeights"]

_log = logging.getLogger("vllm.yr_fastload")


class PulledWeights:
    """Weights as pulled, until they are processed.

    Who pulls by reference becomes a source, which keeps the weights in memory. Once processing has replaced more of
    them than ``publish_device_bytes``, it is none any more: otherwise the device would hold all of them twice.

    Args:
        source: Of what was pulled.
        tensors: That were pulled.
        model: That is about to be processed.
    """

    def __init__(self, source: Source, tensors: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
        self._publication = source.fast.publication(source.identity)
        self._processing: Processing | None = None
        serves = self._publication is not None and self._publication.by_reference
        if serves and not by_reference(source.settings):
            self._held = by_address(tensors)
            self._left: set[int] = set()
            self._most_left = most_left(source.settings, tensors)
            self._processing = Processing(model, self._leave)

    def _leave(self, gone: Set[int]) -> None:
        """Of a module that was processed: what it no longer uses."""
        self._left |= gone & self._held.keys()
        if self._publication is None or sum(self._held[place] for place in self._left) <= self._most_left:
            return
        _log.info("not a source of these weights: processing replaces them")
        self._publication.close()
        self._publication = None

    def end(self) -> None:
        """All is processed. Idempotent."""
        if self._processing is not None:
            self._processing.end()
