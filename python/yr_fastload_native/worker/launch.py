"""Starting the worker's process through dscli."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.place import HOST, Place

__all__ = ["find_dscli", "run_dscli", "worker_environment"]

_PORT_ATTEMPTS = 3
_DSCLI = "import sys; from yr.datasystem.cli.command import main; sys.argv[0] = 'dscli'; sys.exit(main())"
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"})
_FLAGS = {
    # Streams are not used here; without their threads an idle worker takes 5 % of a core instead of 10 % (measured).
    "sc_regular_socket_num": "0",
    "sc_stream_socket_num": "0",
    "sc_scan_interval_ms": "1000",
    # Twice the default, because a killed process's client counts for two minutes. Each client takes one bit of an
    # object's header, and with this many the header still has 64 bytes (measured, 0.8.1).
    "max_client_num": "464",
    # The defaults, 5 files of 400 MiB per log, are too large for a runtime directory.
    "max_log_size": "32",
    "max_log_file_num": "2",
}

# What comes from another machine passes through memory of the worker's process, 32 MiB a chunk. By default jemalloc
# returns blocks of 8 MiB and more as soon as they are free, and each chunk is written to fresh pages: 279,000 faults
# for 1 GiB instead of 34,000 (measured, 0.8.1). With these settings it keeps them for ten seconds.
_MALLOC_CONF = "oversize_threshold:0,background_thread:true"


def run_dscli(
    dscli: list[str],
    home: Home,
    place: Place,
    memory_mb: int,
    deadline: float,
    curve_key_dir: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """Start the worker and wait until it is ready.

    Args:
        dscli: The command, from `find_dscli`.
        home: Directory of the worker; its data is created anew.
        place: Where it listens.
        memory_mb: Size of the pool, MiB.
        deadline: On the monotonic clock, seconds.
        curve_key_dir: Keys of the worker and of the clients that may connect; None: anyone can connect.
        more: Of openYuanrong's flags.

    Returns:
        Addresses of the worker and of the metastore that it uses, which is empty with an etcd.

    Raises:
        UnavailableError: It died, a port is taken, or it was not ready in time.
    """
    output = ""
    for _ in range(_PORT_ATTEMPTS):
        worker, metastore = _addresses(place)
        shutil.rmtree(home.data, ignore_errors=True)
        remaining_s = max(1.0, deadline - time.monotonic())
        flags = _FLAGS | place.flags(worker, metastore) | dict(more or {})
        flags |= {"shared_memory_size_mb": str(memory_mb), "ready_check_path": str(home.ready)}
        if curve_key_dir is not None:
            flags |= {"enable_curve_zmq": "true", "curve_key_dir": str(curve_key_dir)}
        command = [*dscli, "start", "-t", str(math.ceil(remaining_s)), "-d", str(home.path), "-w"]
        for name, value in flags.items():
            command += [f"--{name}", value]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=remaining_s + 1,
                cwd=home.path,
                env=worker_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            output = f"not ready within {remaining_s:.3g} s"
            break
        if done.returncode == 0:
            return worker, metastore
        output = done.stdout
        # Somebody may have taken a port after we checked it and before the worker bound it. A port that the caller gave
        # is checked again in the next round, and refused by name. In a cluster, one that was killed and comes back at
        # once may exit: the others still know the one before (seen in 0.8.1).
        if "Address already in use" not in output and place.part == "alone":
            break
    raise UnavailableError(
        f"the openYuanrong worker did not start: {_gist(output)}; its logs are in {home.logs}",
        op="worker start",
    )


def find_dscli() -> list[str]:
    """The command of openYuanrong's dscli, found through the package that this process imports.

    Its script may not be on PATH: `pip install --target` and `--user` put it elsewhere.

    Raises:
        UnavailableError: The package is not installed.
    """
    if _packages() is None:
        raise UnavailableError(
            f"openYuanrong's datasystem is not installed for {sys.executable}; pip install "
            "openyuanrong-datasystem==0.8.1",
            op="worker start",
        )
    return [sys.executable, "-c", _DSCLI]


def _packages() -> Path | None:
    """The directory that contains openYuanrong's package."""
    try:
        found = importlib.util.find_spec("yr.datasystem.cli")
    except ImportError:
        return None
    return None if found is None or found.origin is None else Path(found.origin).parents[3]


def worker_environment() -> dict[str, str]:
    """The environment of dscli and the worker, without proxies: gRPC would use one, also on loopback.

    The allocator's settings are ours where there are none.
    """
    kept = {name: text for name, text in os.environ.items() if name.lower() not in _PROXIES}
    path = [str(_packages() or ""), kept.get("PYTHONPATH", "")]
    return {"MALLOC_CONF": _MALLOC_CONF} | kept | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def _addresses(place: Place) -> tuple[str, str]:
    """Of the worker and the metastore; their ports are free now, but not reserved."""
    if place.part == "alone":
        worker, metastore = _free_ports(place.port)
        return f"{HOST}:{worker}", f"{HOST}:{metastore}"
    for host, port in place.listens_on:
        with socket.socket() as free:
            _bind(free, host, port)
    return place.address, place.metastore


def _bind(free: socket.socket, host: str, port: int) -> None:
    free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        free.bind((host, port))
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {host}:{port}: {error.strerror}{_listener(port)}; use another port"
            + (", or 0 for any" if host == HOST else ", or the address of this machine"),
            op="worker start",
        ) from error


def _free_ports(port: int) -> tuple[int, int]:
    """Ports for the worker (``port`` unless 0) and its metastore. They are free now, but not reserved."""
    with socket.socket() as worker, socket.socket() as metastore:
        _bind(worker, HOST, port)
        metastore.bind((HOST, 0))
        return worker.getsockname()[1], metastore.getsockname()[1]


def _listener(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f" (by pid {connection.pid}, {psutil.Process(connection.pid).name()})"
    return ""


def _gist(output: str) -> str:
    """The last three lines of dscli's output that give a reason, joined into one line."""
    noise = re.compile(
        r"\[INFO\]|\[ERROR\] \[  FAILED  \] Start worker|\[ERROR\] Start failed: The worker service exited"
        r"|WARNING: All log messages|Line of code|File\s+:|traceId\s+:"
    )
    # A log line is "time | level | file | pod | pid:tid | trace | cluster |  message".
    lines = [line.rpartition(" |  ")[2].strip() for line in output.splitlines() if not noise.match(line)]
    return " / ".join([line[:200] for line in lines if line][-3:]) or "no output"
