"""What `service` has a service start in the place of vLLM servers, and that service: how instances live and die.

As a server it says what it was asked and by whom; its mode says how it behaves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from yr_fastload_native.vllm import phases


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/health":
            unwell = (self.directory / f"unwell.{os.getpid()}").exists()
            if unwell:
                time.sleep(60)
            self._answer(200, b"")
        else:
            told = {"path": self.path, "pid": os.getpid(), "npus": os.environ.get("ASCEND_RT_VISIBLE_DEVICES")}
            self._answer(200, json.dumps(told).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(body or b"{}")
        if asked.get("die") and not (self.directory / "died").exists():
            (self.directory / "died").touch()
            os._exit(3)
        time.sleep(asked.get("seconds", 0))
        if "stream" not in asked:
            self._answer(201, body, {"x-pid": str(os.getpid()), "x-twice": "1"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(asked["stream"]):
                event = f"data: {number}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.flush()
                time.sleep(asked["each_s"])
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            (self.directory / "client-gone").touch()

    def _answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def server(directory: Path, mode: str, host: str, port: int) -> None:
    with (directory / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    # One that does not go when it is asked to, in a session of its own.
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
    with (directory / "children").open("a") as children:
        children.write(f"{child.pid}\n")
    first = len((directory / "starts").read_text().split()) == 1
    if mode == "crash":
        sys.exit("no weights here <img src=x>")
    if mode == "hang":
        time.sleep(600)
    report = os.environ["YR_FASTLOAD_REPORT"]
    phases.mark_imported(report)
    phases.mark(report, "rank set up")
    phases.mark(report, "weights")
    loaded = {"cold_load_s": 8.0, "pull_s": None, "transport": None, "bytes": 0}
    if not first:
        loaded = {"cold_load_s": None, "pull_s": 0.5, "transport": "host", "bytes": 1000}
    with open(report, "a") as file:
        for event in ("loading", "loaded"):
            file.write(json.dumps({"event": event, "pid": os.getpid(), "fallback": None, **loaded}) + "\n")
        if first:
            file.write(json.dumps({"event": "published", "pid": os.getpid(), "bytes": 1000}) + "\n")
    Handler.directory = directory
    ThreadingHTTPServer((host, port), Handler).serve_forever()


def launcher(name: str, logs: Path, cpus: float, place_s: float, forks: bool):
    if name == "ray":
        from yr_fastload_native.service.ray_launcher import RayLauncher

        return RayLauncher(logs, cpus, place_s, forks=forks)
    if name == "yr":
        from yr_fastload_native.service.yr_launcher import YrLauncher

        return YrLauncher(logs, cpus, place_s, forks=forks)
    from yr_fastload_native.service.local import LocalLauncher

    return LocalLauncher(logs, forks=forks)


def service(told: argparse.Namespace) -> None:
    import uvicorn

    from yr_fastload_native.service import fleet
    from yr_fastload_native.service.app import app_of
    from yr_fastload_native.service.launcher import Order

    fleet._HEALTH_EVERY_S = 0.2
    directory = told.directory

    def order(name):
        arguments = [__file__, "server", str(directory), told.mode]
        return Order(name, arguments, {}, 1.0, devices=told.devices, imports=told.imports)

    starts = launcher(told.launcher, directory / "logs", told.cpus, told.place_s, told.template)
    made = fleet.Fleet(starts, order, fleet.Limits(**told.limits))
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(app_of(made, 1), port=0, log_level="warning", timeout_graceful_shutdown=10)
    )

    def tell():
        while not uvicorn_server.started:
            time.sleep(0.01)
        port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
        (directory / "port.new").write_text(str(port))
        (directory / "port.new").rename(directory / "port")

    threading.Thread(target=tell, daemon=True).start()
    uvicorn_server.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("directory", type=Path)
    parser.add_argument("mode")
    parser.add_argument("--limits", type=json.loads, default={})
    parser.add_argument("--launcher", default="local")
    parser.add_argument("--cpus", type=float, default=0.0)
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--place-s", type=float, default=60.0)
    parser.add_argument("--template", action="store_true")
    parser.add_argument("--imports", nargs="*", default=["http.server"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    forked = len(sys.argv) == 2  # then all of it is one argument
    told = parser.parse_args(json.loads(sys.argv[1]) if forked else None)
    if told.role == "server":
        server(told.directory, told.mode, told.host, told.port)
    else:
        service(told)
