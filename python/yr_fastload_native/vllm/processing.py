"""What vLLM's processing takes a module's weights out of, seen while it goes through the modules."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Set
from typing import Any

import torch

from yr_fastload_native.vllm.model_contents import storages

__all__ = ["Processing"]

_METHOD = "process_weights_after_loading"  # of a module's quantisation method, or its own


class Processing:
    """Tells after each module which memory it no longer uses.

    Args:
        model: Whose modules are about to be processed.
        left: A method that is told the addresses of the memory; not kept alive.
    """

    def __init__(self, model: torch.nn.Module, left: Callable[[Set[int]], None]) -> None:
        self._undo = contextlib.ExitStack()
        told = weakref.WeakMethod(left)  # not reachable from the model, whose contents are searched
        seen: set[int] = set()
        for module in model.modules():
            for owner in (getattr(module, "quant_method", None), module):
                if id(owner) not in seen and callable(getattr(owner, _METHOD, None)):
                    seen.add(id(owner))
                    self._wrap(owner, told)

    def end(self) -> None:
        """Tell nothing any more. Idempotent."""
        self._undo.close()

    def _wrap(self, owner: Any, told: weakref.WeakMethod[Callable[[Set[int]], None]]) -> None:
        process = getattr(owner, _METHOD)

        def processing(*args: Any, **kwargs: Any) -> Any:
            module = args[0] if args and isinstance(args[0], torch.nn.Module) else owner
            left = told() if isinstance(module, torch.nn.Module) else None
            before = _weights(module) if left is not None else set()
            result = process(*args, **kwargs)
            if left is not None:
                left(before - storages(module))
            return result

        with contextlib.suppress(AttributeError):  # of slots: what it replaces is seen when all is done
            setattr(owner, _METHOD, processing)
            self._undo.callback(_remove, owner)


def _weights(module: torch.nn.Module) -> set[int]:
    """Addresses of its parameters and buffers."""
    return {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}


def _remove(owner: Any) -> None:
    vars(owner).pop(_METHOD, None)
