"""``yr-fastload verify-vllm``: does a second vLLM instance on this machine pull its weights and answer the same?"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from yr_fastload_native.checkpoints.tiny_vllm import ARCHITECTURES
from yr_fastload_native.cli import output
from yr_fastload_native.cli.start_bars import start_bars
from yr_fastload_native.errors import FastLoadError, InvalidArgumentError, NotPublishedError, UnavailableError
from yr_fastload_native.process.scratch import scratch
from yr_fastload_native.vllm.allowed import allowing
from yr_fastload_native.vllm.reports import events, wait_until_published

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["verify_vllm"]

_OP = "verify-vllm"
_MIB = 1 << 20
_INSTANCES = ("first instance", "second instance")
_START_S = 900.0
_PUBLISH_S = 300.0


@click.command("verify-vllm")
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Directory of the model.")
@click.option("--make-tiny", type=click.Choice(ARCHITECTURES), help="Generate a small random model and use that.")
@click.option(
    "--only-make", type=click.Path(file_okay=False, path_type=Path), help="Generate the model there, and start nothing."
)
@click.option("--size-mb", type=click.IntRange(1, 1 << 20), help="Approximate size of a generated dense model, MiB.")
@click.option("--tp", type=click.IntRange(1, 64), default=1, show_default=True, help="Tensor parallel size.")
@click.option(
    "--then-tp",
    type=click.IntRange(1, 64),
    help="Tensor parallel size of the second instance, which then loads from the checkpoint that the first publishes.",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "d2d", "staged", "host"]),
    default="auto",
    show_default=True,
    help="How weights move. d2d and staged move them between NPUs, simulated ones if there are none.",
)
@click.option(
    "--zero-copy/--no-zero-copy",
    default=None,
    help="Let the second instance use the worker's memory directly, or copy it.  [default: as zero_copy=auto]",
)
@click.option("--dtype", default="auto", show_default=True, help="vLLM's dtype.")
@click.option(
    "--stage",
    type=click.Choice(["raw", "final"]),
    default="raw",
    show_default=True,
    help="Exchange weights before (raw) or after (final) processing.",
)
@click.option(
    "--tokens", type=click.IntRange(1, 4096), default=16, show_default=True, help="Tokens to generate per prompt."
)
@click.option("--drop-cache", is_flag=True, help="Drop the model's files from the page cache before the first start.")
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the phases of both starts there, for chrome://tracing or ui.perfetto.dev.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of the table.")
def verify_vllm(
    model: Path | None,
    make_tiny: str | None,
    only_make: Path | None,
    size_mb: int | None,
    tp: int,
    then_tp: int | None,
    transport: str,
    zero_copy: bool | None,
    dtype: str,
    stage: str,
    tokens: int,
    drop_cache: bool,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Check that a second vLLM instance pulls its weights and answers the same.

    The first instance loads from disk, the second one pulls. Both answer the same prompts with greedy decoding. The
    exit status is 0 only if every token agrees and the second one pulled. With --then-tp it has another tensor parallel
    size, and loads from the checkpoint; if it then answers otherwise, it is compared with a third instance, of its own
    size, that reads the files. DS_WORKER_ADDR names the openYuanrong worker to use; without it a private one is started
    and stopped. The two instances run side by side and need the memory of both.
    """
    if (model is None) == (make_tiny is None):
        raise click.UsageError("name a model with --model, or create one with --make-tiny")
    if (only_make or size_mb) and not make_tiny:
        raise click.UsageError("--only-make and --size-mb need --make-tiny")
    if importlib.util.find_spec("vllm") is None:
        raise InvalidArgumentError("vLLM is not installed in this environment; install it first", op=_OP)
    with contextlib.ExitStack() as stack:
        if make_tiny is not None:
            directory = only_make or stack.enter_context(scratch(_OP, sockets=False)) / "model"
            model = _make(Path(directory), make_tiny, size_mb)
            if only_make is not None:
                output.emit({"model": str(model)}, as_json=as_json, text=lambda: f"made {model}")
                return
        assert model is not None
        if drop_cache:
            _drop_cache(model)
        settings = {
            "transport": transport,
            "stage": stage,
            "zero_copy": "auto" if zero_copy is None else zero_copy,
            "share": "sharded" if then_tp is None else "checkpoint",
        }
        record = _verify(model, (tp, then_tp or tp), dtype, tokens, settings, stack)
    if trace is not None:
        _write_trace(trace, record["phases"])
    output.emit(record, as_json=as_json, text=lambda: _table(record))
    if not record["tokens_equal"]:
        raise FastLoadError("the two instances answer differently; please report it, with the output of --json", op=_OP)
    if record["fallback"] is not None:
        raise UnavailableError(f"the second instance read from disk: {record['fallback']}", op=_OP)


def _make(directory: Path, architecture: str, size_mb: int | None) -> Path:
    from yr_fastload_native.checkpoints.tiny_vllm import Size, make

    output.note(f"making a {architecture} model")
    with contextlib.redirect_stdout(sys.stderr):  # libraries print things; stdout is for the result
        return make(directory, architecture, size=Size.of(size_mb) if size_mb else None)


def _write_trace(path: Path, phases: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    from yr_fastload_native.vllm.phases import Phase, trace_of

    starts = [[Phase(**phase) for phase in each] for each in phases]
    path.write_text(json.dumps(trace_of(zip(_INSTANCES, starts, strict=True))))


def _drop_cache(model: Path) -> None:
    from yr_fastload_native.checkpoints.page_cache import drop_page_cache
    from yr_fastload_native.checkpoints.weight_files import weight_files

    for path in weight_files(model):
        drop_page_cache(path)


def _verify(
    model: Path,
    sizes: tuple[int, int],
    dtype: str,
    tokens: int,
    settings: Mapping[str, Any],
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    from yr_fastload_native.checkpoints.weight_files import weight_files
    from yr_fastload_native.measuring.child_process import Process
    from yr_fastload_native.measuring.resources import device_environment, private_worker
    from yr_fastload_native.settings import ENVIRONMENT_PREFIX, Config
    from yr_fastload_native.vllm import phases

    total = sum(path.stat().st_size for path in weight_files(model))
    worker = Config.worker_from_env() or stack.enter_context(private_worker(2 * total, output.note))
    environment, simulated = device_environment(settings["transport"])
    if simulated:
        output.note("no NPU here: using simulated ones")
    environment |= allowing() | _ENVIRONMENT
    reports = stack.enter_context(scratch(_OP))
    environment["VLLM_RPC_BASE_PATH"] = str(reports)  # where a killed instance leaves sockets

    launched: list[float] = []

    def start(role: str, tp: int, report: Path, how: Mapping[str, Any] = settings) -> Process:
        arguments = {
            "model": str(model.resolve()),
            "tensor_parallel_size": tp,
            "dtype": dtype,
            "max_model_len": 256,
            "enforce_eager": True,
            "gpu_memory_utilization": 0.1 if simulated or not _has_accelerator() else 0.4,
            "seed": 0,
        }
        output.note(f"starting the {role}")
        launched.append(phases.now())
        told = environment | {ENVIRONMENT_PREFIX + "REPORT": str(report)}  # from its first import on
        told |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if tp == 1 else {}
        task = {
            "arguments": arguments,
            "settings": {**how, "worker": worker, "report": str(report)},
            "tokens": tokens,
        }
        return stack.enter_context(
            Process(_OP, "yr_fastload_native.measuring.vllm_process", role, task, told, group=True)
        )

    first = start(_INSTANCES[0], sizes[0], reports / "first")
    ready = first.expect("ready", _START_S)
    was_ready = [phases.now()]
    answers = first.expect("answered", _START_S)
    shares_checkpoint = settings["share"] == "checkpoint"
    if shares_checkpoint:
        wait_until_published(reports / "first", 1, _PUBLISH_S, op=_OP, kind="published checkpoint")
    else:
        wait_until_published(reports / "first", sizes[0], _PUBLISH_S, op=_OP)
    second = start(_INSTANCES[1], sizes[1], reports / "second")
    ready_again = second.expect("ready", _START_S)
    was_ready.append(phases.now())
    answers_again = second.expect("answered", _START_S)
    compared, wanted = _INSTANCES[0], answers["tokens"]
    if sizes[0] != sizes[1] and wanted != answers_again["tokens"]:
        # Sums of other parts are rounded otherwise, which may make another token.
        compared = "third instance"
        output.note(
            "they answer differently: comparing with a third one, of the second one's size, that reads the files"
        )
        for each in (first, second):
            each.close()
        third = start(compared, sizes[1], reports / "third", {**settings, "share": "sharded", "publish": "off"})
        third.expect("ready", _START_S)
        wanted = third.expect("answered", _START_S)["tokens"]
    loaded, pulled = events(reports / "first", "loaded"), events(reports / "second", "loaded")
    cold_s = max((each["cold_load_s"] or 0.0 for each in loaded), default=0.0)
    if shares_checkpoint:
        pulled = [_as_pulled(each) for each in pulled]
    seconds = [each["pull_s"] for each in pulled]
    pull_s = max(seconds) if seconds and None not in seconds else None
    return {
        "tokens_equal": wanted == answers_again["tokens"],
        "compared_with": compared,
        "cold_load_s": cold_s,
        "pull_load_s": pull_s,
        "speedup": cold_s / pull_s if pull_s else None,
        "transport": next((each["transport"] for each in pulled), None),
        "fallback": next((each["fallback"] for each in pulled if each["fallback"]), None if pulled else "no report"),
        "fallback_reason": next((each.get("fallback_reason") for each in pulled if each["fallback"]), None),
        "bytes": sum(each["bytes"] for each in pulled),
        "ranks": len(pulled),
        "publish_s": max((each["publish_s"] for each in loaded), default=0.0),
        "load_model_s": [max((each["load_model_s"] for each in both), default=None) for both in (loaded, pulled)],
        "ready_s": [ready["seconds"], ready_again["seconds"]],
        "phases": [
            [attrs.asdict(each) for each in phases.phases_of(events(reports / name), begin, end)]
            for name, begin, end in zip(("first", "second"), launched[:2], was_ready, strict=True)
        ],
        "vllm_version": answers["vllm_version"],
        "model": model.name,
        "devices": "simulated" if simulated else "real" if _has_accelerator() else "none",
    }


def _as_pulled(loaded: dict[str, Any]) -> dict[str, Any]:
    """What a rank says that has loaded from a published checkpoint, in the words of one that has pulled its weights."""
    read = loaded["checkpoint"]
    if read is None or read["from_files"]:
        return {**loaded, "fallback": loaded["fallback"] or NotPublishedError.code}
    return {**loaded, "transport": "checkpoint", "bytes": read["bytes"], "pull_s": loaded["cold_load_s"]}


# Two small instances side by side.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
}


def _has_accelerator() -> bool:
    from yr_fastload_native.devices.registry import accelerators

    return bool(accelerators())


def _table(record: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    title = f"{record['model']}, vLLM {record['vllm_version']}, {record['ranks']} ranks"
    table = output.table(title, "", ">weights, s", ">ready, s")
    pull = "-" if record["pull_load_s"] is None else f"{record['pull_load_s']:.3f}"
    table.add_row("first instance, from disk", f"{record['cold_load_s']:.3f}", f"{record['ready_s'][0]:.1f}")
    table.add_row(f"second instance ({record['transport']})", pull, f"{record['ready_s'][1]:.1f}")
    bars = start_bars(dict(zip(_INSTANCES, record["phases"], strict=True)))
    lines = [f"tokens agree: {'yes' if record['tokens_equal'] else 'NO'}"]
    if record["devices"] == "simulated":
        lines.append("devices: simulated, see docs/simulated-ascend.md")
    return Group(table, bars, *lines)
