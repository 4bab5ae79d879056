"""One setting: its default, its meaning, and the values that are allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.settings.addresses import parse_address
from yr_fastload_native.settings.secret import Secret

__all__ = [
    "MIB",
    "TRANSPORTS",
    "boolean",
    "chunk_bytes",
    "json_object",
    "number",
    "one_of",
    "path",
    "secret",
    "setting",
    "sha256_sums",
    "switch",
    "tenant",
    "text",
    "transports",
    "worker_address",
]

MIB = 1 << 20
_MAX_TEXT = 255
_TENANT = re.compile(r"[a-zA-Z0-9\-_!@#%^*()+=:;]{1,128}")  # what openYuanrong takes in a key
_PIN = re.compile(r"[0-9a-f]{64}")
TRANSPORTS = ("d2d", "staged", "host")  # from the fastest to the one that works everywhere
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
_SWITCHED = {"on": True, "off": False}
_Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _refuse(attribute: attrs.Attribute[Any], value: object, allowed: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{attribute.name}={value!r} is not allowed; use {allowed}", op="config")


def setting(default: Any, check: _Check, meaning: str, unit: str = "", *, shown: bool = True) -> Any:
    return attrs.field(default=default, validator=check, metadata={"meaning": meaning, "unit": unit}, repr=shown)


def secret(meaning: str) -> Any:
    return attrs.field(default=Secret(), converter=Secret.of, metadata={"meaning": meaning, "unit": ""}, repr=False)


def switch(meaning: str) -> Any:
    """A setting that is on, off, or ``auto``: decided where more is known."""
    return attrs.field(
        default="auto",
        converter=lambda value: _SWITCHED.get(value, value) if isinstance(value, str) else value,
        validator=_true_false_or_auto,
        metadata={"meaning": meaning, "unit": "", "parse": lambda text: _BOOLEANS.get(text.lower(), text)},
    )


def number(kind: type, low: float, high: float) -> _Check:
    accepted = (int,) if kind is int else (int, float)

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, accepted) or not low <= value <= high:
            raise _refuse(attribute, value, f"a {kind.__name__} from {low} to {high}")

    return check


def one_of(*allowed: str) -> _Check:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            raise _refuse(attribute, value, " or ".join(allowed))

    return check


def worker_address(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise _refuse(attribute, value, "'auto' or 'HOST:PORT'")
    if value != "auto":
        parse_address(value, op="config")


def chunk_bytes(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    number(int, 0, 1 << 30)(instance, attribute, value)
    if value % 64:
        raise _refuse(attribute, value, "a multiple of 64 (the alignment of a blob in a chunk)")


def transports(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    names = value.split("+") if isinstance(value, str) else []
    if value != "auto" and (not names or set(names) - set(TRANSPORTS) or len(set(names)) != len(names)):
        raise _refuse(attribute, value, f"'auto', or some of {', '.join(TRANSPORTS)} joined by '+'")


def boolean(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse(attribute, value, "True or False")


def _true_false_or_auto(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool) and value != "auto":
        raise _refuse(attribute, value, "auto, on or off, or True or False")


def text(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT or not value.isprintable():
        raise _refuse(attribute, value, f"text of 1 to {_MAX_TEXT} printable characters")


def path(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(attribute, value, "a path")


def tenant(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or (value and _TENANT.fullmatch(value) is None):
        raise InvalidArgumentError(
            f"{attribute.name} is not allowed; use text of at most 128 letters, digits and -_!@#%^*()+=:;",
            op="config",
        )


def sha256_sums(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    pins = value.split(",") if isinstance(value, str) else [""]
    if value != "" and not all(_PIN.fullmatch(pin) for pin in pins):
        raise _refuse(attribute, value, "SHA-256 sums of 64 lower-case hex digits, joined by ','")


def json_object(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refuse(attribute, value, "a JSON object")
