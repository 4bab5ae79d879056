"""The identity of one rank's weights in a vLLM instance."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.catalogue.identity import ABOUT
from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.as_made import AsMade
from yr_fastload_native.vllm.moving import additional_settings

__all__ = ["identity_of"]

# Formats that load the same files into the same tensors; any other format is part of the identity.
_EQUAL_FORMATS = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer")
# Fields of a model's config, at any depth, that say where it comes from or whose effects all show in `AsMade`.
_NO_MATTER = ("_name_or_path", "_commit_hash", "auto_map", "transformers_version", "max_model_len", "rotary_kwargs")
_GIVEN = "given:"  # the name of a checkpoint with a given fingerprint
_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/[^/]+/?$")  # of Hugging Face's cache


def identity_of(
    call: compat.Call,
    *,
    stage: str,
    checkpoint: str,
    load_format: str,
    made: AsMade,
    read_elsewhere: Sequence[str],
) -> dict[str, Any]:
    """The identity under which weights are exchanged.

    Everything that affects the bytes of a tensor is part of it, even if shapes would not show it: overrides of the
    model's config, the class that reads the files, settings of plugins, and the placement of experts. What affects no
    byte is in ``about``, for people: the model's name if its files identify it, and settings whose effects all show in
    the model as constructed.

    Args:
        call: The arguments of ``load_model``.
        stage: ``raw`` or ``final``.
        checkpoint: The name of the weights' files.
        load_format: The load format for reading from disk.
        made: The model before its weights are loaded.
        read_elsewhere: Weight files read by its constructor, from `Watch.contents`.
    """
    model, parallel = call.model_config, call.vllm_config.parallel_config
    hf_config = model.hf_config
    shown = {
        "max_model_len": model.max_model_len,
        "kv_cache_dtype": str(getattr(getattr(call.vllm_config, "cache_config", None), "cache_dtype", None)),
        "runner": str(getattr(model, "runner_type", None)),
        "convert": str(getattr(model, "convert_type", None)),
    }
    named = {"model": _name(getattr(model, "model_weights", "") or model.model), "revision": model.revision}
    identity: dict[str, Any] = dict(named) if checkpoint.startswith(_GIVEN) else {}
    identity |= {
        "engine": "vllm",
        "engine_version": compat.version(),
        "platform": compat.platform(),
        "platform_version": compat.platform_version(),
        "checkpoint": checkpoint,
        "read_elsewhere": list(read_elsewhere),
        "architectures": list(getattr(hf_config, "architectures", None) or []),
        "config": _config_digest(hf_config),
        **attrs.asdict(made),
        "dtype": str(model.dtype),
        "quantization": model.quantization,
        "quantization_config": _digest(getattr(model, "quantization_config", None)),
        "prefix": call.prefix,
        "is_draft": model is not call.vllm_config.model_config,
        "stage": stage,
        "experts": _experts(parallel),
        "ranks": {name: list(place) for name, place in compat.ranks().items()},
        ABOUT: {**named, **shown},
    }
    if stage == "final":  # processing for kernels may look at any of them
        identity |= shown
    additional = additional_settings(call.vllm_config)
    if additional is not None:
        identity["additional_config"] = additional
    if load_format not in _EQUAL_FORMATS:
        identity["load_format"] = load_format
    if _reads_tokens(hf_config) and getattr(model, "tokenizer", model.model) != model.model:
        identity["tokenizer"] = [_name(model.tokenizer), getattr(model, "tokenizer_revision", None)]
    return identity


def _reads_tokens(hf_config: Any) -> bool:
    """Whether a classifier is built from the rows of a head that a tokenizer names."""
    text_config = getattr(hf_config, "get_text_config", lambda: hf_config)()
    return any(getattr(each, "classifier_from_token", None) for each in (hf_config, text_config))


def _experts(parallel: Any) -> dict[str, Any]:
    of_balancing = getattr(parallel, "eplb_config", None)
    return {
        "parallel": bool(getattr(parallel, "enable_expert_parallel", False)),
        "balanced": bool(getattr(parallel, "enable_eplb", False)),
        "placement": str(getattr(parallel, "expert_placement_strategy", "linear")),
        "redundant": getattr(of_balancing, "num_redundant_experts", getattr(parallel, "num_redundant_experts", 0)) or 0,
    }


def _name(model: str) -> str:
    """A model's name, wherever it is stored: its name on the hub, or that of its folder."""
    cached = _SNAPSHOT.search(str(model))
    if cached is not None:
        return cached[1].replace("--", "/")
    if os.path.isabs(model) or Path(model).exists():
        return Path(model).resolve().name
    return str(model)


def _config_digest(hf_config: Any) -> str:
    return _digest(_without_place(hf_config.to_dict()))


def _without_place(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_place(item) for key, item in value.items() if key not in _NO_MATTER}
    if isinstance(value, (list, tuple)):
        return [_without_place(item) for item in value]
    return value


def _digest(value: object) -> str:
    """Digest of JSON values; anything else by its text, which for settings shows their values."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return vars(value) if hasattr(value, "__dict__") and not callable(value) else str(value)
