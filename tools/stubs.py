"""Write the stub of the native module, or check that the one in the tree is up to date.

Run with the package installed: ``python tools/stubs.py [--check]``.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

_STUB = Path(__file__).parents[1] / "python" / "yr_fastload_native" / "_core.pyi"


def generate() -> str:
    """The stub of the installed `_core`, formatted."""
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [tools / "pybind11-stubgen", "yr_fastload_native._core", "-o", directory, "--exit-code"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        made = Path(directory) / "yr_fastload_native" / "_core.pyi"
        subprocess.run(
            [tools / "ruff", "format", "--quiet", "--config", _STUB.parents[2] / "pyproject.toml", made], check=True
        )
        return made.read_text()


def main(arguments: list[str]) -> int:
    made = generate()
    if arguments != ["--check"]:
        _STUB.write_text(made)
        return 0
    kept = _STUB.read_text() if _STUB.exists() else ""
    if made == kept:
        return 0
    sys.stderr.writelines(difflib.unified_diff(kept.splitlines(True), made.splitlines(True), "_core.pyi", "generated"))
    sys.stderr.write("_core.pyi is out of date; run `make stubs`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
