"""Where a worker listens, and how it knows of the workers of other machines."""

from __future__ import annotations

import ipaddress
from typing import Literal

import attrs

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.settings import is_loopback, parse_address

__all__ = ["HOST", "Place"]

HOST = "127.0.0.1"
# A worker of openYuanrong keeps track of part of all keys. After the second time the others take over what one that is
# gone kept track of; until then, nobody can publish what would be there. The defaults are 60 and 300. One that could
# not join the others at once tries again after the third (0.8.1: HashRing::InspectAndProcessPeriodically), and keys
# that were about to change hands do after half as long again (HashRingHealthCheck); the default is 60.
_TIMEOUTS = {"node_timeout_s": "5", "node_dead_timeout_s": "10"}
_OP = "worker start"


@attrs.frozen
class Place:
    """A worker's place: alone on loopback, or one of several in a cluster.

    Attributes:
        host: That it listens on.
        port: 0 picks a free one, on loopback alone.
        part: In a cluster: ``head`` of one, or ``member`` of one that a head or an etcd coordinates; ``alone`` in none.
        metastore: Address of the head's directory of workers; empty where it is not known before the start, or an etcd
            takes its place.
        etcd: Addresses of an etcd, separated by commas.
    """

    host: str = HOST
    port: int = 0
    part: Literal["alone", "head", "member"] = "alone"
    metastore: str = ""
    etcd: str = ""

    @classmethod
    def of(cls, address: str, *, head: bool, join: str, etcd: str) -> Place:
        """A place in a cluster.

        Args:
            address: ``HOST:PORT`` at which clients and the other workers reach it.
            head: Whether it begins a cluster.
            join: Address of the head of the cluster that it joins.
            etcd: Addresses of the etcd of its cluster, separated by commas.

        Raises:
            InvalidArgumentError: Not exactly one of ``head``, ``join`` and ``etcd`` is given, or an address is none.
        """
        if sum(map(bool, (head, join, etcd))) != 1:
            raise InvalidArgumentError("--address needs one of --head, --join and --etcd", op=_OP)
        host, port = parse_address(address, op=_OP)
        if _is_unspecified(host):
            raise InvalidArgumentError(
                f"--address {address}: others cannot reach {host}; give the address that they reach this machine by",
                op=_OP,
            )
        if etcd:
            for each in etcd.split(","):
                parse_address(each, op=_OP)
            return cls(host, port, "member", etcd=etcd)
        return cls(host, port, "head" if head else "member", _metastore_of(join or address))

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it."""
        return is_loopback(self.host)

    @property
    def listens_on(self) -> list[tuple[str, int]]:
        """Host and port of each of its sockets that has to be free; of one that is alone, none is known yet."""
        if self.part == "alone":
            return []
        metastore = [parse_address(self.metastore, op=_OP)] if self.part == "head" else []
        return [(self.host, self.port), *metastore]

    def flags(self, worker: str, metastore: str) -> dict[str, str]:
        """The flags of openYuanrong for it.

        Args:
            worker: Address that it takes.
            metastore: That its metastore takes, where it is alone.
        """
        flags = {"worker_address": worker}
        if self.etcd:
            return flags | _TIMEOUTS | {"etcd_address": self.etcd, "start_metastore_service": "false"}
        if self.part == "alone":
            return flags | {"metastore_address": metastore, "start_metastore_service": "true"}
        starts = "true" if self.part == "head" else "false"
        return flags | _TIMEOUTS | {"metastore_address": self.metastore, "start_metastore_service": starts}


def _metastore_of(head: str) -> str:
    """The directory of a cluster is at its head, one port above the worker's."""
    host, port = parse_address(head, op=_OP)
    if port == 65535:
        raise InvalidArgumentError(f"the port above that of {head} is the metastore's; use a lower one", op=_OP)
    return f"{host}:{port + 1}"


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
