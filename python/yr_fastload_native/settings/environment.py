"""The only code that reads settings from the environment."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import attrs

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.settings.secret import Secret

__all__ = ["ENVIRONMENT_PREFIX", "allowed", "parse", "read", "settings"]

ENVIRONMENT_PREFIX = "YR_FASTLOAD_"
_SIMULATED = ENVIRONMENT_PREFIX + "SIM"  # simulated devices read these themselves

# Variables that Kubernetes sets in every container for a Service called yr-fastload or yr-fastload-...
# Source: its documentation, Services, "Environment variables", and Docker's links, which they imitate.
_SERVICE = re.compile(
    r"YR_FASTLOAD_(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://")  # of YR_FASTLOAD_..._PORT

_log = logging.getLogger(__name__)
_told: set[str] = set()
_classes: list[type] = []
_Class = TypeVar("_Class")


def settings(cls: type[_Class]) -> type[_Class]:
    """Decorate a class of settings: its fields are variables of the environment too."""
    _classes.append(cls)
    return cls


def read(cls: type, environ: Mapping[str, str] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a settings class: those given, then those from the environment."""
    environ = os.environ if environ is None else environ
    _warn_of_unknown(environ)
    values = dict(settings)
    for attribute in attrs.fields(cls):
        name = ENVIRONMENT_PREFIX + attribute.name.upper()
        if name in environ and attribute.name not in settings:
            values[attribute.name] = parse(name, environ[name], _kind(attribute))
    return values


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Warn, once per process, of each variable that looks like a misspelt setting."""
    known = {ENVIRONMENT_PREFIX + field.name.upper() for each in _classes for field in attrs.fields(each)}
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in known or name in _told or _is_of_others(name, text):
            continue
        _told.add(name)
        hint = _near(name, known).strip() or "docs/settings.md lists all settings"
        _log.warning("%s names no setting and is ignored; %s", name, hint)


def _is_of_others(name: str, text: str) -> bool:
    of_simulator = name == _SIMULATED or name.startswith(_SIMULATED + "_")
    is_url = name.endswith("_PORT") and _SERVICE_URL.match(text) is not None
    return of_simulator or is_url or _SERVICE.fullmatch(name) is not None


def allowed(name: str, known: Iterable[str]) -> str:
    """What an unknown name may mean, for messages."""
    names = sorted(known)
    return f"{_near(name, names)}allowed: {', '.join(names)}"


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"did you mean {close[0]!r}? " if close else ""


def _kind(attribute: attrs.Attribute[Any]) -> type | Callable[[str], Any]:
    """The type of a setting, or what makes one of a text."""
    if "parse" in attribute.metadata:
        return cast(Callable[[str], Any], attribute.metadata["parse"])
    return dict if attribute.default == attrs.Factory(dict) else type(attribute.default)


def parse(name: str, text: str, kind: type | Callable[[str], Any]) -> Any:
    if kind is Secret:
        try:
            return Secret(text)
        except InvalidArgumentError:
            raise InvalidArgumentError(
                f"{name} must be one line of printable ASCII without blanks", op="config"
            ) from None
    if kind is bool:
        try:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        except KeyError:
            raise InvalidArgumentError(f"{name}={text!r} is not 0, 1, true or false", op="config") from None
    try:
        return json.loads(text) if kind is dict else kind(text)
    except ValueError:
        what = "JSON object" if kind is dict else getattr(kind, "__name__", "value")
        raise InvalidArgumentError(f"{name}={text!r} is not a {what}", op="config") from None
