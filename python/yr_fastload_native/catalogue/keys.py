"""Every key of this package in openYuanrong's store is made here.

openYuanrong keys may contain neither ``.`` nor ``/`` and at most 255 characters, so model and tensor names are not part
of a key: the identity is hashed, and the names are in the manifest.
"""

from __future__ import annotations

import attrs

__all__ = ["Keys", "entry_keys"]

_PREFIX = "yrfl1"
_ENTRIES = 1024
_ENTRIES_TRIED = 16
_SLOTS = 64  # csrc/core/lease.hpp


def _entry_key(number: int) -> str:
    return f"{_PREFIX}-entry-{number % _ENTRIES}"


def entry_keys() -> list[str]:
    """The keys that may hold the digest of a published identity, since openYuanrong cannot list its keys."""
    return [_entry_key(number) for number in range(_ENTRIES)]


@attrs.frozen
class Keys:
    """The keys of one identity.

    Attributes:
        digest: Of the identity, 64 hex digits.
    """

    digest: str

    @property
    def head_key(self) -> str:
        return f"{_PREFIX}-head-{self.digest}"

    @property
    def claim_key(self) -> str:
        """Claimed by the process that is about to publish, while others wait for it."""
        return f"{_PREFIX}-claim-{self.digest}"

    @property
    def entry_keys(self) -> list[str]:
        """The ones of `entry_keys` that this identity may take, in the order in which it tries them."""
        home = int(self.digest[:8], 16)
        return [_entry_key(home + step) for step in range(_ENTRIES_TRIED)]

    def evicted_key(self, generation: str) -> str:
        """Tells sources that a generation was evicted."""
        return f"{_PREFIX}-evicted-{self.digest}-{generation}"

    def manifest_key(self, generation: str) -> str:
        return f"{_PREFIX}-manifest-{self.digest}-{generation}"

    def chunk_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-chunk-{self.digest}-{generation}-"

    def digests_key(self, generation: str) -> str:
        return f"{_PREFIX}-digests-{self.digest}-{generation}"

    def arrived_key(self, generation: str) -> str:
        """Holds which chunks of a generation can be read while others are still being stored."""
        return f"{_PREFIX}-arrived-{self.digest}-{generation}"

    def files_key(self, generation: str) -> str:
        """Holds the sums of the files that a generation's weights were read from."""
        return f"{_PREFIX}-files-{self.digest}-{generation}"

    def staged_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-staged-{self.digest}-{generation}-"

    def d2d_prefix(self, token: str, lane: int) -> str:
        """Prefix of the chunks that one source serves to one reader, device to device."""
        return f"{_PREFIX}-d2d-{self.digest}-{token}-{lane}-"

    def lane_key(self, token: str, lane: int) -> str:
        """Held by the reader that uses a lane of a source."""
        return f"{_PREFIX}-lane-{self.digest}-{token}-{lane}"

    def place_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-place-{self.digest}-{generation}-"

    def slot_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-source-{self.digest}-{generation}-"

    def slot_keys(self, generation: str) -> list[str]:
        """The slots of a generation's sources, one for each."""
        return [f"{self.slot_prefix(generation)}{number}" for number in range(_SLOTS)]
