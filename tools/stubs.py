"""Write the stubs of the native module, or check that those in the tree are up to date.

Run with the package installed: ``python tools/stubs.py [--check]``.
"""

from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_STUBS = Path(__file__).parents[1] / "python" / "yr_fastload_native" / "_core"


def generate(directory: Path) -> Path:
    """Write the stubs of the installed `_core` and its submodules, formatted; returns their folder."""
    tools = Path(sys.executable).parent
    subprocess.run(
        [tools / "pybind11-stubgen", "yr_fastload_native._core", "-o", directory, "--exit-code"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    made = directory / "yr_fastload_native" / "_core"
    subprocess.run(
        [tools / "ruff", "format", "--quiet", "--config", _STUBS.parents[2] / "pyproject.toml", made], check=True
    )
    return made


def _texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.pyi"))}


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        folder = generate(Path(directory))
        if arguments != ["--check"]:
            shutil.copytree(folder, _STUBS, dirs_exist_ok=True)
            return 0
        made = _texts(folder)
    kept = _texts(_STUBS)
    if made == kept:
        return 0
    for name in sorted({*made, *kept}):
        before, after = (texts.get(name, "").splitlines(True) for texts in (kept, made))
        sys.stderr.writelines(difflib.unified_diff(before, after, f"_core/{name}", "generated"))
    sys.stderr.write("the stubs of _core are out of date; run `make stubs`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
