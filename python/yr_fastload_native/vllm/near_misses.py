"""Explains why an identity is not published, if a published one is nearly the same."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from yr_fastload_native.catalogue.identity import ABOUT, what
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.loader.fast_loader import FastLoader

__all__ = ["near_miss", "nearest"]

_log = logging.getLogger("vllm.yr_fastload")

_PATIENCE_S = 0.5  # a start that reads the disk should not wait for an explanation
_KIND = ("config", "architectures", "model_class")  # may depend on the task of the instance
_FOLLOWS = (*_KIND, "layout", "computed")  # may depend on any setting, or on those above
_TASK = ("runner", "convert")
_SHORT = 64  # characters of a value to show
_NAMED = 3
_MISSING = object()


def near_miss(fast: FastLoader, identity: Mapping[str, Any]) -> str | None:
    """How an identity differs from the nearest published one, in words; None if none is near.

    Takes half a second at most. An identity that was just published may not be listed yet.
    """
    try:
        return nearest(identity, fast.identities(deadline_s=_PATIENCE_S))
    except FastLoadError as error:
        _log.debug("cannot tell what else is published: %s", error)
        return None


def nearest(mine: Mapping[str, Any], published: Iterable[Mapping[str, Any]]) -> str | None:
    """Like `near_miss`, among these."""
    found = [(len(_fields(mine, each)), each) for each in published]
    near = [_in_words(said) for _, each in sorted(found, key=lambda pair: pair[0]) if (said := _differing(mine, each))]
    return near[0] if near else None


def _fields(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return _pairs(what(mine), what(other))


def _differing(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]] | None:
    """Their value and mine of the one field that differs, with those that depend on it; None if more differ."""
    fields = _fields(mine, other)
    causes = [name for name in fields if name not in _FOLLOWS]
    if len(causes) > 1 or not fields or _is_other_place(fields.get("ranks")):
        return None
    about = _pairs(_about(mine), _about(other))
    if causes == ["checkpoint"] and "model" in about:
        return None  # just another model
    if causes:
        return _flat(causes[0], *fields[causes[0]])
    explains = _TASK if any(name in fields for name in _KIND) else {*about} - {"model", "revision"}
    settings = {name: pair for name, pair in about.items() if name in explains}
    first = next(name for name in _FOLLOWS if name in fields)
    return settings or {first: fields[first]}


def _about(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    about = fields.get(ABOUT)
    return about if isinstance(about, Mapping) else {}


def _pairs(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """For each name with different values: theirs, mine."""
    names = sorted({*mine, *other})
    pairs = {name: (other.get(name, _MISSING), mine.get(name, _MISSING)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _is_other_place(ranks: tuple[Any, Any] | None) -> bool:
    """Whether these are another rank's weights in the same layout of ranks."""
    return ranks is not None and _sizes(ranks[0]) == _sizes(ranks[1])


def _sizes(ranks: Any) -> dict[str, Any]:
    pairs = ranks.items() if isinstance(ranks, Mapping) else ()
    return {name: place[1] for name, place in pairs if isinstance(place, list) and len(place) == 2 and place[1] != 1}


def _flat(name: str, theirs: Any, mine: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        return {f"{name}.{key}": pair for key, pair in _pairs(mine, theirs).items()}
    return {name: (theirs, mine)}


def _in_words(differing: Mapping[str, tuple[Any, Any]]) -> str:
    said = [_said(name, *pair) for name, pair in sorted(differing.items())]
    more = f" (and {len(said) - _NAMED} more)" if len(said) > _NAMED else ""
    return f"published by another instance with {', '.join(said[:_NAMED])}{more}"


def _said(name: str, theirs: Any, mine: Any) -> str:
    text = _difference(name, theirs, mine)
    return text if text.isprintable() else "something else"  # the publisher may have written anything


def _difference(name: str, theirs: Any, mine: Any) -> str:
    if name == "read_elsewhere":
        return f"weights that its model read when it was made, {_files(theirs)}, here {_files(mine)}"
    shown = [_shown(each) for each in (theirs, mine)]
    if max(map(len, shown)) >= _SHORT:
        return f"another {name}"
    return f"{name}={shown[0]}, here {shown[1]}"


def _files(contents: Any) -> str:
    """File names and the beginnings of their sums."""
    pairs = [str(each).rpartition(":") for each in contents] if isinstance(contents, list) else []
    return " and ".join(f"{name} ({digest[:8]})" for name, _, digest in pairs) or "none"


def _shown(value: Any) -> str:
    return "missing" if value is _MISSING else str(value)
