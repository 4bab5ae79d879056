"""Small random models with the structure of real ones and a tokenizer that needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

__all__ = ["ARCHITECTURES", "Size", "make"]

ARCHITECTURES = ("qwen2", "qwen2_tied", "qwen2_int8", "qwen3_moe", "mixtral", "llama")
_TEXT = (
    "an instance that starts now takes its weights from one that runs",
    "the first reads the disk once and every later one asks its neighbours",
    "0 1 2 3 4 5 6 7 8 9 + - * / ( ) [ ] { } , . ; : ? !",
)
_WORDS = 320
_POSITIONS = 512
_SPREAD = 0.1  # of the weights; with less, greedy decoding repeats one token
_MIB = 1 << 20
_INT8_MOST = 127
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
_QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**_INT8, "strategy": "token", "dynamic": True},
        }
    },
}


@attrs.frozen(kw_only=True)
class Size:
    """The size of a model; by default a few hundred thousand parameters."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    experts: int = 4
    vocabulary: int = _WORDS

    @classmethod
    def of(cls, size_mb: int) -> Size:
        """A dense model of about ``size_mb`` MiB in bfloat16, of layers like those of Qwen2.5-1.5B."""
        hidden, intermediate = 1536, 8960
        layer = 2 * (3 * hidden * intermediate + 2 * hidden * hidden + 2 * hidden * 256)
        layers = max(1, round(size_mb * _MIB / layer))
        return cls(hidden=hidden, layers=layers, heads=12, kv_heads=2, intermediate=intermediate, vocabulary=_WORDS)


def make(
    directory: Path, architecture: str, *, size: Size | None = None, seed: int = 0, dtype: str = "bfloat16"
) -> Path:
    """Write a checkpoint in Hugging Face's layout, with random weights.

    Args:
        directory: Created if necessary.
        architecture: One of `ARCHITECTURES`.
        size: Of the model.
        seed: Of the weights.
        dtype: Of the weights, by torch's name.

    Returns:
        The directory.
    """
    import torch
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    size = size or Size()
    words = _tokenizer(directory, size.vocabulary)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = transformers.AutoModelForCausalLM.from_config(_config(architecture, size, max(size.vocabulary, words)))
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # otherwise ones and zeros, which would hide a mix-up
                parameter.add_(torch.randn_like(parameter) * _SPREAD / 2)
            elif "embed" in name and size.hidden > _POSITIONS:
                parameter.normal_(0, _SPREAD)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    _edit(directory / "config.json", _speak_to_all_versions)
    if architecture == "qwen2_int8":
        _quantize(directory)
    return directory


def _config(architecture: str, size: Size, vocabulary: int) -> Any:
    import transformers

    common: dict[str, Any] = {
        "vocab_size": (vocabulary + 63) // 64 * 64,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": _POSITIONS,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": architecture == "qwen2_tied",
        "initializer_range": _SPREAD,
    }
    if architecture.startswith("qwen2"):
        return transformers.Qwen2Config(**common)
    if architecture == "llama":
        return transformers.LlamaConfig(**common)
    if architecture == "mixtral":
        return transformers.MixtralConfig(**common, num_local_experts=size.experts, num_experts_per_tok=2)
    return transformers.Qwen3MoeConfig(
        **common,
        head_dim=size.hidden // size.heads,
        num_experts=size.experts,
        num_experts_per_tok=2,
        moe_intermediate_size=size.intermediate,
        norm_topk_prob=True,
        decoder_sparse_step=1,
    )


def _quantize(directory: Path) -> None:
    """Convert the layers' weights to int8 with one scale per row, in the format of compressed-tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    (path,) = directory.glob("*.safetensors")
    quantized: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path).items():
        if not name.endswith("_proj.weight"):
            quantized[name] = tensor
            continue
        scale = tensor.float().abs().amax(dim=1, keepdim=True) / _INT8_MOST
        quantized[name] = (tensor.float() / scale).round().to(torch.int8)
        quantized[f"{name}_scale"] = scale.to(tensor.dtype)
    save_file(quantized, path, metadata={"format": "pt"})
    _edit(directory / "config.json", lambda fields: fields.update(quantization_config=_QUANTIZATION))


def _tokenizer(directory: Path, vocabulary: int) -> int:
    """Train a tokenizer on a few lines, and pad it to ``vocabulary``; returns its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([line for line in _TEXT for _ in range(8)], trainer)
    made.add_tokens([f"<{number}>" for number in range(made.get_vocab_size(), vocabulary)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=_POSITIONS
    )
    fast.save_pretrained(directory)
    _edit(directory / "tokenizer_config.json", lambda fields: fields.update(tokenizer_class="PreTrainedTokenizerFast"))
    return len(fast)


def _speak_to_all_versions(fields: dict[str, Any]) -> None:
    """Versions 4 and 5 of transformers name some fields differently; give both."""
    fields["torch_dtype"] = fields.get("dtype") or fields.get("torch_dtype")
    theta = (fields.get("rope_parameters") or {}).get("rope_theta")
    if theta:
        fields.setdefault("rope_theta", theta)
    experts = fields.get("num_local_experts") or fields.get("num_experts")
    if experts:
        fields["num_local_experts"] = experts
        if fields["model_type"].startswith("qwen"):
            fields["num_experts"] = experts


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields, indent=2))
