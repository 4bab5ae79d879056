"""What an instance publishes of its loaded weights, and when.

vLLM processes weights for its kernels right after loading: it may replace a tensor, or write to it. Stage ``raw``
publishes what was there before. A copy (`host`, `staged`) can be made at once or, if nothing was written to, later; by
reference (`d2d`), the original memory must stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set
from typing import Any

import attrs
import torch

from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.devices.registry import accelerators, of_torch
from yr_fastload_native.errors import FastLoadError, TransferTimeoutError, UnavailableError
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.publishing.publication import Publication
from yr_fastload_native.reporting.load_report import size
from yr_fastload_native.transports import registry
from yr_fastload_native.vllm import session
from yr_fastload_native.vllm.background import Background, Thread
from yr_fastload_native.vllm.model_contents import SCALARS, Live, storages
from yr_fastload_native.vllm.processing import Processing
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.stored_form import in_stored_form
from yr_fastload_native.vllm.verifying import tell_later
from yr_fastload_native.vllm.weights import on_one_device

__all__ = ["RawWeights", "Source", "by_address", "by_reference", "guard", "most_left", "publish_final"]

_log = logging.getLogger("vllm.yr_fastload")

_NAMED = 3
_DEVICE_SHARE = 20  # of a device's memory, or of the weights where that is not known: a part of so many


_background = Background("yr-fastload-publish")
wait = _background.wait  # until nothing is being published any more


@attrs.frozen
class Source:
    """This instance as a possible publisher of an identity.

    Attributes:
        files: The weights' files; None if a given fingerprint vouches for them.
        moves: Why its weights do not stay where they are, so that nobody may be referred to them; None if they do.
    """

    fast: FastLoader
    identity: dict[str, Any]
    settings: Settings
    files: ReadFiles | None = None
    moves: str | None = None

    def publish_as(self) -> str | None:
        """How they have to be published, if not as set."""
        if self.moves is None or not _can_refer():
            return None
        if by_reference(self.settings):
            _log.warning("published as a copy, although transport d2d was requested: %s", self.moves)
        return "staged"

    @property
    def sums(self) -> dict[str, str] | None:
        """The known sums of the files."""
        return None if self.files is None else dict(self.files.sums)

    def say(self, publication: Publication, how: str) -> None:
        digest = publication.digest
        trust = f", content digest {digest}" if digest else ""
        by = "+".join(publication.transports)
        _log.info("published %s in %.2f s by %s%s%s", size(publication.bytes), publication.seconds, by, how, trust)
        what: dict[str, object] = {"bytes": publication.bytes, "seconds": publication.seconds, "transports": by}
        if digest:
            what["digest"] = digest
        session.record("published", what, self.settings.exchange.report)
        tell_later(self, publication)

    def refuse(self, why: str) -> None:
        """Log why nothing is published, and give another instance the turn."""
        self.fast.release(self.identity)
        _log.warning("not published: %s", why)
        session.record("not published", {"why": why}, self.settings.exchange.report)

    def in_background(self, work: Callable[[Thread], None], *, gives_way: bool = True) -> None:
        """Work beside the start of this instance, once devices have done what this thread has asked of them.

        A framework's streams are a thread's own: another thread would wait for others. Unless it gives way, the start
        waits for what comes of it.
        """
        for kind in accelerators():
            if kind.current() >= 0:
                kind.synchronize(kind.current())
        bound_s = self.settings.transfer.publish_deadline_s
        _background.start(work, lambda error: self.refuse(str(error)), end_s=bound_s, gives_way=gives_way)


def by_reference(settings: Settings) -> bool:
    """Whether that was asked for by name, so that memory is to be kept for it."""
    config = settings.transfer
    named = config.publish_as if config.publish_as != "auto" else config.transport
    return any(transport.by_reference for transport in registry.named(named.split("+")))


def _can_refer() -> bool:
    """Whether this process has a device whose memory can be published by reference."""
    return any(
        transport.by_reference and transport.reaches(kind) for transport in registry.ALL for kind in accelerators()
    )


class RawWeights:
    """A model's weights as loaded, from before vLLM processes them until they are published."""

    def __init__(self, source: Source, tensors: Mapping[str, torch.Tensor]) -> None:
        self._source = source
        # Aliases, each of which keeps its memory where it is.
        aliases = {name: tensor.detach() for name, tensor in tensors.items()}
        self._tensors = on_one_device(aliases)
        copies = (tensor for name, tensor in self._tensors.items() if tensor is not aliases[name])
        self._copies = {tensor.untyped_storage().data_ptr() for tensor in copies}
        self._digests: dict[str, tuple[int, ...]] = {}
        self._published = False
        self._processing: Processing | None = None
        self._held: dict[int, int] = {}  # bytes by address
        self._left: set[int] = set()  # addresses of those that the model no longer uses
        self._most_left = 0

    def before_processing(self, model: torch.nn.Module) -> None:
        """Publish now, or record what is there, to check later whether it stayed.

        It is published now if only copies can be published: kept until later, the weights would be in memory a second
        time, beside those that vLLM repacks on a CPU. On a device so much of them may be for which
        ``publish_device_bytes`` has room: once processing has replaced more, all are copied to the worker.
        """
        try:
            if self._source.settings.exchange.publish == "inline" or not _can_refer():
                self._publish_now()
            else:
                self._digests = self._source.fast.digests(self._tensors)
                self._held = by_address(self._tensors)
                self._most_left = most_left(self._source.settings, self._tensors)
                self._processing = Processing(model, self._leave)
        except FastLoadError as error:
            self._source.refuse(str(error))
            self._tensors = {}

    def _publish_now(self) -> None:
        """With digests taken now, because processing may write to a tensor, even if only the same value."""
        publication = self._source.fast.publish(
            self._tensors, self._source.identity, publish_as=self._source.publish_as(), files=self._source.sums
        )
        if not publication.wait_settled(self._source.settings.transfer.publish_deadline_s):
            publication.close()
            if publication.failure:
                raise UnavailableError(publication.failure, op="publish")
            raise TransferTimeoutError("digests were not computed within publish_deadline_s", op="publish")
        self._source.say(publication, "")
        self._published = True
        self._tensors = {}

    def _leave(self, gone: Set[int]) -> None:
        """Of a module that was processed: what it no longer uses."""
        self._left |= gone & self._held.keys()
        left = sum(self._held[place] for place in self._left)
        kept = by_reference(self._source.settings) and self._source.moves is None
        if not self._tensors or left <= self._most_left or kept or self._publish_as(left) != "staged":
            return
        try:
            self._publish("staged", lambda done, total: None, ", while others are processed: processing replaces them")
        except FastLoadError as error:
            self._source.refuse(str(error))

    def after_processing(self, model: torch.nn.Module, outcome: dict[str, Any]) -> None:
        """Publish in the background, or update what was published already."""
        if self._processing is not None:
            self._processing.end()
        if self._published:
            outcome["published"] = "inline"
            guard(self._source, storages(model) | self._copies)
            return
        if not self._tensors:
            outcome["published"] = "no"
            return
        outcome["published"] = "background"
        replaced = _replaced(self._tensors, storages(model) | self._copies)
        publish_as = self._publish_as(replaced)
        why = f": processing replaced {size(replaced) if replaced else 'none'} of them"
        if publish_as == "staged":
            # At once, because the KV cache is about to get the rest of the device's memory.
            try:
                self._publish(publish_as, lambda done, total: None, why)
            except FastLoadError as error:
                self._source.refuse(str(error))
        else:
            self._source.in_background(
                lambda thread: self._publish(publish_as, thread.go_on, f", in the background{why}")
            )

    def _publish_as(self, replaced: int) -> str | None:
        """How to publish what is kept, of which processing replaced so many bytes, if not as set."""
        publish_as = self._source.publish_as()
        if publish_as is not None or not replaced:
            return publish_as
        if by_reference(self._source.settings):
            _log.warning(
                "%s of weights as loaded stay in memory beside the processed ones, because transport d2d was "
                "requested; publish_as='staged' keeps them in the worker instead",
                size(replaced),
            )
            return None
        return "staged" if any(tensor.device.type != "cpu" for tensor in self._tensors.values()) else None

    def _publish(self, publish_as: str | None, progress: Callable[[int, int], None], how: str) -> None:
        tensors, self._tensors = self._tensors, {}
        now = self._source.fast.digests(tensors)
        changed = [name for name, digest in self._digests.items() if now.get(name) != digest]
        if changed:
            names = ", ".join(changed[:_NAMED])
            why = f"processing wrote to {len(changed)} tensors, such as {names}; publish='inline' publishes before that"
            self._source.refuse(why)
            return
        publication = self._source.fast.publish(
            tensors, self._source.identity, publish_as=publish_as, progress=progress, files=self._source.sums
        )
        self._published = True
        self._source.say(publication, how)


def most_left(settings: Settings, tensors: Mapping[str, torch.Tensor]) -> int:
    """How much of the weights may be held beside processed ones, bytes: as set, or a part of the device's memory."""
    if settings.exchange.publish_device_bytes:
        return settings.exchange.publish_device_bytes
    device = next((of_torch(each.device) for each in tensors.values() if each.device.type != "cpu"), None)
    there = 0 if device is None else device.kind.open_device(device.index).memory_bytes
    return (there or sum(by_address(tensors).values())) // _DEVICE_SHARE


def by_address(tensors: Mapping[str, torch.Tensor]) -> dict[int, int]:
    """Bytes of each memory that tensors lie in."""
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors.values()
        if tensor.numel()
    }


def _replaced(tensors: dict[str, torch.Tensor], used: set[int]) -> int:
    """Bytes of memory that the model no longer uses."""
    return sum(size for place, size in by_address(tensors).items() if place not in used)


def guard(source: Source, used: set[int]) -> None:
    """Withdraw what is published by reference if processing changed it.

    Args:
        source: The source that publishes it.
        used: Addresses of the memory that is in use anyway.
    """
    publication = source.fast.publication(source.identity)
    if publication is None or not publication.by_reference:
        return
    if source.moves is not None:
        _log.info("not a source of these weights: %s", source.moves)
        publication.close()
        return
    if publication.kept_beside(used) and not by_reference(source.settings):
        _log.info("not a source of these weights: processing replaced them")
        publication.close()
        return

    def check(_: Thread) -> None:
        changed = source.fast.check(publication)
        if changed:
            _log.warning(
                "not a source of these weights any more: processing wrote to %d tensors, such as %s; publish_as="
                "'d2d+staged' keeps a copy for others",
                len(changed),
                ", ".join(changed[:_NAMED]),
            )

    source.in_background(check)


def publish_final(source: Source, live: Live, outcome: dict[str, Any]) -> None:
    """Publish a model as its kernels use it, unless part of it is not a tensor."""
    if live.opaque:
        source.refuse(f"stage=final is refused for this model: {live.opaque[0]} may hold weights")
        outcome["published"] = f"no: {live.opaque[0]}"
        return
    tensors = in_stored_form(on_one_device({**live.tensors, SCALARS: live.digest()}))
    outcome["published"] = source.settings.exchange.publish

    def publish(progress: Callable[[int, int], None]) -> None:
        publication = source.fast.publish(
            tensors, source.identity, publish_as=source.publish_as(), progress=progress, files=source.sums
        )
        source.say(publication, "")

    if source.settings.exchange.publish == "background":
        source.in_background(lambda thread: publish(thread.go_on))
        return
    try:
        publish(lambda done, total: None)
    except FastLoadError as error:
        source.refuse(str(error))
