"""Write docs/settings.md, docs/errors.md and docs/class-map.svg, or check that those in the tree are up to date.

Run with the package installed: ``python tools/pages.py [--check]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import class_map

from yr_fastload_native import _core, errors
from yr_fastload_native.settings import ENVIRONMENT_PREFIX, Config, ExchangeConfig

_DOCS = Path(__file__).parents[1] / "docs"

_SETTINGS = """# Settings

Every setting is an argument of `yr_fastload_native.Config`, which checks it, and an environment variable, which
`Config.from_env` (and a `FastLoader` without a config) reads. If `worker` is `auto`, `DS_WORKER_ADDR` names the worker.
`FastLoader.stats()` shows limits beside how much of each was used. `make docs` generates this page from the code.

"""

_HEADING = """| setting | variable | default | unit | meaning |
|---|---|---|---|---|
"""

_EXCHANGE = """
## Around vLLM's loading

All settings, these and those above, are keys of `--model-loader-extra-config` for `--load-format yr_fastload`, and
environment variables. A key takes precedence over the variable.

"""

_ERRORS = """# Errors

Every error that this package raises on purpose is a `FastLoadError` with `.code`, `.op` (the operation that was
called), `.failed_keys` (keys, tensor names or paths) and `.retryable` (whether the same call may succeed later,
unchanged). On the command line it is one line on stderr, `error: CODE: message`, with exit status 1. `make docs`
generates this page from the table in `csrc/core/error.hpp`.

| class | code | is also a | retryable | meaning |
|---|---|---|---|---|
"""


def settings() -> str:
    return _SETTINGS + _table(Config) + _EXCHANGE + _table(ExchangeConfig)


def _table(cls: type) -> str:
    rows = []
    for field in attrs.fields(cls):
        meaning, unit = field.metadata["meaning"], field.metadata["unit"]
        variable = ENVIRONMENT_PREFIX + field.name.upper()
        default = "{}" if field.default == attrs.Factory(dict) else field.default
        rows.append(f"| `{field.name}` | `{variable}` | `{default}` | {unit} | {meaning} |")
    return _HEADING + "\n".join(rows) + "\n"


def error_page() -> str:
    rows = []
    for code, name, retryable, meaning in _core.error_table():
        bases = [base.__name__ for base in getattr(errors, name).__bases__ if base is not errors.FastLoadError]
        also = f"`{bases[0]}`" if bases else ""
        rows.append(f"| `{name}` | `{code}` | {also} | {'yes' if retryable else 'no'} | {meaning} |")
    return _ERRORS + "\n".join(rows) + "\n"


def _pages() -> dict[str, str]:
    return {
        "settings.md": settings(),
        "errors.md": error_page(),
        "class-map.svg": class_map.draw((_DOCS / "class-map.txt").read_text()),
    }


def main(arguments: list[str]) -> int:
    stale = 0
    for name, text in _pages().items():
        page = _DOCS / name
        if arguments != ["--check"]:
            page.write_text(text)
        elif not page.exists() or page.read_text() != text:
            sys.stderr.write(f"docs/{name} is out of date; run `make docs`\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
