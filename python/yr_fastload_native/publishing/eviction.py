"""Taking published weights from a cluster, whoever keeps them published."""

from __future__ import annotations

from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.catalogue.listing import Listed
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.transports.registry import data_keys

__all__ = ["evict"]


def evict(catalogue: Catalogue, listed: Listed, deadline: Deadline) -> None:
    """Take a generation from the cluster, whoever keeps it published.

    No reader finds it from now on, and one that is at it gets a typed error. Its sources notice within a third of their
    lease that it is lost, and publish it no more; tensors that they serve by `d2d` stay theirs.
    """
    store, who, name = catalogue.store, listed.who, listed.manifest.generation
    store.set(who.evicted_key(name), b"evicted", ttl_s=catalogue.data_ttl_s, deadline_s=deadline.left())
    # The manifest first: without it no source sets the head again.
    store.erase([who.manifest_key(name), who.digests_key(name), who.files_key(name)], deadline_s=deadline.left())
    if store.get(who.head_key, deadline_s=deadline.left()) == listed.head:
        store.erase([who.head_key], deadline_s=deadline.left())
    chunks = len(listed.manifest.chunks)
    store.erase(data_keys(who, name, chunks, listed.transports), deadline_s=deadline.left())
