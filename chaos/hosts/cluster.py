"""The workers of a cluster, one on each host, of which some are away at times."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from chaos.hosts.bed import ANSWER_S, Bed, Host
from chaos.workers import Count, Workers, counts_in
from yr_fastload_native.errors import FastLoadError, UnavailableError
from yr_fastload_native.measuring.child_process import Process

if TYPE_CHECKING:
    from chaos.processes import Node

__all__ = ["Cluster"]

_POOL_MB = 256


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
        ended = [host for host in self.bed.hosts if not host.up_s]
        for host in ended:
            self.restart(str(host.number))
        return bool(ended)

    @property
    def life(self) -> object:
        return self._lives[""]

    def life_of(self, node: Node) -> object:
        return self.life, node.where, self._lives[node.where]

    def address_of(self, node: Node) -> str:
        return self.host(node.where).worker

    def exist(self, keys: Sequence[str]) -> list[bool]:
        self.revive()
        try:
            return self._exist(keys)
        except FastLoadError:  # whoever looked went with its host, or with its worker
            self._looks = None
            return self._exist(keys)

    def _exist(self, keys: Sequence[str]) -> list[bool]:
        if self._looks is None:
            self._looks = max(self.bed.hosts, key=lambda host: host.up_s).guest()
        answer = self._looks.call("exist", ANSWER_S, keys=list(keys))
        return [bool(each) for each in answer["exist"]]

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
        self.bed.start_workers(_POOL_MB)
