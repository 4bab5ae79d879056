"""An OpenTelemetry span for each load and publish, in processes that have imported its API."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["of_load", "of_publication", "traced"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PREFIX = "yr_fastload."


def traced(name: str, attributes: Callable[[Any], Mapping[str, Any]]) -> Callable[[_Function], _Function]:
    """Wrap a function in a span; an error is recorded in it.

    Args:
        name: Name of the span.
        attributes: Computes the span's attributes from the result.
    """

    def wrap(function: _Function) -> _Function:
        @functools.wraps(function)
        def tracing(*args: Any, **kwargs: Any) -> Any:
            trace = sys.modules.get("opentelemetry.trace")
            if trace is None:
                return function(*args, **kwargs)
            with trace.get_tracer("yr_fastload_native").start_as_current_span(name) as span:
                result = function(*args, **kwargs)
                if span.is_recording():
                    span.set_attributes({_PREFIX + key: value for key, value in attributes(result).items()})
                return result

        return tracing  # type: ignore[return-value]

    return wrap


def of_load(report: Any) -> dict[str, Any]:
    """The attributes for a `LoadReport`."""
    keys = ("bytes", "bytes_aliased", "tensors", "chunks", "chunks_retried", "transport", "generation", "verified")
    stages = {f"stage.{stage}_s": seconds for stage, seconds in report.stages.items()}
    return {**{key: getattr(report, key) for key in keys}, **stages}


def of_publication(publication: Any) -> dict[str, Any]:
    """The attributes for a `Publication`."""
    return {key: getattr(publication, key) for key in ("bytes", "tensors", "chunks", "generation", "joined")}
