"""vLLM's command, for instances that share the cores of a machine.

python -m yr_fastload_native.vllm.beside RANKS serve MODEL ...
"""

from __future__ import annotations

import importlib
import os
import sys

from yr_fastload_native.vllm import compat

__all__ = ["main"]


def main() -> None:
    """Take the ranks of the instance from the arguments, and leave the rest to vLLM."""
    for name, value in compat.beside_others(int(sys.argv.pop(1))).items():
        os.environ.setdefault(name, value)
    importlib.import_module("vllm.entrypoints.cli.main").main()


if __name__ == "__main__":  # vLLM's processes are spawned, and import this module
    main()
