"""A plain stream between two hosts, to compare transfers with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from chaos.hosts.bed import Host

__all__ = ["stream"]

_PORT = 9000
_SINK = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print(flush=True)
    connection, _ = server.accept()
    with connection:
        while connection.recv(1 << 18):
            pass
        connection.sendall(b"!")
"""
_SOURCE = """
import socket, sys, time
left, piece = int(sys.argv[3]), bytes(1 << 20)
started = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as connection:
    while left > 0:
        connection.sendall(piece[:left])
        left -= len(piece)
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
print(time.monotonic() - started)
"""


def stream(source: Host, sink: Host, size: int) -> float:
    """Seconds that so many bytes take from one host to another, in one stream: of `iperf3`, where it is installed.

    Raises:
        RuntimeError: They do not come.
    """
    iperf = shutil.which("iperf3")
    receive = [sys.executable, "-c", _SINK, sink.address, str(_PORT)]
    if iperf:
        receive = [iperf, "--server", "--one-off", "--forceflush", "--bind", sink.address, "--port", str(_PORT)]
    with subprocess.Popen([*sink.enter, *receive], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            if not iperf:
                return float(source.run(sys.executable, "-c", _SOURCE, sink.address, str(_PORT), str(size)))
            where = ("--client", sink.address, "--port", str(_PORT), "--connect-timeout", "5000")
            told = json.loads(source.run(iperf, *where, "--bytes", str(size), "--json"))
            if "error" in told:  # with a status of 0
                raise RuntimeError(f"iperf3: {told['error']}")
            return float(told["end"]["sum_received"]["seconds"])
        finally:
            server.kill()
