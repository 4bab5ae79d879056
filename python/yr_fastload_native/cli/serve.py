"""``yr-fastload serve``: instances of a model behind one address; POST /scaleout adds one."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from yr_fastload_native.cli import output
from yr_fastload_native.errors import InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from yr_fastload_native.service.fleet import Limits
    from yr_fastload_native.service.launcher import Launcher
    from yr_fastload_native.service.vllm_server import VllmServer

__all__ = ["serve"]

_OP = "serve"
_WITHOUT_DEVICES = 8
_HEADER_BYTES = 4 << 20  # limit for a request's headers, as in vLLM's server


@click.command()
@click.option("--model", envvar="MODEL_PATH", required=True, help="Directory or name of the model.  [env: MODEL_PATH]")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. There is no authentication."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    envvar="SERVER_PORT",
    default=9000,
    show_default=True,
    help="Port to listen on; 0 picks a free one.  [env: SERVER_PORT]",
)
@click.option(
    "--tp",
    type=click.IntRange(1, 64),
    envvar="PTP",
    default=1,
    show_default=True,
    help="Tensor parallel size.  [env: PTP]",
)
@click.option(
    "--instances",
    type=click.IntRange(0, 1024),
    envvar="PREFILL_INS_NUM",
    default=1,
    show_default=True,
    help="Instances to start with.  [env: PREFILL_INS_NUM]",
)
@click.option(
    "--max-instances",
    type=click.IntRange(1, 1024),
    help=f"Most instances at a time.  [default: as devices allow, {_WITHOUT_DEVICES} without devices]",
)
@click.option(
    "--devices-per-instance", type=click.IntRange(1, 1024), help="NPUs or GPUs per instance.  [default: same as --tp]"
)
@click.option(
    "--worker",
    default="",
    help="openYuanrong's worker, HOST:PORT; :PORT is that of each instance's machine.  [env: DS_WORKER_ADDR; default: "
    "start one]",
)
@click.option(
    "--launcher",
    type=click.Choice(["local", "ray", "yr"]),
    default="local",
    show_default=True,
    help="Where instances start: here, or on the cluster of RAY_ADDRESS or YR_SERVER_ADDRESS.",
)
@click.option(
    "--cpus-per-instance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="CPUs that a cluster reserves per instance.",
)
@click.option(
    "--template",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Fork instances from a process on their machine that has already imported what they need.",
)
@click.option(
    "--start-timeout",
    type=click.FloatRange(1),
    default=900.0,
    show_default=True,
    help="Time for an instance to become ready, s.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Time for requests to finish when an instance stops, s.",
)
@click.option(
    "--keep-alive",
    type=click.IntRange(1),
    default=650,  # longer than usual clients and load balancers reuse one
    show_default=True,
    help="How long to keep idle client connections, s.",
)
@click.option(
    "--logs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the instances' logs, on each machine.  [default: not kept]",
)
@click.option("--json", "as_json", is_flag=True, help="Print where it listens as one line of JSON.")
@click.argument("vllm_arguments", nargs=-1, type=click.UNPROCESSED)
def serve(
    model: str,
    host: str,
    port: int,
    tp: int,
    instances: int,
    max_instances: int | None,
    devices_per_instance: int | None,
    worker: str,
    launcher: str,
    cpus_per_instance: float,
    template: str,
    start_timeout: float,
    drain_timeout: float,
    keep_alive: int,
    logs: Path | None,
    as_json: bool,
    vllm_arguments: tuple[str, ...],
) -> None:
    """Serve a model with vLLM instances behind one address; POST /scaleout adds one, which pulls its weights.

    Everything after -- goes to `vllm serve`. POST /scaleout and /scalein accept {"count": n}, the latter also {"ids":
    [...]}. There are GET /status, /metrics, /trace and /health, and a page at /. All other requests go to the
    instances in turn, or to all of them if they change an instance. Ctrl-C or SIGTERM lets requests in flight finish
    and stops all instances.
    """
    with _extra("serve"):
        import fastapi  # noqa: F401
        import httpx  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    from yr_fastload_native.service.fleet import Limits
    from yr_fastload_native.service.vllm_server import VllmServer
    from yr_fastload_native.settings import Config

    if worker:
        Config(worker=f"localhost{worker}" if worker.startswith(":") else worker)  # refuses an invalid address
    with contextlib.closing(_launcher(launcher, logs, cpus_per_instance, template)) as starts:
        server = VllmServer(
            model=model,
            tp=tp,
            arguments=vllm_arguments,
            worker=worker,
            devices=starts.devices,
            devices_each=devices_per_instance or tp,
        )
        if server.uds is not None and launcher != "local":
            raise InvalidArgumentError(f"--uds {server.uds}: instances on a cluster are reached through ports", op=_OP)
        most = _most(server, instances, max_instances)
        limits = Limits(instances=most, start_s=start_timeout, drain_s=drain_timeout)
        _run(server, limits, starts, instances, _listen(host, port), keep_alive, as_json)


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Report a missing extra around its imports."""
    try:
        yield
    except ImportError as error:
        raise InvalidArgumentError(f"{error}; pip install 'yr-fastload-native[{name}]'", op=_OP) from None


def _launcher(name: str, logs: Path | None, cpus: float, template: str) -> Launcher:
    if name == "ray":
        with _extra("ray"):
            from yr_fastload_native.service.ray_launcher import RayLauncher
        return RayLauncher(logs, cpus, forks=template == "auto")
    if name == "yr":
        with _extra("yr"):
            from yr_fastload_native.service.yr_launcher import YrLauncher
        return YrLauncher(logs, cpus, forks=template == "auto")
    from yr_fastload_native.service.local import LocalLauncher
    from yr_fastload_native.service.machine import MachineDevices

    return LocalLauncher(logs, machine=MachineDevices.here(), forks=template == "auto")


def _most(server: VllmServer, instances: int, told: int | None) -> int:
    """The largest number of instances at a time."""
    most = told or (_WITHOUT_DEVICES if server.most is None else server.most)
    wanted = max(most, instances, 1)
    if server.most is not None and wanted > server.most:
        raise InvalidArgumentError(
            f"{wanted} instances of {server.devices_each} devices: there are {server.devices.count} "
            f"{server.devices.kind}s",
            op=_OP,
        )
    if instances > most:
        raise InvalidArgumentError(f"--instances {instances} is more than --max-instances {most}", op=_OP)
    return most


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # clients that are told the address can connect
            stack.pop_all()
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {_address(host, port)}: {error}; choose another with --port", op=_OP
        ) from None
    return listener


def _address(host: str, port: int) -> str:
    """The address for a URL; localhost if it stands for all addresses."""
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _run(
    server: VllmServer,
    limits: Limits,
    launcher: Launcher,
    instances: int,
    listener: socket.socket,
    keep_alive_s: int,
    as_json: bool,
) -> None:
    import uvicorn

    from yr_fastload_native.service.app import app_of
    from yr_fastload_native.service.fleet import Fleet

    host, port = listener.getsockname()[:2]
    url = f"http://{_address(host, port)}"
    output.emit(
        {"url": url, "max_instances": limits.instances},
        as_json=as_json,
        text=lambda: f"serving {server.model} on {url}",
    )
    app = app_of(Fleet(launcher, server.order, limits), instances)
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=max(1, round(limits.drain_s)),
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    uvicorn.Server(config).run(sockets=[listener])
