"""Models of other frameworks through `FastLoader` alone: plain torch, and Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import yr_fastload_native as fl

pytestmark = pytest.mark.worker

DTYPE = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"


def answers(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("architecture", ["qwen2", "qwen2_tied", "mixtral", "llama"])
def test_transformers(make: Callable[..., Path], worker: str, identity: dict[str, str], architecture: str) -> None:
    first = transformers.AutoModelForCausalLM.from_pretrained(make(architecture)).eval()
    torch.manual_seed(99)
    second = transformers.AutoModelForCausalLM.from_config(first.config, **{DTYPE: first.dtype}).eval()
    assert not torch.equal(answers(first), answers(second))
    with fl.FastLoader(fl.Config(worker=worker)) as one, fl.FastLoader(fl.Config(worker=worker)) as other:
        one.publish(first, identity)
        before = dict(second.named_parameters())
        report = other.load(second, identity)
        assert report.verified
        assert all(before[name] is parameter for name, parameter in second.named_parameters())
    assert torch.equal(answers(first), answers(second))


@pytest.mark.parametrize("architecture", ["qwen2", "qwen2_tied", "mixtral"])
def test_transformers_from_a_checkpoint(make: Callable[..., Path], worker: str, architecture: str) -> None:
    directory = make(architecture, seed=2802)
    first = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    with fl.FastLoader(fl.Config(worker=worker)) as one, fl.FastLoader(fl.Config(worker=worker)) as other:
        one.publish_checkpoint(directory)
        checkpoint = other.checkpoint(directory, framework="torch")
        second = type(first).from_pretrained(None, config=first.config, state_dict=dict(checkpoint)).eval()
        assert checkpoint.from_files == []
    assert torch.equal(answers(first), answers(second))


def test_plain_torch(worker: str, identity: dict[str, str]) -> None:
    def network() -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.LazyLinear(10)
        ).eval()

    images = torch.rand(2, 3, 16, 16)
    first, second = network(), network()
    expected, other = first(images), second(images)
    assert not torch.equal(expected, other)
    with fl.FastLoader(fl.Config(worker=worker)) as one, fl.FastLoader(fl.Config(worker=worker)) as two:
        one.publish(first, identity)
        two.load(second, identity)
    assert torch.equal(expected, second(images))
