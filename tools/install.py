#!/usr/bin/env python3
"""`uv pip install` from where pip is told to install from: uv itself reads neither pip's files nor its variables.

`.venv/bin/python tools/install.py --python .venv/bin/python PACKAGE`: that Python needs pip, and uv beside it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

# pip's settings and uv's options; of those with several values these stand apart by spaces.
_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
_FLAGS = {"no-index": "--no-index", "no-cache-dir": "--no-cache"}
_VARIABLES = {
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


def settings() -> dict[str, str]:
    """What pip is configured to: its variables count before its files, and there ``[install]`` before ``[global]``."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.splitlines()
    found = {}
    for scope in ("global.", "install.", ":env:."):
        for line in lines:
            if line.startswith(scope):
                name, _, value = line.removeprefix(scope).partition("=")
                found[name] = str(ast.literal_eval(value))
    return found


def options(found: dict[str, str]) -> list[str]:
    """The same for uv, which then takes the newest version that any of the indexes has, as pip does."""
    named = [[option, value] for name, option in _OPTIONS.items() for value in found.get(name, "").split()]
    flags = [[flag] for name, flag in _FLAGS.items() if found.get(name, "").lower() in ("1", "true", "yes", "on")]
    return sum(named + flags, ["--index-strategy", "unsafe-best-match"])


def variables(found: dict[str, str]) -> dict[str, str]:
    return {variable: found[name] for name, variable in _VARIABLES.items() if name in found}


def main() -> None:
    found = settings()
    uv = str(Path(sys.executable).with_name("uv"))
    os.execve(uv, [uv, "pip", "install", "--quiet", *options(found), *sys.argv[1:]], variables(found) | os.environ)


if __name__ == "__main__":
    main()
