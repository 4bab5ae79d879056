"""``yr-fastload evict``: remove published weights from the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from yr_fastload_native.cli import output
from yr_fastload_native.cli.cluster import PATIENCE_S, connected, facts, json_option, model_of, worker_option
from yr_fastload_native.errors import NotPublishedError

if TYPE_CHECKING:
    from yr_fastload_native.catalogue.listing import Listed

__all__ = ["evict"]

_GIB = 1 << 30


@click.command()
@click.argument("identities", metavar="IDENTITY...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove everything that `yr-fastload ls` lists.")
@worker_option
@json_option
def evict(identities: tuple[str, ...], everything: bool, worker: str, as_json: bool) -> None:
    """Remove published weights from the cluster, whoever keeps them there.

    The next instance reads the disk and publishes again. Running instances continue; sources notice within a third of
    their lease that they were evicted.
    """
    from yr_fastload_native.catalogue import listing
    from yr_fastload_native.process.deadline import Deadline
    from yr_fastload_native.publishing import eviction

    if bool(identities) == everything:
        raise click.UsageError("name identities, or use --all")
    catalogue = connected(worker, op="evict")
    deadline = Deadline(PATIENCE_S, "evict")
    if everything:
        wanted = listing.digests(catalogue, deadline)
    else:
        wanted = [listing.find(catalogue, identity, deadline, op="evict") for identity in identities]
    evicted: list[Listed] = []
    for digest in dict.fromkeys(wanted):
        try:
            listed = listing.look(catalogue, digest, deadline, op="evict")
        except NotPublishedError:
            if everything:
                continue  # withdrawn a moment ago
            raise
        eviction.evict(catalogue, listed, deadline)
        evicted.append(listed)
    output.emit(
        {"evicted": [facts(each) for each in evicted]},
        as_json=as_json,
        text=lambda: "\n".join(_line(each) for each in evicted) or "nothing is published",
    )


def _line(listed: Listed) -> str:
    return (
        f"evicted {listed.who.digest[:12]} ({model_of(listed.who.fields)}, {listed.bytes / _GIB:.3f} GiB, "
        f"{len(listed.sources)} sources)"
    )
