"""Coverage-guided fuzzing: ``python tests/fuzz/fuzz.py TARGET [options of libFuzzer] [directories of a corpus]``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["yr_fastload_native", "targets"]):
    from targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
