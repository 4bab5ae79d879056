"""The weights that one load exchanges: what they are, by which loader they come and go, and until when."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import torch

from yr_fastload_native.checkpoints.sums import differing, digest_of
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.publishing.publication import Publication
from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.files_read import Checkpoint
from yr_fastload_native.vllm.lifetime import Stay
from yr_fastload_native.vllm.moving import why_they_move
from yr_fastload_native.vllm.process_wide import address
from yr_fastload_native.vllm.publishing import Source
from yr_fastload_native.vllm.read_elsewhere import Watch
from yr_fastload_native.vllm.settings import Settings

__all__ = ["ExchangedWeights"]

_log = logging.getLogger("vllm.yr_fastload")


class ExchangedWeights:
    """Weights of one model.

    Args:
        call: Of ``load_model``.
        settings: Settings of the exchange.
        identity: Of the weights, but for what tells their files from others with the same sample.

    Attributes:
        fast: The loader that pulls and publishes them.
        files: What they are read from.
        identity: As what they are exchanged.
    """

    def __init__(
        self, fast: FastLoader, call: compat.Call, settings: Settings, files: Checkpoint, identity: dict[str, Any]
    ) -> None:
        self.fast = fast
        self.files = files
        self._call = call
        self._settings = settings
        self._begin(identity | files.apart)

    def _begin(self, identity: dict[str, Any]) -> None:
        """Exchange them under this identity."""
        self.identity = identity
        self._others: Publication | None = self.fast.publication(identity)  # by another model of this process
        self._stay = Stay(self.fast, identity)

    def part_from_others(self) -> bool:
        """Exchange them apart from published weights of other files with the same sample, as their sums show."""
        mine = self.files.sums
        wrong = differing(mine, self.fast.files(self.identity) or {}) if mine else []
        if wrong:
            _log.warning("%s is not the file of that name that others have read: exchanged apart from them", wrong[0])
            self.files = attrs.evolve(self.files, apart={"sums": digest_of(sorted(mine.items()))})
            self._stay.end()
            self._begin(self.identity | self.files.apart)
        return bool(wrong)

    def unlike_fingerprint(self, reading: Watch, cold: Any, model: Any, model_config: Any) -> str:
        """Why the weights read are not those that were fingerprinted; empty if they are.

        Args:
            reading: What saw them being read.
            cold: The loader that read them.
            model: Whose they are.
            model_config: Its config.
        """
        if self.files.files is None:
            return ""  # a given fingerprint vouches for everything that `load_weights` reads
        changed = self.files.changed(cold, model, model_config)
        if changed:
            return f"{changed[0]} changed while the weights were read: nobody knows which of its versions they are"
        others = reading.others(self.files.paths)
        if others:
            return (
                f"the weights were read from {others[0]} too, which their fingerprint does not cover; set fingerprint "
                "to a text that names all of them"
            )
        return ""

    def source(self, model: torch.nn.Module) -> Source:
        """This instance as a publisher of them, which are in a model."""
        addresses = (address(parameter) for parameter in model.parameters())
        moves = why_they_move(self._call.vllm_config, self._call.model_config, addresses)
        return Source(self.fast, self.identity, self._settings, self.files.files, moves)

    def end_with(self, model: object) -> None:
        """Stop being a source of them when a model is deleted."""
        self._stay.ends_with(model)

    def withdraw(self) -> None:
        """Stop being a source of an abandoned model; another model in this process may remain one."""
        publication = self.fast.publication(self.identity)
        if publication is not None and publication is not self._others:
            publication.close()

    def let_go(self) -> None:
        """Stop being a source, and pass on the turn to read the disk."""
        self.fast.release(self.identity)
        self.withdraw()
        self._stay.end()
