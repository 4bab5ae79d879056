"""What a store holds of an identity: its head, the manifest that the head pins, and the leases that keep both."""

from __future__ import annotations

import logging
import os
import socket

import attrs

from yr_fastload_native import _core
from yr_fastload_native.config import Config
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.identity import Identity
from yr_fastload_native.manifest import Manifest, decode_head, decode_manifest, encode_manifest

__all__ = ["Catalogue", "Generation", "SupersededError"]

_log = logging.getLogger(__name__)

# A reader that saw the head just before it expired still has this long to fetch the chunks.
_DATA_GRACE_S = 60
_ERASE_S = 2.0


class SupersededError(Exception):
    """The generation under a reader was replaced or withdrawn; start again from the head."""


@attrs.frozen
class Generation:
    """One version of an identity's weights.

    Attributes:
        head: The bytes that the head holds while this version is the current one.
    """

    who: Identity
    manifest: Manifest
    head: bytes

    @property
    def chunk_prefix(self) -> str:
        return self.who.chunk_prefix(self.manifest.generation)


@attrs.frozen
class Catalogue:
    """Heads, manifests and leases in one store, within the bounds of one config."""

    store: _core.ObjectStore
    config: Config

    @property
    def data_ttl_s(self) -> int:
        """Life of manifest and chunks that no source renews."""
        return self.config.lease_s + _DATA_GRACE_S

    def current(self, who: Identity, deadline: Deadline, *, op: str) -> Generation:
        """Read the generation that the head names now.

        Raises:
            NotPublishedError: There is no head.
            SupersededError: The manifest it named is gone already.
            IntegrityError: Head or manifest are damaged, or of another format.
            ResourceExhaustedError: The manifest is beyond a bound.
        """
        head = self.store.get(who.head_key, deadline_s=deadline.left())
        if head is None:
            raise NotPublishedError(
                f"no live source publishes {who.fields}; load from disk", op=op, failed_keys=[who.head_key]
            )
        names = decode_head(head, op=op)
        body = self.store.get(who.manifest_key(names.generation), deadline_s=deadline.left())
        if body is None:
            raise SupersededError
        manifest = decode_manifest(
            body,
            names,
            who,
            max_bytes=self.config.max_manifest_bytes,
            max_tensors=self.config.max_tensors,
            op=op,
        )
        return Generation(who, manifest, head)

    def is_current(self, generation: Generation, deadline: Deadline) -> bool:
        """Whether the head still names this generation."""
        return self.store.get(generation.who.head_key, deadline_s=deadline.left()) == generation.head

    def describe(self, who: Identity, manifest: Manifest, *, ttl_s: int, deadline: Deadline) -> Generation:
        """Store the manifest of a generation whose chunks are stored; no head names it yet."""
        body, head = encode_manifest(manifest, max_bytes=self.config.max_manifest_bytes, transport=self.store.transport)
        key = who.manifest_key(manifest.generation)
        self.store.set(key, body, ttl_s=ttl_s, deadline_s=deadline.left())
        return Generation(who, manifest, head)

    def announce(self, generation: Generation, deadline: Deadline, *, replace: bool) -> bool:
        """Let the head name this generation. Without ``replace`` only if there is none; False if there was."""
        key, ttl_s = generation.who.head_key, self.config.lease_s
        if not replace:
            return self.store.set_if_absent(key, generation.head, ttl_s=ttl_s, deadline_s=deadline.left())
        self.store.set(key, generation.head, ttl_s=ttl_s, deadline_s=deadline.left())
        return True

    def take_lease(self, generation: Generation, deadline: Deadline) -> _core.Lease:
        """Become a source of the current generation.

        Raises:
            NotPublishedError: It is not the current one any more, or its data is gone.
            ResourceExhaustedError: It has sources enough.
        """
        who, manifest = generation.who, generation.manifest
        return _core.Lease(
            self.store,
            head_key=who.head_key,
            head_value=generation.head,
            slot_prefix=who.slot_prefix(manifest.generation),
            owner=f"{socket.gethostname()}:{os.getpid()}",
            data_keys=_data_keys(who, manifest.generation, len(manifest.chunks)),
            lease_s=self.config.lease_s,
            data_s=self.data_ttl_s,
            deadline_s=deadline.left(),
        )

    def erase_data(self, who: Identity, generation: str, chunks: int) -> None:
        """Erase manifest and chunks of a generation that no head names. Never raises: they end with their TTL too."""
        try:
            self.store.erase(_data_keys(who, generation, chunks), deadline_s=_ERASE_S)
        except FastLoadError as error:
            _log.warning("could not erase generation %s, it ends with its TTL: %s", generation, error)


def _data_keys(who: Identity, generation: str, chunks: int) -> list[str]:
    return [who.manifest_key(generation), *_core.chunk_keys(who.chunk_prefix(generation), chunks)]
