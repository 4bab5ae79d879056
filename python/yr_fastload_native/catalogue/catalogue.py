"""What a store holds of an identity: its head, the manifest that the head pins, and the leases that keep both."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.file_sums import decode_files, encode_files
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.late_digests import decode_digests, encode_digests
from yr_fastload_native.catalogue.manifest import Head, Manifest, Taken
from yr_fastload_native.catalogue.manifest_codec import decode_head, decode_manifest, encode_manifest
from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.process.peaks import Peaks
from yr_fastload_native.settings import Config
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["Catalogue", "Generation", "HeldKey", "SupersededError", "set_own"]

_log = logging.getLogger(__name__)

_ERASE_S = 2.0
_POLL_S = 0.02
_PENDING = b"pending"  # where digests will be


def _owner() -> bytes:
    return f"{socket.gethostname()}:{os.getpid()}".encode()


def set_own(
    store: _core.ObjectStore, values: dict[str, bytes], *, witness: str, ttl_s: int, deadline: Deadline
) -> bool:
    """Set all of these, unless somebody has set one of the keys; whether they are set.

    openYuanrong asks again where an answer was late, and is told then that keys are there: its own. The value of
    ``witness``, which nobody else sets, tells them from those of others.
    """
    if store.set_all_if_absent(values, ttl_s=ttl_s, deadline_s=deadline.left()):
        return True
    return store.get(witness, deadline_s=deadline.left()) == values[witness]


@attrs.frozen
class HeldKey:
    """A key that one source holds beside its lease, and what stands there."""

    key: str
    value: bytes


def _digests(body: bytes | None, manifest: Manifest, op: str) -> Taken | None:
    if body is None:
        raise SupersededError  # they are gone, and so is the generation
    return None if body == _PENDING else decode_digests(body, manifest, op=op)


class SupersededError(Exception):
    """The generation under a reader was replaced or withdrawn; start again from the head."""


@attrs.frozen
class Generation:
    """One version of an identity's weights.

    Attributes:
        head: The bytes that the head holds while this version is the current one.
        transports: By which it can be read.
        digests: None if the publisher had not taken them yet.
        files: SHA-256 sums of files that it was read from, by name, as far as its publisher knew them; None if it says
            nothing of files.
    """

    who: Identity
    manifest: Manifest
    head: bytes
    transports: tuple[str, ...]
    digests: Taken | None
    files: dict[str, str] | None = None

    @property
    def first_slot(self) -> str:
        """The slot of the lease that its first source takes."""
        return f"{self.who.slot_prefix(self.manifest.generation)}0"

    @property
    def chunk_prefix(self) -> str:
        return self.who.chunk_prefix(self.manifest.generation)


@attrs.frozen
class Catalogue:
    """Heads, manifests and leases in one store, within the bounds of one config."""

    store: _core.ObjectStore
    config: Config
    usage: Peaks = attrs.field(factory=Peaks)

    @property
    def data_ttl_s(self) -> int:
        """Life of manifest and chunks that no source renews."""
        return self.config.lease_s + self.config.data_grace_s

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

    def read(
        self,
        who: Identity,
        head: bytes,
        names: Head,
        deadline: Deadline,
        *,
        op: str,
        mine: TensorTable | None,
        beside: Sequence[str] = (),
    ) -> tuple[Generation, list[bytes | None]]:
        """Read the generation that a head names, and in the same call the values of some more keys.

        Its tensors are likely to be ``mine``, if that is given.

        Raises:
            SupersededError: Its manifest is gone already.
            IntegrityError: It is damaged, or of another format.
            ResourceExhaustedError: It is beyond a bound.
        """
        name = names.generation
        keys = [who.manifest_key(name), who.digests_key(name), who.files_key(name), *beside]
        body, digests, files, *values = self.store.get_many(keys, deadline_s=deadline.left())
        if body is None:  # asked for alone, a key that cannot be reached is an error
            body = self.store.get(keys[0], deadline_s=deadline.left())
        if body is None:
            raise SupersededError
        self.usage.note("manifest_bytes", len(body))
        manifest = decode_manifest(
            body,
            names,
            who,
            max_bytes=self.config.max_manifest_bytes,
            max_tensors=self.config.max_tensors,
            op=op,
            mine=mine,
        )
        found = manifest.digests()
        if found is None:
            found = _digests(digests, manifest, op)
        told = None if files is None else self._files(files, name, op)
        return Generation(who, manifest, head, tuple(names.transports), found, told), values

    def _files(self, body: bytes, generation: str, op: str) -> dict[str, str]:
        return decode_files(body, generation, max_bytes=self.config.max_manifest_bytes, op=op)

    def files(self, who: Identity, generation: str, deadline: Deadline, *, op: str) -> dict[str, str] | None:
        """The sums of files that a generation was read from, as far as they are known; None if it is gone.

        Raises:
            IntegrityError: They are damaged.
        """
        body = self.store.get(who.files_key(generation), deadline_s=deadline.left())
        return None if body is None else self._files(body, generation, op)

    def tell_files(self, who: Identity, generation: str, files: dict[str, str], deadline: Deadline) -> None:
        """Add sums to what is known of a generation's files; what its publisher said of a file stays."""
        known = self.files(who, generation, deadline, op="tell_files")
        if known is not None and files.keys() - known.keys():
            body = encode_files(generation, {**files, **known})
            self.store.set(who.files_key(generation), body, ttl_s=self.data_ttl_s, deadline_s=deadline.left())

    @staticmethod
    def digests_in(body: bytes | None, generation: Generation, *, op: str) -> Taken | None:
        """The digests in the object that is beside a manifest; None if they were not taken yet.

        Raises:
            SupersededError: There is no such object any more.
            IntegrityError: They are damaged.
        """
        return _digests(body, generation.manifest, op)

    def wait_for_digests(self, generation: Generation, deadline: Deadline, *, op: str) -> Taken:
        """The digests, once the publisher has taken them.

        Raises:
            SupersededError: The generation is no longer the current one.
            TransferTimeoutError: They did not come in time.
            IntegrityError: They are damaged.
        """
        digests, key = generation.digests, generation.who.digests_key(generation.manifest.generation)
        while digests is None:
            digests = self.digests_in(self.store.get(key, deadline_s=deadline.left()), generation, op=op)
            if digests is None:
                if not self.is_current(generation, deadline):
                    raise SupersededError
                time.sleep(min(_POLL_S, deadline.left()))
        return digests

    def was_evicted(self, who: Identity, generation: str, deadline: Deadline) -> bool:
        """Whether somebody has taken this generation away on purpose, a short while ago."""
        return self.store.get(who.evicted_key(generation), deadline_s=deadline.left()) is not None

    def store_digests(
        self,
        generation: Generation,
        digests: memoryview,
        sha256: list[str] | None,
        *,
        ttl_s: int,
        deadline: Deadline,
    ) -> None:
        name = generation.manifest.generation
        key = generation.who.digests_key(name)
        self.store.set(
            key, encode_digests(generation.manifest, digests, sha256), ttl_s=ttl_s, deadline_s=deadline.left()
        )

    def is_current(self, generation: Generation, deadline: Deadline) -> bool:
        """Whether the head still names this generation."""
        return self.store.get(generation.who.head_key, deadline_s=deadline.left()) == generation.head

    def describe(
        self, who: Identity, manifest: Manifest, transports: list[str], files: dict[str, str] | None
    ) -> tuple[Generation, bytes]:
        """A generation to be, and its encoded manifest."""
        body, head = encode_manifest(manifest, max_bytes=self.config.max_manifest_bytes, transports=transports)
        self.usage.note("manifest_bytes", len(body))
        return Generation(who, manifest, head, tuple(transports), manifest.digests(), files), body

    def announce(
        self,
        generation: Generation,
        body: bytes,
        deadline: Deadline,
        *,
        held: HeldKey | None = None,
        replace: bool,
    ) -> bool:
        """Let the head name a generation whose chunks can be read, with this process as its first source.

        Everything is stored by one call; its life is a lease's until `take_lease` renews it.

        Args:
            generation: From `describe`.
            body: Its manifest.
            deadline: Of this call.
            held: A key that this source takes.
            replace: Whether to replace the one that the head names; without it nothing is stored if there is one.

        Returns:
            Whether the head names this generation.
        """
        who, name = generation.who, generation.manifest.generation
        values = {who.manifest_key(name): body, generation.first_slot: _owner()}
        if generation.manifest.digests() is None:
            values[who.digests_key(name)] = _PENDING
        if generation.files is not None:
            values[who.files_key(name)] = encode_files(name, generation.files)
        if held is not None:
            values[held.key] = held.value
        ttl_s = self.config.lease_s
        if not replace:
            values[who.head_key] = generation.head
            return set_own(self.store, values, witness=who.head_key, ttl_s=ttl_s, deadline=deadline)
        for key, value in values.items():
            self.store.set(key, value, ttl_s=ttl_s, deadline_s=deadline.left())
        self.store.set(who.head_key, generation.head, ttl_s=ttl_s, deadline_s=deadline.left())
        return True

    def take_lease(
        self,
        generation: Generation,
        data_keys: list[str],
        deadline: Deadline,
        *,
        held: HeldKey | None = None,
        announced: bool = False,
    ) -> _core.Lease:
        """Become a source of the current generation.

        Args:
            generation: Which one.
            data_keys: What holds its chunks in the store.
            deadline: Of this call.
            held: A key that this source has set; renewed and erased with the lease.
            announced: Whether this process announced it, and is its first source already.

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
            owner=_owner().decode(),
            data_keys=self._kept(generation, data_keys),
            place_key="" if held is None else held.key,
            place_value=b"" if held is None else held.value,
            slot_key=generation.first_slot if announced else "",
            entry_keys=who.entry_keys,
            entry_value=who.digest,
            lease_s=self.config.lease_s,
            data_s=self.data_ttl_s,
            deadline_s=deadline.left(),
        )

    def _kept(self, generation: Generation, data_keys: list[str]) -> list[str]:
        who, manifest = generation.who, generation.manifest
        beside = [who.digests_key(manifest.generation)] if manifest.digests() is None else []
        if generation.files is not None:
            beside.append(who.files_key(manifest.generation))
        return [who.manifest_key(manifest.generation), *beside, *data_keys]

    def erase_data(self, who: Identity, generation: str, data_keys: list[str], deadline: Deadline) -> None:
        """Erase manifest and chunks of a generation that no head names. Never raises: they end with their TTL too."""
        try:
            self.store.erase(
                [
                    who.manifest_key(generation),
                    who.digests_key(generation),
                    who.files_key(generation),
                    who.arrived_key(generation),
                    *data_keys,
                ],
                deadline_s=deadline.spare(_ERASE_S),
            )
        except FastLoadError as error:
            _log.warning("could not erase generation %s, it ends with its TTL: %s", generation, str(error))
