"""What a publisher tells of a generation's chunks while it still stores them: which can be read, and their digests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import attrs
import msgspec

from yr_fastload_native.catalogue.catalogue import Catalogue, Generation, SupersededError
from yr_fastload_native.catalogue.fields import FORMAT
from yr_fastload_native.errors import IntegrityError
from yr_fastload_native.process.deadline import Deadline

__all__ = ["Arrivals"]

_Chunk = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]


class _Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    generation: str
    chunks: list[tuple[_Chunk, _Digest]]


_DECODER = msgspec.json.Decoder(_Told)


@attrs.frozen
class Arrivals:
    """Of one generation, whose digests are in no manifest."""

    catalogue: Catalogue
    generation: Generation

    @property
    def _key(self) -> str:
        return self.generation.who.arrived_key(self.generation.manifest.generation)

    def tell(self, digests: Mapping[int, int], *, ttl_s: int, deadline: Deadline) -> None:
        """Say that these chunks can be read, and all that were told before.

        Args:
            digests: By chunk.
            ttl_s: Life of what is told, seconds.
            deadline: Of this call.
        """
        told = _Told(
            FORMAT,
            self.generation.manifest.generation,
            [(chunk, f"{digest:016x}") for chunk, digest in digests.items()],
        )
        store = self.catalogue.store
        store.set(self._key, msgspec.json.encode(told), ttl_s=ttl_s, deadline_s=deadline.left())

    def forget(self, deadline: Deadline) -> None:
        """Tell nothing more: all chunks are there, and all digests."""
        self.catalogue.store.erase([self._key], deadline_s=deadline.left())

    def look(self, deadline: Deadline, *, op: str) -> tuple[dict[int, int], bool]:
        """The chunks that can be read, with their digests, and whether these are all.

        Raises:
            SupersededError: Nobody publishes this generation any more.
            IntegrityError: What is told of it is damaged.
        """
        generation = self.generation
        keys = [generation.who.head_key, generation.who.digests_key(generation.manifest.generation), self._key]
        head, digests, told = self.catalogue.store.get_many(keys, deadline_s=deadline.left())
        if head is None:  # asked for alone, a key that cannot be reached is an error
            head = self.catalogue.store.get(keys[0], deadline_s=deadline.left())
        if head != generation.head:
            raise SupersededError
        taken = self.catalogue.digests_in(digests, generation, op=op)
        if taken is not None:
            return dict(enumerate(taken.chunks)), True
        return ({} if told is None else self._decoded(told, op)), False

    def _decoded(self, told: bytes, op: str) -> dict[int, int]:
        manifest = self.generation.manifest
        try:
            found = _DECODER.decode(told)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise IntegrityError(f"the list of chunks that can be read is not valid: {error}", op=op) from None
        chunks = {chunk: int(digest, 16) for chunk, digest in found.chunks}
        if (found.format, found.generation) != (FORMAT, manifest.generation) or max(chunks, default=-1) >= len(
            manifest.chunks
        ):
            raise IntegrityError("the list of chunks that can be read belongs to another generation", op=op)
        return chunks
