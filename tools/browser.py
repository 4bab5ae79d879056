"""A headless Chromium that can reach nothing but this machine, for a test and a screenshot."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

__all__ = ["MISSING", "chromium", "opened"]

MISSING = "no Chromium: name one with CHROMIUM, or install Debian's package chromium; pip has no browser"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def chromium() -> str | None:
    """The path of the browser: the one that CHROMIUM names, or the first one found."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, [named] if named else _NAMES)), None)


@contextlib.contextmanager
def opened(executable: str) -> Iterator[Browser]:
    """Run it with its own profile; both end with the context."""
    with sync_playwright() as playwright:
        # It does not start with its sandbox as root.
        browser = playwright.chromium.launch(
            executable_path=executable, args=_FLAGS, chromium_sandbox=os.geteuid() != 0, timeout=60_000
        )
        with browser:
            yield browser
