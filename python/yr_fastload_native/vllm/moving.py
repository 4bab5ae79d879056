"""Settings of an instance that decide which weights it has, or that these do not stay where they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["additional_settings", "why_they_move"]

_EXPERT_MAP = "expert_map_path"  # of vllm-ascend: which expert is where
_REBALANCING = "dynamic_eplb"  # of vllm-ascend: experts move while it serves


def additional_settings(vllm_config: Any) -> str | None:
    """Digest of what is set for plugins of vLLM, with the files that place experts; None if nothing is."""
    given = _additional(vllm_config)
    if not given:
        return None
    maps = [_content(path) for path in _values(given, _EXPERT_MAP) if path]
    return hashlib.sha256(json.dumps([given, maps], sort_keys=True, default=_plain).encode()).hexdigest()


def why_they_move(vllm_config: Any, model_config: Any) -> str | None:
    """Why the weights do not stay where they were loaded; None if they do."""
    if getattr(model_config, "enable_sleep_mode", False):
        return "sleep mode takes their memory away"
    parallel = getattr(vllm_config, "parallel_config", None)
    if getattr(parallel, "enable_eplb", False) or any(_values(_additional(vllm_config), _REBALANCING)):
        return "experts are rebalanced while it serves"
    return None


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
