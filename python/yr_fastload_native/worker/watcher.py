"""Runs beside a worker: tells other processes where it is, and ends it once nobody uses it.

    python -I -S watcher.py PID TICKS FACTS

Stdin is the listening socket of the worker's name. A connection that says ``use`` is a user for as long as it is open,
in whatever process has inherited it. No file is involved that could be deleted. ``PID`` and ``TICKS`` are the worker's,
so that others can read them from this process's arguments.

It imports nothing from the package, so that a bare interpreter runs beside the worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import time

_LOOK_S = 1.0
_GRACE_S = 10.0
_KILL_S = 60.0  # the kernel needs a while to free a pool of hundreds of GiB
_MAX_REQUEST = 64
_MAX_NOTED = 4096
_ESTABLISHED = "01"


def start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None if it is gone or a zombie.

    Source: proc_pid_stat(5): fields 3 (state), 20 (threads) and 22 (start time).
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, threads, ticks = fields[0], int(fields[17]), int(fields[19])
    # The first thread can be a zombie while the others still hold the ports.
    return None if state in "ZX" and threads <= 1 else ticks


def end(pid: int, started: int, *, grace_s: float) -> bool:
    """End this process, with SIGTERM for ``grace_s`` seconds (if not 0), then with SIGKILL. Whether it is gone."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_S)):
        if not patience_s:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if start_ticks(pid) != started:
                return True
            time.sleep(0.02)
    return False


def has_clients(address: str) -> bool:
    """Whether anybody is connected to this loopback address. Source: proc(5), /proc/net/tcp."""
    port = f"{int(address.rpartition(':')[2]):04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as file:
            for line in file:
                _, local, _, state, *_ = line.split()
                if state == _ESTABLISHED and local.endswith(f":{port}"):
                    return True
    return False


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end: the one that connected, or the one that began to listen."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


class Watcher:
    """A worker and its users' connections.

    Args:
        facts: ``status`` is the answer to every request; ``data`` is removed with the worker; with ``adopted``, clients
            connected to the worker itself count as users too, since they came before this process. ``tells`` is the
            descriptor of a socket at which everybody is told how full its pool is, or null.
    """

    def __init__(self, listener: socket.socket, pid: int, ticks: int, facts: dict[str, object]) -> None:
        self._listener = listener
        self._pid, self._ticks = pid, ticks
        self._status = dict(facts["status"])  # type: ignore[call-overload]
        self._data, self._adopted = str(facts["data"]), bool(facts["adopted"])
        self._users: set[socket.socket] = set()
        self._was_used = False
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        told_at = facts["tells"]
        self._tells = None if told_at is None else socket.socket(fileno=int(str(told_at)))
        if self._tells is not None:
            self._tells.setblocking(False)
            self._selector.register(self._tells, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the worker is gone."""
        while start_ticks(self._pid) == self._ticks:
            stoppers: list[tuple[socket.socket, bool]] = []
            for key, _ in self._selector.select(_LOOK_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._tells:
                    self._tell()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._hear(key.fileobj, stoppers)
            # After all other events: a process that stops the worker has given it up before.
            force = any(forced for _, forced in stoppers)
            if force:
                for user in self._users:
                    self._answer(user, {"stopped": True})
            stopped = (force or self._is_unused()) and end(
                # Without users there is no call to finish and no data to save, and an orderly exit takes 5 s
                # (measured).
                self._pid,
                self._ticks,
                grace_s=_GRACE_S if force else 0,
            )
            if stopped:
                shutil.rmtree(self._data, ignore_errors=True)
            for connection, _ in stoppers:
                self._answer(connection, {"stopped": stopped, "pid": self._pid})
        self._clear()

    def _clear(self) -> None:
        """Remove what a worker that died left behind (hundreds of MB), except its logs."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._data):
                if name != "logs":
                    shutil.rmtree(os.path.join(self._data, name), ignore_errors=True)

    def _is_unused(self) -> bool:
        if self._users or not self._was_used or self._status["keep"]:
            return False
        return not (self._adopted and has_clients(self._status["address"]))

    def _tell(self) -> None:
        """Answer with what the worker has noted last of its resources."""
        assert self._tells is not None
        with contextlib.suppress(OSError):
            connection, _ = self._tells.accept()
            with connection, open(os.path.join(self._data, "logs", "resource.log"), "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _MAX_NOTED))
                connection.setblocking(False)
                connection.send(b"".join(log.read().splitlines(keepends=True)[-1:]))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            if peer(connection)[1] != os.getuid():
                connection.close()
                return
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket, stoppers: list[tuple[socket.socket, bool]]) -> None:
        try:
            request = connection.recv(_MAX_REQUEST).decode("ascii", "replace")
        except OSError:
            request = ""
        if request in ("use", "keep"):
            self._users.add(connection)
            self._was_used = True
            self._status["keep"] = self._status["keep"] or request == "keep"
            self._answer(connection, self._status)
        elif request == "status":
            self._answer(connection, self._status)
        elif request in ("stop", "force"):
            stoppers.append((connection, request == "force"))
        else:
            self._selector.unregister(connection)
            self._users.discard(connection)
            connection.close()

    @staticmethod
    def _answer(connection: socket.socket, facts: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # the other side may be gone
            connection.send(json.dumps(facts).encode())


def main() -> None:
    if os.fork():  # detached, so that no parent has to reap it
        os._exit(0)
    os.setsid()
    pid, ticks, facts = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    Watcher(socket.socket(fileno=0), pid, ticks, facts).run()


if __name__ == "__main__":
    main()
