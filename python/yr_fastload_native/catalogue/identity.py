"""What makes two sets of weights the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs

from yr_fastload_native.catalogue.keys import Keys
from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["ABOUT", "Identity", "what"]

ABOUT = "about"  # shown to people and not hashed: names, and settings that affect no byte

_MAX_DEPTH = 16


def what(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that define an identity: all except `ABOUT`."""
    return {name: value for name, value in fields.items() if name != ABOUT}


def _text(value: str, path: str, op: str) -> str:
    """The plain string, even for a member of an enumeration."""
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"identity{path} holds {text!r}, which is not valid Unicode", op=op) from None
    return text


def _plain(value: object, path: str, depth: int, op: str) -> Any:
    """A copy that consists only of dict, list, str, int, float, bool and None."""
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
                raise InvalidArgumentError(f"identity{path} has the key {key!r}, which is not a string", op=op)
        return {_text(key, path, op): _plain(item, f"{path}[{key!r}]", depth + 1, op) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]", depth + 1, op) for index, item in enumerate(value)]
    raise InvalidArgumentError(
        f"identity{path} is a {type(value).__name__}; use str, int, float, bool, None, lists and mappings", op=op
    )


@attrs.frozen
class Identity(Keys):
    """A checked identity and its keys.

    Attributes:
        fields: The identity in clear, plain JSON types.
        digest: SHA-256 of the canonical JSON (sorted keys, ASCII) of all fields but ``about``, 64 hex digits.
    """

    fields: dict[str, Any]

    @classmethod
    def of(cls, fields: Mapping[str, Any], *, op: str) -> Identity:
        """Check and hash an identity.

        Raises:
            InvalidArgumentError: It is empty, or contains a value without a unique JSON form.
        """
        if not isinstance(fields, Mapping) or not what(fields):
            raise InvalidArgumentError("identity must be a mapping with at least one field that names the model", op=op)
        plain = _plain(fields, "", 0, op)
        try:
            text = json.dumps(what(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except ValueError as error:
            raise InvalidArgumentError(f"identity has no canonical form: {error}", op=op) from None
        return cls(digest=hashlib.sha256(text.encode("ascii")).hexdigest(), fields=plain)

    def is_of(self, fields: Mapping[str, Any]) -> bool:
        """Whether these fields define this identity; ``about`` does not count."""
        return what(fields) == what(self.fields)
