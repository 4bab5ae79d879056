"""What a rank does once it is ready to serve: all ranks of its instance have loaded and compiled by then."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["when_ready"]

_LAST = "compile_or_warm_up_model"  # what vLLM calls of a rank before it serves
_WRAPPED = "_yr_fastload_tells"
_waiting: list[Callable[[], None]] = []


def when_ready(worker: type, work: Callable[[], None]) -> None:
    """Do something when the rank of this process is ready, once; it must not block and must not raise.

    Args:
        worker: The class of ranks.
        work: What is to be done.
    """
    _waiting.append(work)
    plain = getattr(worker, _LAST)
    if not hasattr(plain, _WRAPPED):
        setattr(worker, _LAST, _telling(plain))


def _telling(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def telling(*args: Any, **kwargs: Any) -> Any:
        answer = plain(*args, **kwargs)
        while _waiting:
            _waiting.pop(0)()
        return answer

    setattr(telling, _WRAPPED, True)
    return telling
