"""The workers of a cluster, one on each host, of which some are away at times."""

from __future__ import annotations

import functools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from chaos.hosts.bed import ANSWER_S, Bed, Host
from chaos.workers import Count, Workers, counts_in
from yr_fastload_native.errors import FastLoadError, UnavailableError
from yr_fastload_native.measuring.child_process import Process

if TYPE_CHECKING:
    from chaos.processes import Node

__all__ = ["Cluster"]

_POOL_MB = 256
_SETTLE_S = 60.0
_PAUSE_S = 0.2
_PROBES, _PROBE_TTL_S = 8, 5


class Cluster(Workers):
    """The workers of a bed's hosts.

    Args:
        bed: With an etcd.
    """

    keeps_entries = True  # of those whose metadata went with another worker (0.8.1)

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self._lives: Counter[str] = Counter()
        self._looks: Process | None = None
        self._probes: dict[int, Process] = {}
        bed.start_workers(_POOL_MB)

    def host(self, where: str) -> Host:
        return self.bed.hosts[int(where) - 1]

    def restart(self, where: str) -> None:
        """Start the worker of a host that has none.

        Raises:
            UnavailableError: It does not start.
        """
        self._lives[where] += 1
        try:
            self.host(where).start_worker(_POOL_MB)
        except RuntimeError as error:
            raise UnavailableError(f"the worker of host {where}: {error}", op="chaos") from error

    def revive(self) -> bool:
        """Start workers that have ended, as deploy/systemd does; whether there were any.

        One that reaches no etcd for long ends itself, and may do so only after that can be reached again.
        """
        ended = [str(host.number) for host in self.bed.hosts if not host.up_s]
        with ThreadPoolExecutor(len(self.bed.hosts)) as threads:  # at once: each waits for the others to be there
            list(threads.map(self.restart, ended))
        return bool(ended)

    def settle(self) -> str:
        """Wait until the workers are at one again after a fault; what was in the way last if that did not come in time.

        As long as they are not, openYuanrong 0.8.1 says of keys that one host has stored that there are none.
        """
        end, why = time.monotonic() + _SETTLE_S, ""
        while time.monotonic() < end:
            self.revive()
            try:
                why = self._not_at_one()
                if not why:
                    return ""
            except FastLoadError as error:  # one of those that look went with its host, or its worker does not answer
                why = str(error)
                for guest in self._probes.values():
                    guest.kill()
                self._probes.clear()
            time.sleep(_PAUSE_S)
        up = {host.number: round(host.up_s) for host in self.bed.hosts}
        return f"{why}; seconds since their workers started: {up}"

    def _not_at_one(self) -> str:
        """Which host does not find what which one has stored, whoever keeps track of it; empty if all find all."""
        for host in self.bed.hosts:
            if host.number not in self._probes:
                self._probes[host.number] = host.guest()
        keys = {number: [f"probe-{secrets.token_hex(8)}" for _ in range(_PROBES)] for number in self._probes}
        for number, guest in self._probes.items():
            guest.call("store", ANSWER_S, keys=keys[number], ttl_s=_PROBE_TTL_S)
        for number, guest in self._probes.items():
            for source, stored in keys.items():
                found = sum(guest.call("exist", ANSWER_S, keys=stored)["exist"])
                if found < len(stored):
                    return f"host {number} finds {found} of {len(stored)} keys of host {source}"
        return ""

    @property
    def life(self) -> object:
        return self._lives[""]

    def life_of(self, node: Node) -> object:
        return self.life, node.where, self._lives[node.where]

    def address_of(self, node: Node) -> str:
        return self.host(node.where).worker

    def exist(self, keys: Sequence[str]) -> list[bool]:
        end = time.monotonic() + _SETTLE_S
        while True:
            self.revive()
            try:
                return self._exist(keys)
            except FastLoadError:  # whoever looked went with its host, or with its worker, or has no answer from others
                self._looks = None
                if time.monotonic() > end:
                    raise
            time.sleep(_PAUSE_S)

    def _exist(self, keys: Sequence[str]) -> list[bool]:
        if self._looks is None:
            self._looks = max(self.bed.hosts, key=lambda host: host.up_s).guest()
        listed = self._looks.call("exist", ANSWER_S, keys=list(keys))["exist"]
        there = [key for key, is_listed in zip(keys, listed, strict=True) if is_listed]
        # After the worker that kept track of them was lost, keys may be listed of which there is no copy (0.8.1).
        # Whoever renews them is told.
        empty = self._looks.call("expire", ANSWER_S, keys=there, ttl_s=1).get("missing", ()) if there else ()
        return [key in there and key not in empty for key in keys]

    @property
    def counts(self) -> Mapping[str, Callable[[], list[Count]]]:
        return {f"the worker of host {host.number}": functools.partial(counts_in, host.home) for host in self.bed.hosts}

    def calm(self) -> None:
        """Nothing: three workers are in each other's way whatever their threads' priorities."""

    def replace(self) -> None:
        self._lives[""] += 1
        self.bed.mend()
        for host in self.bed.hosts:
            host.kill_worker()
        self.revive()
