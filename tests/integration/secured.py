"""Workers that ask who connects, and the server that knows the tenants."""

from __future__ import annotations

import contextlib
import http.server
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yr_fastload_native as fl
from yr_fastload_native.worker import launch

from ..conftest import start_worker

SYSTEM = {"system_access_key": "system-ak", "system_secret_key": "system-sk"}


@contextlib.contextmanager
def short_home() -> Iterator[Path]:
    """A directory whose path leaves room for the names of the worker's sockets."""
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp", ignore_cleanup_errors=True) as home:
        yield Path(home)


@contextlib.contextmanager
def worker_with(home: Path, flags: dict[str, str], memory_mb: int = 512) -> Iterator[fl.LocalWorker]:
    """A worker with more of openYuanrong's flags. Its secrets are arguments of its process: for tests only."""
    with mock.patch.dict(launch._FLAGS, flags):
        started = start_worker(home, memory_mb)
    try:
        yield started
    finally:
        started.stop(force=True)


@contextlib.contextmanager
def iam_server(tenants: dict[str, tuple[str, str]]) -> Iterator[str]:
    """What openYuanrong's worker asks about an access key: `/iam-server/v1/credential/require` (yuanrong_iam.cpp).

    Args:
        tenants: Secret key and tenant by access key.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = tenants.get(self.headers.get("X-Auth", ""))
            answer = {} if known is None else {"secretKey": known[0], "tenantID": known[1]}
            body = json.dumps({**answer, "expiredTimeSpan": "3600", "role": "normal"}).encode()
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
