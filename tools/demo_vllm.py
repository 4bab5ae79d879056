"""Two real vLLM instances of a generated model, phase by phase: `make demo-vllm`.

The first one reads the model from disk, publishes its weights and compiles; the second one pulls, is forked from the
template of `yr-fastload serve`, and loads what was compiled. Both answer the same prompt. Run with the Python that has
vLLM: ``python tools/demo_vllm.py [--size-mb N] [--eager]``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yr_fastload_native.cli import output
from yr_fastload_native.cli.start_bars import start_bars
from yr_fastload_native.measuring.resources import private_worker
from yr_fastload_native.measuring.service_process import ServiceProcess

MIB = 1 << 20
PROMPT, TOKENS = "an instance that starts now", 12
VLLM = ["--served-model-name", "demo", "--max-model-len", "128", "--seed", "0"]
ROOM_MB = 512


def main() -> int:
    """Start both, show their starts, and compare their answers; 0 if they are equal and the second one pulled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=1000, help="of the model; default: 1000")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    told = parser.parse_args()
    with model(told.size_mb) as (path, environment):
        arguments = ["--instances", "0", "--", *VLLM, *(["--enforce-eager"] if told.eager else [])]
        with ServiceProcess(path, arguments, environment) as service:
            say("the first instance: reads the disk, compiles and publishes; a minute or so")
            before = service.until_template()
            (first,) = service.scale_out()
            say("the template learns what the first instance imported")
            service.until_learned(before)
            say("one more")
            (second,) = service.scale_out()
            answers = [service.complete(each, "demo", PROMPT, TOKENS) for each in (first, second)]
    starts = {"first instance": first["phases"], "one more": second["phases"]}
    equal, pulled = answers[0] == answers[1], second["load_source"] == "instance"
    output.emit({}, as_json=False, text=lambda: start_bars(starts))
    how = "forked from the template" if second["from_template"] else f"not forked: {second['not_forked']}"
    print(f"one more: weights from {'the first instance' if pulled else 'disk'}, {how}")
    print(f"ready {first['ready_seconds'] / second['ready_seconds']:.1f} times as soon as the first one")
    print(f"tokens agree: {'yes' if equal else 'NO'}")
    return 0 if equal and pulled else 1


@contextlib.contextmanager
def model(size_mb: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """A generated model, and the environment of a service with a worker and caches of its own."""
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp") as scratch:
        path = Path(scratch) / "model"
        say(f"making a model of {size_mb} MB")
        making = ["verify-vllm", "--make-tiny", "qwen2", "--size-mb", str(size_mb), "--only-make", str(path)]
        subprocess.run([sys.executable, "-m", "yr_fastload_native", *making], check=True, stdout=subprocess.DEVNULL)
        with private_worker((2 * size_mb + ROOM_MB) * MIB) as worker:
            yield (
                path,
                {
                    **os.environ,
                    "DS_WORKER_ADDR": worker,
                    "HF_HUB_OFFLINE": "1",
                    "VLLM_NO_USAGE_STATS": "1",
                    "VLLM_CACHE_ROOT": f"{scratch}/vllm",
                    "XDG_CACHE_HOME": f"{scratch}/cache",
                },
            )


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    sys.exit(main())
