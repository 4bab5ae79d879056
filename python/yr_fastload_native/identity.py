"""What makes two sets of weights the same, and the keys that follow from it.

openYuanrong keys may hold neither ``.`` nor ``/`` and at most 255 characters, so no model or tensor name is part of a
key: an identity is hashed, and the names live in the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs

from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["ABOUT", "Identity", "entry_keys", "what"]

ABOUT = "about"  # the field that people read and nothing follows from: names, and settings that decide about no byte

_PREFIX = "yrfl1"
_MAX_DEPTH = 16
_ENTRIES = 1024
_ENTRIES_TRIED = 16
_SLOTS = 64  # csrc/core/lease.hpp


def _entry_key(number: int) -> str:
    return f"{_PREFIX}-entry-{number % _ENTRIES}"


def entry_keys() -> list[str]:
    """What may hold the digest of an identity that is published: openYuanrong cannot list its keys."""
    return [_entry_key(number) for number in range(_ENTRIES)]


def what(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that make an identity: all but `ABOUT`."""
    return {name: value for name, value in fields.items() if name != ABOUT}


def _text(value: str, path: str, op: str) -> str:
    """The plain text, also of an enumeration's member."""
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"identity{path} holds {text!r}, which is no Unicode text", op=op) from None
    return text


def _plain(value: object, path: str, depth: int, op: str) -> Any:
    """A copy made of dict, list, str, int, float, bool and None alone."""
    if depth > _MAX_DEPTH:
        raise InvalidArgumentError(f"identity{path} is nested deeper than {_MAX_DEPTH}", op=op)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise InvalidArgumentError(f"identity{path} is an int that does not fit in 64 bits; use a string", op=op)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path, op)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidArgumentError(f"identity{path} has the key {key!r}, which is no string", op=op)
        return {_text(key, path, op): _plain(item, f"{path}[{key!r}]", depth + 1, op) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]", depth + 1, op) for index, item in enumerate(value)]
    raise InvalidArgumentError(
        f"identity{path} is a {type(value).__name__}; use str, int, float, bool, None, lists and mappings", op=op
    )


@attrs.frozen
class Identity:
    """A checked identity and its keys.

    Attributes:
        fields: The identity in clear, plain JSON types.
        digest: SHA-256 of the canonical JSON (sorted keys, ASCII) of all fields but ``about``, 64 hex digits.
    """

    fields: dict[str, Any]
    digest: str

    @classmethod
    def of(cls, fields: Mapping[str, Any], *, op: str) -> Identity:
        """Check and hash an identity.

        Raises:
            InvalidArgumentError: It is empty, or holds something that has no one JSON form.
        """
        if not isinstance(fields, Mapping) or not what(fields):
            raise InvalidArgumentError("identity must be a mapping that says at least which model it is", op=op)
        plain = _plain(fields, "", 0, op)
        try:
            text = json.dumps(what(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except ValueError as error:
            raise InvalidArgumentError(f"identity has no canonical form: {error}", op=op) from None
        return cls(plain, hashlib.sha256(text.encode("ascii")).hexdigest())

    def is_of(self, fields: Mapping[str, Any]) -> bool:
        """Whether plain fields are of this identity, whatever they say about it."""
        return what(fields) == what(self.fields)

    @property
    def head_key(self) -> str:
        return f"{_PREFIX}-head-{self.digest}"

    @property
    def claim_key(self) -> str:
        """Of the process that is about to publish, where others wait for it."""
        return f"{_PREFIX}-claim-{self.digest}"

    @property
    def entry_keys(self) -> list[str]:
        """Of `entry_keys`, those that this one may take, in the order in which it tries them."""
        home = int(self.digest[:8], 16)
        return [_entry_key(home + step) for step in range(_ENTRIES_TRIED)]

    def evicted_key(self, generation: str) -> str:
        """Tells sources that a generation was taken away on purpose."""
        return f"{_PREFIX}-evicted-{self.digest}-{generation}"

    def manifest_key(self, generation: str) -> str:
        return f"{_PREFIX}-manifest-{self.digest}-{generation}"

    def chunk_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-chunk-{self.digest}-{generation}-"

    def digests_key(self, generation: str) -> str:
        return f"{_PREFIX}-digests-{self.digest}-{generation}"

    def files_key(self, generation: str) -> str:
        """Of the sums of the files that a generation's weights were read from."""
        return f"{_PREFIX}-files-{self.digest}-{generation}"

    def staged_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-staged-{self.digest}-{generation}-"

    def d2d_prefix(self, token: str, lane: int) -> str:
        """Of the chunks that one source serves device to device to one reader."""
        return f"{_PREFIX}-d2d-{self.digest}-{token}-{lane}-"

    def lane_key(self, token: str, lane: int) -> str:
        """Of the reader that uses a lane of a source."""
        return f"{_PREFIX}-lane-{self.digest}-{token}-{lane}"

    def place_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-place-{self.digest}-{generation}-"

    def slot_prefix(self, generation: str) -> str:
        return f"{_PREFIX}-source-{self.digest}-{generation}-"

    def slot_keys(self, generation: str) -> list[str]:
        """Of a generation's sources: one each."""
        return [f"{self.slot_prefix(generation)}{number}" for number in range(_SLOTS)]
