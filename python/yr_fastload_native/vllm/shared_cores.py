"""vLLM's command, for instances that share a machine's cores.

python -m yr_fastload_native.vllm.shared_cores RANKS serve MODEL ...
"""

from __future__ import annotations

import importlib
import os
import sys

from yr_fastload_native.vllm import compat

__all__ = ["main"]


def main() -> None:
    """Take the number of ranks from the arguments, and pass the rest to vLLM."""
    for name, value in compat.beside_others(int(sys.argv.pop(1))).items():
        os.environ.setdefault(name, value)
    importlib.import_module("vllm.entrypoints.cli.main").main()


if __name__ == "__main__":  # vLLM spawns processes that import this module
    main()
