"""What ``yr-fastload doctor`` looks at where the worker is part of a cluster of machines."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue import listing
from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.cli.finding import Finding
from yr_fastload_native.cli.reach import is_reachable
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.settings import Config
from yr_fastload_native.worker.credentials import Credentials
from yr_fastload_native.worker.running import flags_of, pool_of

__all__ = ["examine"]

_MIB, _GIB = 1 << 20, 1 << 30
_ANSWER_S = 5.0
_LONG_S = 30.0  # in which nobody can publish what a dead machine kept track of
_PROBE = (8 * _MIB, 4)  # bytes of a value, and how many
_PROBE_S = 30.0
_PROBE_TTL_S = 60
_MOST_MEASURED = 8
_MOST_LOOKED_AT = 16
_SKEW_S = 2.0


def examine(config: Config, worker: str, model_bytes: int, *, link: bool) -> Iterator[Finding]:
    """Look at the cluster of a worker of this machine; nothing where it is in none, or cannot be seen.

    Args:
        config: How to connect to it.
        worker: Its address.
        model_bytes: Size of a model that should fit; 0 for none.
        link: Whether to measure how fast the others send.
    """
    flags = flags_of(worker) or {}
    directory = flags.get("etcd_address") or flags.get("metastore_address") or ""
    if not directory or _is_alone(flags):
        return
    try:
        peers = _core.ready_workers(directory, deadline_s=_ANSWER_S)
    except FastLoadError as error:
        yield Finding("cluster", "wrong", str(error), "start the head or the etcd, or open its port")
        return
    lost = [peer for peer in peers if not is_reachable(peer)]
    yield _peers(directory, worker, peers, lost)
    yield _timeouts(flags)
    if model_bytes:
        yield _pool(flags, model_bytes)
    others = [peer for peer in peers if peer != worker and peer not in lost]
    if link:
        for peer in others[:_MOST_MEASURED]:
            yield _link(config, worker, peer, model_bytes)
    yield from _clocks(config, worker)


def _is_alone(flags: Mapping[str, str]) -> bool:
    """Whether its directory is its own, and on loopback."""
    return not flags.get("etcd_address") and flags.get("metastore_address", "").startswith("127.0.0.1:")


def _peers(directory: str, worker: str, peers: list[str], lost: list[str]) -> Finding:
    if lost:
        return Finding(
            "cluster",
            "wrong",
            f"{', '.join(lost)}: ready, says the directory at {directory}, and cannot be reached from here",
            "if that machine is up, open its port to this one: docs/cluster.md, Ports",
        )
    if worker not in peers:
        return Finding(
            "cluster",
            "wrong",
            f"the directory at {directory} does not know {worker} to be ready",
            "restart it: a head that was restarted has forgotten the others",
        )
    return Finding("cluster", "ok", f"{len(peers)} workers, says the directory at {directory}")


def _timeouts(flags: Mapping[str, str]) -> Finding:
    dead_s = float(flags.get("node_dead_timeout_s") or 300)
    if dead_s > _LONG_S:
        return Finding(
            "node timeouts",
            "note",
            f"for {dead_s:g} s after a machine has died, nobody can publish what its worker kept track of",
            "start workers by `yr-fastload worker start`, or with --node_timeout_s 5 --node_dead_timeout_s 10",
        )
    return Finding("node timeouts", "ok", f"others take over {dead_s:g} s after a machine has died")


def _pool(flags: Mapping[str, str], model_bytes: int) -> Finding:
    size = int(flags.get("shared_memory_size_mb") or 0) * _MIB
    found = pool_of(Path(flags.get("log_dir", "")))
    used = "" if found is None else f", {found.used / _GIB:.1f} of them in use"
    what = f"this worker's pool has {size / _GIB:.1f} GiB{used}"
    if model_bytes <= size:
        return Finding("pool", "ok", what)
    return Finding(
        "pool",
        "note",
        f"{what}: too small to publish {model_bytes / _GIB:.1f} GiB, and a model that is pulled leaves no copy for "
        "another reader",
        f"start it with --memory-mb {model_bytes * 5 // 4 // _MIB}",
    )


def _link(config: Config, worker: str, peer: str, model_bytes: int) -> Finding:
    try:
        rate = _bytes_per_s(config, worker, peer)
    except FastLoadError as error:
        return Finding("link", "wrong", f"nothing comes from {peer}: {error}", "compare `ping` and `iperf3` to it")
    takes = f"; the model takes {model_bytes / rate:.0f} s" if model_bytes else ""
    return Finding("link", "ok", f"{peer} sends {rate * 8 / 1e9:.2f} Gbit/s{takes}")


def _bytes_per_s(config: Config, worker: str, peer: str) -> float:
    """How fast values that are stored at a peer come to this machine."""
    size, count = _PROBE
    deadline = Deadline(_PROBE_S, "doctor")
    keys = [f"yrfl1-probe-{secrets.token_hex(8)}-{number}" for number in range(count)]
    config = attrs.evolve(config, rpc_timeout_s=_PROBE_S)
    credentials = Credentials.of(config)
    there = _core.connect_host_store(credentials.connection(peer, config))
    here = _core.connect_host_store(credentials.connection(worker, config))
    try:
        for key in keys:
            there.set(key, secrets.token_bytes(size), ttl_s=_PROBE_TTL_S, deadline_s=deadline.left())
        started = time.perf_counter()
        for key in keys:
            here.get(key, deadline_s=deadline.left())
        return size * count / (time.perf_counter() - started)
    finally:
        here.erase(keys, deadline_s=_ANSWER_S)


def _clocks(config: Config, worker: str) -> Iterator[Finding]:
    """Compare this machine's clock with the times at which others say that they published."""
    connection = Credentials.of(config).connection(worker, config)
    catalogue, deadline = Catalogue(_core.connect_host_store(connection), config), Deadline(_ANSWER_S, "doctor")
    ahead: dict[str, float] = {}
    try:
        digests = listing.digests(catalogue, deadline)
        for digest in digests[:_MOST_LOOKED_AT]:
            manifest = listing.look(catalogue, digest, deadline, op="doctor").manifest
            ahead[manifest.publisher] = manifest.published_unix_s - time.time()
    except FastLoadError:  # withdrawn meanwhile, for example
        pass
    wrong = {publisher: seconds for publisher, seconds in ahead.items() if seconds > _SKEW_S}
    for publisher, seconds in wrong.items():
        yield Finding(
            "clocks",
            "note",
            f"by this machine's clock, {publisher} will have published in {seconds:.0f} s",
            "synchronise the clocks; leases do not depend on them, but ages and certificates do",
        )
    if ahead and not wrong:
        yield Finding("clocks", "ok", f"nobody of {len(ahead)} published in the future")
