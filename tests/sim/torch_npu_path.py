"""Imports torch_npu from where the environment says; the tests' own process has none."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.environ["NODE_TORCH_NPU"])

import torch_npu  # noqa: F401
