"""Make docs/scale-out.png: the page of a real `yr-fastload serve` with two real vLLM instances of a small model.

Run by ``make screenshot``: ``python tools/screenshot.py PYTHON_WITH_VLLM``. It presses the page's button as a user
would. The first instance reads a file that is not in the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from browser import MISSING, chromium, opened
from playwright.sync_api import Browser, Page, expect

from yr_fastload_native.checkpoints.safetensors_files import drop_page_cache

PICTURE = Path(__file__).parents[1] / "docs/scale-out.png"
SIZE_MB = 1024
WIDTH = 1200
START_S = 300.0
SOON_S = 60.0
VLLM = ["--served-model-name", "tiny", "--max-model-len", "128", "--enforce-eager", "--seed", "0"]
ASKED = {"model": "tiny", "prompt": "an instance that starts now", "max_tokens": 4}


def main() -> None:
    """Make a model, serve it, add an instance, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="of the environment that has vLLM")
    python = str(parser.parse_args().python)
    executable = chromium()
    if executable is None:
        raise SystemExit(MISSING)
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp") as scratch, opened(executable) as browser:
        model = Path(scratch) / "model"
        making = ["verify-vllm", "--make-tiny", "qwen2", "--size-mb", str(SIZE_MB), "--only-make", str(model)]
        subprocess.run([python, "-m", "yr_fastload_native", *making], check=True, timeout=START_S)
        for file in model.glob("*.safetensors"):
            drop_page_cache(file)
        with service(python, model, Path(scratch)) as url:
            take(browser, url)


@contextlib.contextmanager
def service(python: str, model: Path, scratch: Path) -> Iterator[str]:
    """Run `yr-fastload serve` with a private worker; yields where it listens."""
    runtime = scratch / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["YR_FASTLOAD_WORKER_HOME"] = str(runtime)
    environment.pop("DS_WORKER_ADDR", None)
    command = [python, "-m", "yr_fastload_native", "serve", "--model", str(model), "--port", "0", "--json", "--", *VLLM]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SOON_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def take(browser: Browser, url: str) -> None:
    """Take the picture once a second instance has pulled its weights and both have answered."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 300}, color_scheme="light")
    page.goto(url)
    until_ready(page, 1)
    page.get_by_role("button", name="Scale out").click()
    until_ready(page, 2)
    with urllib.request.urlopen(f"{url}/status", timeout=SOON_S) as answer:
        second = json.load(answer)["instances"][1]
    if second["load_source"] != "instance":
        raise SystemExit(f"the second instance did not pull: {second}")
    for _ in range(4):
        asking = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(ASKED).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(asking, timeout=START_S).close()
    expect(page.get_by_text("2 so far")).to_have_count(2, timeout=SOON_S * 1000)
    expect(page.get_by_text("iB from disk")).to_have_count(1, timeout=SOON_S * 1000)
    page.screenshot(path=PICTURE, full_page=True)


def until_ready(page: Page, count: int) -> None:
    """Wait until this many instances are ready."""
    expect(page.locator("td .ready")).to_have_count(count, timeout=START_S * 1000)


if __name__ == "__main__":
    main()
