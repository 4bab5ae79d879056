"""Make docs/scale-out.png: the page of a real `yr-fastload serve` with two real vLLM instances of a small model.

Run by ``make screenshot``: ``python tools/screenshot.py PYTHON_WITH_VLLM``. It presses the page's button as a user
would. The first instance reads a file that is not in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from browser import MISSING, chromium, opened
from playwright.sync_api import Browser, Page, expect

from yr_fastload_native.checkpoints.page_cache import drop_page_cache
from yr_fastload_native.measuring.service_process import ServiceProcess

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
        with ServiceProcess(model, ["--", *VLLM], environment_of(Path(scratch)), python=python) as service:
            take(browser, service)


def environment_of(scratch: Path) -> dict[str, str]:
    """Of a service with a worker and caches of its own."""
    runtime = scratch / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"YR_FASTLOAD_WORKER_HOME": str(runtime), "XDG_CACHE_HOME": str(scratch / "cache")}
    environment.pop("DS_WORKER_ADDR", None)
    return environment


def take(browser: Browser, service: ServiceProcess) -> None:
    """Take the picture once a second instance has pulled its weights and both have answered."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 300}, color_scheme="light")
    page.goto(service.url)
    guess = service.until_template()
    until_ready(page, 1)
    service.until_learned(guess)
    page.get_by_role("button", name="Scale out").click()
    until_ready(page, 2)
    second = service.status()["instances"][1]
    if second["load_source"] != "instance":
        raise SystemExit(f"the second instance did not pull: {second}")
    for _ in range(4):
        asking = urllib.request.Request(
            f"{service.url}/v1/completions", json.dumps(ASKED).encode(), {"Content-Type": "application/json"}
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
