"""Settings of an instance that decide which weights it has, or that these do not stay where they are."""

from __future__ import annotations

import bisect
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["additional_settings", "why_they_move"]

_EXPERT_MAP = "expert_map_path"  # of vllm-ascend: which expert is where
_REBALANCING = "dynamic_eplb"  # of vllm-ascend: experts move while it serves
# Whose memory is unmapped where it lies when they are told to sleep, and mapped again later: each has one instance.
_ALLOCATORS = {
    "vllm.device_allocator.cumem": "CuMemAllocator",
    "vllm.device_allocator.xpumem": "XpuMemAllocator",
    "vllm_ascend.device_allocator.camem": "CaMemAllocator",
}
_ASLEEP = "sleep mode takes their memory away"


def additional_settings(vllm_config: Any) -> str | None:
    """Digest of what is set for plugins of vLLM, with the files that place experts; None if nothing is."""
    given = _additional(vllm_config)
    if not given:
        return None
    maps = [_content(path) for path in _values(given, _EXPERT_MAP) if path]
    return hashlib.sha256(json.dumps([given, maps], sort_keys=True, default=_plain).encode()).hexdigest()


def why_they_move(vllm_config: Any, model_config: Any, addresses: Iterable[int] = ()) -> str | None:
    """Why the weights do not stay where they were loaded; None if they do.

    Args:
        vllm_config: Of vLLM.
        model_config: Of the model.
        addresses: Of the weights.
    """
    if getattr(model_config, "enable_sleep_mode", False) or _can_sleep(addresses):
        return _ASLEEP
    parallel = getattr(vllm_config, "parallel_config", None)
    if getattr(parallel, "enable_eplb", False) or any(_values(_additional(vllm_config), _REBALANCING)):
        return "experts are rebalanced while it serves"
    return None


def _can_sleep(addresses: Iterable[int]) -> bool:
    """Whether some memory is of an allocator that can take it away, whoever may tell it to."""
    taken = sorted(
        (first, first + data.handle[1])
        for module, name in _ALLOCATORS.items()
        for first, data in getattr(_instance(module, name), "pointer_to_data", {}).items()
    )
    for address in addresses if taken else ():
        before = bisect.bisect_right(taken, (address, sys.maxsize)) - 1
        if before >= 0 and address < taken[before][1]:
            return True
    return False


def _instance(module: str, name: str) -> Any:
    return getattr(getattr(sys.modules.get(module), name, None), "instance", None)


def _additional(vllm_config: Any) -> Any:
    return getattr(vllm_config, "additional_config", None)


def _values(settings: Any, name: str) -> Iterator[Any]:
    """Of a setting, at any depth."""
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        if key == name:
            yield value
        yield from _values(value, name)


def _plain(value: Any) -> str:
    """Of settings that are no mapping: vLLM has them hash themselves."""
    return str(getattr(value, "compute_hash", value.__str__)())


def _content(path: Any) -> str:
    """Digest of a file; its name if it cannot be read, which is for the plugin to refuse."""
    try:
        return hashlib.sha256(Path(str(path)).read_bytes()).hexdigest()
    except OSError:
        return str(path)
