"""What a store holds of an identity: its head, the manifest that the head pins, and the leases that keep both."""

from __future__ import annotations

import logging
import os
import socket
import time
from array import array

import attrs

from yr_fastload_native import _core
from yr_fastload_native.config import Config
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.identity import Identity
from yr_fastload_native.manifest import (
    Head,
    Manifest,
    decode_digests,
    decode_head,
    decode_manifest,
    encode_digests,
    encode_manifest,
)

__all__ = ["Catalogue", "Generation", "SupersededError"]

_log = logging.getLogger(__name__)

# A reader that saw the head just before it expired still has this long to fetch the chunks.
_DATA_GRACE_S = 60
_ERASE_S = 2.0
_POLL_S = 0.02
_PENDING = b"pending"  # where digests will be


class SupersededError(Exception):
    """The generation under a reader was replaced or withdrawn; start again from the head."""


@attrs.frozen
class Generation:
    """One version of an identity's weights.

    Attributes:
        head: The bytes that the head holds while this version is the current one.
        transports: By which it can be read.
    """

    who: Identity
    manifest: Manifest
    head: bytes
    transports: tuple[str, ...]

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

    def head(self, who: Identity, deadline: Deadline, *, op: str) -> tuple[bytes, Head]:
        """What names the current generation, as stored and parsed.

        Raises:
            NotPublishedError: There is no head.
            IntegrityError: It is damaged, or of another format.
        """
        head = self.store.get(who.head_key, deadline_s=deadline.left())
        if head is None:
            raise NotPublishedError(
                f"no live source publishes {who.fields}; load from disk", op=op, failed_keys=[who.head_key]
            )
        return head, decode_head(head, op=op)

    def read(self, who: Identity, head: bytes, names: Head, deadline: Deadline, *, op: str) -> Generation:
        """Read the generation that a head names.

        Raises:
            SupersededError: Its manifest is gone already.
            IntegrityError: It is damaged, or of another format.
            ResourceExhaustedError: It is beyond a bound.
        """
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
        return Generation(who, manifest, head, tuple(names.transports))

    def digests(self, generation: Generation, deadline: Deadline, *, op: str) -> array[int] | None:
        """The digest of each chunk; None if the publisher has not taken them yet.

        Raises:
            SupersededError: They are gone, and so is the generation.
            IntegrityError: They are damaged.
        """
        manifest = generation.manifest
        digests = manifest.digests()
        if digests is not None:
            return digests
        body = self.store.get(generation.who.digests_key(manifest.generation), deadline_s=deadline.left())
        if body is None:
            raise SupersededError
        return None if body == _PENDING else decode_digests(body, manifest, op=op)

    def wait_for_digests(self, generation: Generation, deadline: Deadline, *, op: str) -> array[int]:
        """The digest of each chunk, once the publisher has taken them.

        Raises:
            SupersededError: The generation is no longer the current one.
            TransferTimeoutError: They did not come in time.
            IntegrityError: They are damaged.
        """
        while (digests := self.digests(generation, deadline, op=op)) is None:
            if not self.is_current(generation, deadline):
                raise SupersededError
            time.sleep(min(_POLL_S, deadline.left()))
        return digests

    def store_digests(self, generation: Generation, digests: memoryview, *, ttl_s: int, deadline: Deadline) -> None:
        name = generation.manifest.generation
        key = generation.who.digests_key(name)
        self.store.set(key, encode_digests(name, digests), ttl_s=ttl_s, deadline_s=deadline.left())

    def is_current(self, generation: Generation, deadline: Deadline) -> bool:
        """Whether the head still names this generation."""
        return self.store.get(generation.who.head_key, deadline_s=deadline.left()) == generation.head

    def describe(
        self, who: Identity, manifest: Manifest, transports: list[str], *, ttl_s: int, deadline: Deadline
    ) -> Generation:
        """Store the manifest of a generation whose chunks can be read; no head names it yet."""
        body, head = encode_manifest(manifest, max_bytes=self.config.max_manifest_bytes, transports=transports)
        key = who.manifest_key(manifest.generation)
        self.store.set(key, body, ttl_s=ttl_s, deadline_s=deadline.left())
        if manifest.digests() is None:
            key = who.digests_key(manifest.generation)
            self.store.set(key, _PENDING, ttl_s=ttl_s, deadline_s=deadline.left())
        return Generation(who, manifest, head, tuple(transports))

    def announce(self, generation: Generation, deadline: Deadline, *, replace: bool) -> bool:
        """Let the head name this generation. Without ``replace`` only if there is none; False if there was."""
        key, ttl_s = generation.who.head_key, self.config.lease_s
        if not replace:
            return self.store.set_if_absent(key, generation.head, ttl_s=ttl_s, deadline_s=deadline.left())
        self.store.set(key, generation.head, ttl_s=ttl_s, deadline_s=deadline.left())
        return True

    def take_lease(
        self, generation: Generation, data_keys: list[str], deadline: Deadline, *, place: tuple[str, bytes] = ("", b"")
    ) -> _core.Lease:
        """Become a source of the current generation.

        Args:
            generation: Which one.
            data_keys: What holds its chunks in the store.
            deadline: Of this call.
            place: A key that this source has set, and its value; renewed and erased with the lease.

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
            data_keys=self._kept(generation, data_keys),
            place_key=place[0],
            place_value=place[1],
            lease_s=self.config.lease_s,
            data_s=self.data_ttl_s,
            deadline_s=deadline.left(),
        )

    def _kept(self, generation: Generation, data_keys: list[str]) -> list[str]:
        who, manifest = generation.who, generation.manifest
        beside = [who.digests_key(manifest.generation)] if manifest.digests() is None else []
        return [who.manifest_key(manifest.generation), *beside, *data_keys]

    def erase_data(self, who: Identity, generation: str, data_keys: list[str]) -> None:
        """Erase manifest and chunks of a generation that no head names. Never raises: they end with their TTL too."""
        try:
            self.store.erase(
                [who.manifest_key(generation), who.digests_key(generation), *data_keys], deadline_s=_ERASE_S
            )
        except FastLoadError as error:
            _log.warning("could not erase generation %s, it ends with its TTL: %s", generation, str(error))
