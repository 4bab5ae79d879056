"""What makes the weights of one rank of a vLLM instance these weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.fingerprint import fingerprint_files, weight_files
from yr_fastload_native.vllm import compat

__all__ = ["identity_of"]

# Formats that read the same files into the same tensors; any other is part of the identity.
_EQUAL_FORMATS = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer")
_WHERE_FROM = ("_name_or_path", "transformers_version")  # of a model's config: not what it is


def identity_of(call: compat.Call, loader: Any, *, stage: str, fingerprint: str, load_format: str) -> dict[str, Any]:
    """The identity under which weights are exchanged.

    Whatever decides about the bytes of a tensor is part of it, also where shapes would not tell: overrides of the
    model's config change tables of rotary embeddings, and the placement of experts decides which expert lies where.

    Args:
        call: Of ``load_model``.
        loader: What reads the weights from disk; asked to fetch them where no files are found.
        stage: ``raw`` or ``final``.
        fingerprint: ``files``, or a text that stands for them.
        load_format: Of the cold path.

    Raises:
        InvalidArgumentError: The files of the weights cannot be found or read.
        IntegrityError: One of them is damaged.
    """
    model, parallel = call.model_config, call.vllm_config.parallel_config
    hf_config = model.hf_config
    from_files = fingerprint == "files"
    identity: dict[str, Any] = {
        "engine": "vllm",
        "engine_version": compat.version(),
        "platform": compat.platform(),
        "model": _name(model.model, whole=not from_files),
        "revision": model.revision,
        "checkpoint": _of_files(model, call, loader) if from_files else f"given:{fingerprint}",
        "architectures": list(getattr(hf_config, "architectures", None) or []),
        "config": _config_digest(hf_config),
        "dtype": str(model.dtype),
        "quantization": model.quantization,
        "quantization_config": _digest(getattr(model, "quantization_config", None)),
        "kv_cache_dtype": str(getattr(getattr(call.vllm_config, "cache_config", None), "cache_dtype", None)),
        "max_model_len": model.max_model_len,
        "prefix": call.prefix,
        "is_draft": model is not call.vllm_config.model_config,
        "stage": stage,
        "experts": {
            "parallel": bool(getattr(parallel, "enable_expert_parallel", False)),
            "balanced": bool(getattr(parallel, "enable_eplb", False)),
            "placement": str(getattr(parallel, "expert_placement_strategy", "linear")),
            "redundant": str(
                getattr(parallel, "num_redundant_experts", getattr(parallel, "eplb_config", None)) or "none"
            ),
        },
        "ranks": {name: list(place) for name, place in compat.ranks().items()},
    }
    if load_format not in _EQUAL_FORMATS:
        identity["load_format"] = load_format
    return identity


def _name(model: str, *, whole: bool) -> str:
    """Of a model: its last part where its files tell it apart, all of it where only the name does."""
    if os.path.isabs(model) or Path(model).exists():
        return Path(model).resolve().name
    return model if whole else model.rstrip("/").rsplit("/", 1)[-1]


def _of_files(model: Any, call: compat.Call, loader: Any) -> str:
    path = Path(model.model)
    if not path.exists():
        found = _snapshot(model, call)
        if found is None:
            loader.download_model(model)
            found = _snapshot(model, call)
        if found is None:
            raise InvalidArgumentError(
                f"no files of {model.model!r} were found to tell its weights apart; set fingerprint to a text that "
                "names them, for example their revision",
                op="fingerprint",
                failed_keys=[str(model.model)],
            )
        path = found
    return f"files:{fingerprint_files(weight_files(path))}"


def _snapshot(model: Any, call: compat.Call) -> Path | None:
    """Where Hugging Face's hub keeps the model's files on this machine."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            model.model,
            revision=model.revision,
            cache_dir=call.vllm_config.load_config.download_dir,
            local_files_only=True,
        )
        return Path(found) if weight_files(found) else None
    except (LocalEntryNotFoundError, HFValidationError, InvalidArgumentError):
        return None


def _config_digest(hf_config: Any) -> str:
    fields = dict(hf_config.to_dict())
    for name in _WHERE_FROM:
        fields.pop(name, None)
    return _digest(fields)


def _digest(value: object) -> str:
    """Of what JSON can hold; anything else by its text, which for settings is what they are set to."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return vars(value) if hasattr(value, "__dict__") and not callable(value) else str(value)
