"""A checkpoint of any size with the structure of a real model, for when no real one is at hand."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.process.typed_os_errors import disk_full, typed_os_errors

__all__ = ["QWEN2_7B_BYTES", "make_qwen2"]

_Shape = tuple[int, ...]

QWEN2_7B_BYTES = 15_231_233_024  # 339 tensors, bfloat16

_OP = "make checkpoint"
_ADVICE = "choose a smaller size, or another directory (TMPDIR names the one for temporary files)"
_MIB = 1 << 20
_BLOCK_BYTES = 16 << 20
_SHARD_BYTES = 1 << 30


def make_qwen2(
    directory: str | os.PathLike[str],
    *,
    size_mb: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Create a checkpoint like Qwen2.5-7B's, of another size and with random weights.

    It has the 339 names, dtype (bfloat16), biases and untied head of the original (28 layers, hidden
    3584, intermediate 18944, 28 heads, 4 KV heads, vocabulary 152064: 15.2 GB), with the dimensions scaled. Source:
    config.json of Qwen/Qwen2.5-7B. The directory appears completely or not at all.

    Args:
        directory: Must not exist, or must be empty.
        size_mb: Total size of the tensors, MiB; at least 1, and accurate within 10 % from 16 on.
        seed: Of the random weights; the same seed and size give the same files.
        progress: Called with the bytes written so far and in total, once every 16 MiB.

    Returns:
        ``directory``.

    Raises:
        InvalidArgumentError: ``size_mb`` is less than 1, or the directory is not empty or cannot be written.
        ResourceExhaustedError: The disk has too little space, or filled up.
    """
    directory = Path(directory)
    if size_mb < 1:
        raise InvalidArgumentError(f"size_mb={size_mb} is not allowed; use at least 1", op=_OP)
    config, shapes = _qwen2(size_mb * _MIB)
    total = _nbytes(shapes)
    with typed_os_errors(directory, op=_OP, advice=_ADVICE):
        if directory.exists() and any(directory.iterdir()):
            raise InvalidArgumentError(
                f"{directory} is not empty; name another directory", op=_OP, failed_keys=[str(directory)]
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        needed, free = total + _MIB, shutil.disk_usage(directory.parent).free
        if free < needed:
            why = f"{free} bytes are free and {needed} are needed"
            raise disk_full(directory, why, op=_OP, advice=_ADVICE)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=directory.parent) as temporary:
            made = Path(temporary) / directory.name
            made.mkdir()
            (made / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            shards = _shards(shapes)
            random = np.random.SFC64(seed)
            done = 0
            for name, shard in shards.items():
                for count in _write_shard(made / name, shard, random):
                    done += count
                    if progress is not None:
                        progress(done, total)
            weight_map = {tensor: name for name, shard in shards.items() for tensor in shard}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (made / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
            made.rename(directory)
    return directory


def _qwen2(target_bytes: int) -> tuple[dict[str, object], dict[str, _Shape]]:
    """Scale Qwen2.5-7B. A head's dimensions come in pairs, so the width is rounded, and the rest meets the target."""
    layers, heads, kv_heads = 28, 28, 4
    head = 2 * max(1, round(64 * math.sqrt(target_bytes / QWEN2_7B_BYTES)))
    hidden, kv = heads * head, kv_heads * head
    attention: dict[str, _Shape] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.q_proj.bias": (hidden,),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.v_proj.bias": (kv,),
        "self_attn.o_proj.weight": (hidden, hidden),
    }
    remaining = target_bytes - layers * _nbytes(attention)
    scale = remaining / (2 * hidden * (layers * 3 * 18944 + 2 * 152064))
    intermediate, vocabulary = round(18944 * scale), round(152064 * scale)
    layer = attention | {
        "mlp.gate_proj.weight": (intermediate, hidden),
        "mlp.up_proj.weight": (intermediate, hidden),
        "mlp.down_proj.weight": (hidden, intermediate),
    }
    shapes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        **{f"model.layers.{index}.{name}": shape for index in range(layers) for name, shape in layer.items()},
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    config: dict[str, object] = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "max_position_embeddings": 131072,
        "model_type": "qwen2",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }
    return config, shapes


def _nbytes(shapes: Mapping[str, _Shape]) -> int:
    return sum(2 * math.prod(shape) for shape in shapes.values())


def _shards(shapes: Mapping[str, _Shape]) -> dict[str, dict[str, _Shape]]:
    """Spread tensors, in order, over files of at most 1 GiB; a larger tensor gets its own file."""
    shards: list[dict[str, _Shape]] = []
    room = 0
    for name, shape in shapes.items():
        size = _nbytes({name: shape})
        if not shards or size > room:
            shards.append({})
            room = _SHARD_BYTES
        shards[-1][name] = shape
        room -= size
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards, 1)}


def _write_shard(path: Path, shapes: Mapping[str, _Shape], random: np.random.SFC64) -> Iterator[int]:
    """Write one file; yields the bytes of data after each block."""
    left = _nbytes(shapes)
    with path.open("wb") as file:
        file.write(_header(shapes))
        while left:
            count = min(left, _BLOCK_BYTES)
            block = random.random_raw(-(-count // 8))
            block &= np.uint64(0xBFFF_BFFF_BFFF_BFFF)  # without the top bit of its exponent, a bfloat16 is finite
            file.write(block.data.cast("B")[:count])
            left -= count
            yield count
        file.flush()
        os.fsync(file.fileno())


def _header(shapes: Mapping[str, _Shape]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + _nbytes({name: shape})
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)  # in this format the data begins at a multiple of eight
    return len(padded).to_bytes(8, "little") + padded
