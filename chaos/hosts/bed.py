"""Hosts for tests: network namespaces on a bridge, which has a namespace of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from chaos.hosts.namespaces import COMMAND_S, GONE_S, PREFIX, clean_up, end, namespaces, run
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.worker.launch import find_dscli, worker_environment

__all__ = ["ANSWER_S", "NODE_DEAD_TIMEOUT_S", "Bed", "Host"]

ANSWER_S = 90.0
NODE_TIMEOUT_S, NODE_DEAD_TIMEOUT_S = 2, 4
_START_ATTEMPTS, _START_S = 3, 75  # seconds; a worker that cannot join at once tries again after a minute (0.8.1)
_SUBNET = "10.77.0."
_BRIDGE = "br0"
_LINK = "eth0"
_WORKER_PORT, _METASTORE_PORT, _ETCD_PORT = 31501, 2379, 2379


class Host:
    """One host: a namespace with one link to the bridge.

    Attributes:
        address: Of its link.
        worker: ``HOST:PORT`` of its worker.
    """

    def __init__(self, bed: Bed, number: int) -> None:
        self._bed = bed
        self.number = number
        self.name = bed.namespace(str(number))
        self.address = f"{_SUBNET}{number}"
        self.worker = f"{self.address}:{_WORKER_PORT}"
        self._port = f"p{number}"
        run("ip", "netns", "add", self.name)
        run(
            *("ip", "link", "add", _LINK, "netns", self.name, "type", "veth"),
            *("peer", "name", self._port, "netns", bed.switch),
        )
        run("ip", "-n", bed.switch, "link", "set", self._port, "master", _BRIDGE, "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev", _LINK)
        for link in ("lo", _LINK):
            run("ip", "-n", self.name, "link", "set", link, "up")

    @property
    def home(self) -> Path:
        """Of its worker."""
        return self._bed.directory / str(self.number)

    @property
    def enter(self) -> tuple[str, ...]:
        """Before a command, has it run on this host; not `ip netns exec`, which gives each its own mounts too."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def run(self, *command: str, timeout_s: float = COMMAND_S) -> str:
        """Run a command on this host."""
        return run(*self.enter, *command, timeout_s=timeout_s)

    def start_worker(self, memory_mb: int = 512, **flags: object) -> None:
        """Start its worker, which joins the cluster of the bed; that of the first host is its head."""
        given = {
            "worker_address": self.worker,
            "shared_memory_size_mb": memory_mb,
            "node_timeout_s": NODE_TIMEOUT_S,
            "node_dead_timeout_s": NODE_DEAD_TIMEOUT_S,
            "sc_regular_socket_num": 0,
            "sc_stream_socket_num": 0,
            "ready_check_path": self.home / "datasystem/probe/ready",
            **self._bed.coordination(self),
            **flags,
        }
        command = [*find_dscli(), "start", "-t", str(_START_S), "-d", str(self.home), "-w"]
        for name, value in given.items():
            command += [f"--{name}", str(value)]
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            shutil.rmtree(self.home, ignore_errors=True)  # of one that was killed
            self.home.mkdir()
            try:
                run(*self.enter, *command, timeout_s=_START_S + COMMAND_S, environment=self._bed.of_workers)
                return
            except RuntimeError:  # one that comes back at once may exit, or wait: the others still know the one before
                self.kill_worker()
                if not attempts_left:
                    raise

    def guest(self) -> Process:
        """A process of this host that publishes and loads; it ends with the bed."""
        task = {"namespace": self.name, "worker": self.worker}
        made = Process("test", "chaos.hosts.guest", f"guest of host {self.number}", task)
        self._bed.guests.append(made)
        return made

    def limit(self, mbit_per_s: int) -> None:
        """Give its link a rate, in both directions."""
        shape = ("tbf", "rate", f"{mbit_per_s}mbit", "burst", "512kb", "latency", "100ms")
        run("tc", "-n", self.name, "qdisc", "replace", "dev", _LINK, "root", *shape)
        run("tc", "-n", self._bed.switch, "qdisc", "replace", "dev", self._port, "root", *shape)

    def unlimit(self) -> None:
        for namespace, link in ((self.name, _LINK), (self._bed.switch, self._port)):
            with contextlib.suppress(RuntimeError):  # it had none
                run("tc", "-n", namespace, "qdisc", "del", "dev", link, "root")

    def cut(self) -> None:
        """Take its link away."""
        run("ip", "-n", self._bed.switch, "link", "set", self._port, "down")

    def mend(self) -> None:
        run("ip", "-n", self._bed.switch, "link", "set", self._port, "up")

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in run("ip", "netns", "pids", self.name).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    @property
    def up_s(self) -> float:
        """How long its worker has run; 0 if it has none."""
        return max((time.time() - each.create_time() for each in self._workers()), default=0.0)

    def thread_times(self) -> dict[int, float]:
        """CPU seconds of each thread of its worker, by number."""
        threads = [thread for each in self._workers() for thread in each.threads()]
        return {thread.id: thread.user_time + thread.system_time for thread in threads}

    def page_faults(self) -> int:
        """Of its worker, those that read nothing from a disk."""
        return sum(
            int(Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()[7]) for each in self._workers()
        )

    def _workers(self) -> list[psutil.Process]:
        return [each for each in self.processes() if each.name() == "datasystem_worker"]

    def signal_worker(self, number: int) -> list[psutil.Process]:
        """Send its worker a signal; what it was sent to."""
        workers = self._workers()
        for each in workers:
            each.send_signal(number)
        return workers

    def kill_worker(self) -> None:
        """Kill its worker, and keep what else runs on it."""
        psutil.wait_procs(self.signal_worker(signal.SIGKILL), timeout=GONE_S)

    def stop_worker(self) -> None:
        self.run(*find_dscli(), "stop", "--worker_address", self.worker)

    def kill(self) -> None:
        """Lose it, with all that runs on it: nobody is told."""
        self.cut()
        found = self.processes()
        for each in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        psutil.wait_procs(found, timeout=GONE_S)

    def received_bytes(self) -> int:
        """By its link, since it was made."""
        return self._carried("rx")

    def sent_bytes(self) -> int:
        """As `received_bytes`."""
        return self._carried("tx")

    def _carried(self, direction: str) -> int:
        (link,) = json.loads(run("ip", "-n", self.name, "-j", "-s", "link", "show", "dev", _LINK))
        return int(link["stats64"][direction]["bytes"])


class Bed:
    """Some hosts, and what runs on them; nothing outlives the ``with`` block.

    Args:
        hosts: How many.
        etcd: Whether an etcd on a host of its own coordinates the workers, instead of the first one.
        preloaded: A library that workers are started with.

    Attributes:
        of_workers: Their environment.
    """

    def __init__(self, hosts: int, *, etcd: bool = False, preloaded: Path | None = None) -> None:
        clean_up()
        self.of_workers = worker_environment() | ({} if preloaded is None else {"LD_PRELOAD": str(preloaded)})
        self._tag = f"{PREFIX}-{os.getpid()}-{os.urandom(2).hex()}"
        self.guests: list[Process] = []
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self._tag}-", dir="/tmp"))
        self.hosts: list[Host] = []
        self._etcd: Host | None = None
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.switch = self.namespace("switch")
        try:
            run("ip", "netns", "add", self.switch)
            run("ip", "-n", self.switch, "link", "add", _BRIDGE, "type", "bridge", "forward_delay", "0")
            run("ip", "-n", self.switch, "link", "set", _BRIDGE, "up")
            self.hosts += [Host(self, number) for number in range(1, hosts + 1)]
            if etcd:
                self._etcd = Host(self, 100)
                self.start_etcd()
        except BaseException:
            self.close()
            raise

    def namespace(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def coordination(self, host: Host) -> dict[str, str]:
        """The flags of a host's worker that say who knows of all workers."""
        if self._etcd is not None:
            return {"etcd_address": f"{self._etcd.address}:{_ETCD_PORT}"}
        head = self.hosts[0]
        metastore = {"metastore_address": f"{head.address}:{_METASTORE_PORT}"}
        return {**metastore, "start_metastore_service": "true"} if host is head else metastore

    @property
    def etcd(self) -> Host:
        """The host of etcd."""
        assert self._etcd is not None
        return self._etcd

    def start_workers(self, memory_mb: int = 512, **flags: object) -> None:
        """Start the first host's, and then the others' at once."""
        head, *others = self.hosts
        head.start_worker(memory_mb, **flags)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: host.start_worker(memory_mb, **flags), others))

    def mend(self) -> None:
        """Have every link up, at its full rate."""
        for host in (*self.hosts, *filter(None, [self._etcd])):
            host.mend()
            host.unlimit()

    def kill_etcd(self) -> None:
        """What it has written stays."""
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait(GONE_S)

    def start_etcd(self) -> None:
        host = self.etcd
        url = f"http://{host.address}:{_ETCD_PORT}"
        self.start_daemon(
            host,
            *("etcd", "--data-dir", str(self.directory / "etcd"), "--listen-client-urls", url),
            *("--advertise-client-urls", url, "--listen-peer-urls", f"http://{host.address}:2380"),
        )

    def start_daemon(self, host: Host, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Start what runs on a host until the bed is gone; by default with the environment of this process."""
        self._daemons.append(
            subprocess.Popen(
                [*host.enter, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        )

    def close(self) -> None:
        for guest in self.guests:
            guest.kill()
            guest.close()
        for name in namespaces():
            if name.startswith(f"{self._tag}-"):
                end(name)
        for daemon in self._daemons:
            daemon.wait(GONE_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
