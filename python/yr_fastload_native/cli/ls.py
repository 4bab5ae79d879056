"""``yr-fastload ls``: the identities that are published on the cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from yr_fastload_native.cli import output
from yr_fastload_native.cli.cluster import PATIENCE_S, connected, facts, json_option, model_of, worker_option
from yr_fastload_native.errors import IntegrityError, NotPublishedError, ResourceExhaustedError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from yr_fastload_native.catalogue.listing import Listed

__all__ = ["ls"]

_GIB = 1 << 30


@click.command()
@worker_option
@json_option
def ls(worker: str, as_json: bool) -> None:
    """List the weights that are published on the cluster.

    An identity is one rank's weights of one model. The age is that of its generation: publishing changed weights
    creates a new one.
    """
    from yr_fastload_native.catalogue import listing
    from yr_fastload_native.process.deadline import Deadline

    catalogue = connected(worker, op="ls")
    deadline = Deadline(PATIENCE_S, "ls")
    found: list[Listed] = []
    damaged: dict[str, str] = {}
    for digest in listing.digests(catalogue, deadline):
        try:
            found.append(listing.look(catalogue, digest, deadline, op="ls"))
        except NotPublishedError:
            pass  # withdrawn a moment ago
        except (IntegrityError, ResourceExhaustedError) as error:
            damaged[digest] = str(error)
    found.sort(key=lambda each: (model_of(each.who.fields), each.who.digest))
    record = {"published": [facts(each) for each in found], "damaged": damaged}
    output.emit(record, as_json=as_json, text=lambda: _table(found, damaged))


def _table(found: list[Listed], damaged: dict[str, str]) -> RenderableType:
    from rich.console import Group

    if not found and not damaged:
        return "nothing is published"
    table = output.table("", "identity", "model", "generation", "by", ">sources", ">tensors", ">GiB", ">age")
    for each in found:
        table.add_row(
            each.who.digest[:12],
            model_of(each.who.fields),
            each.manifest.generation[-8:],
            "+".join(each.transports),
            str(len(each.sources)),
            str(len(each.manifest.tensors)),
            f"{each.bytes / _GIB:.3f}",
            str(timedelta(seconds=round(each.age_s))),
        )
    return Group(table, *(f"{digest[:12]} cannot be read: {why}" for digest, why in damaged.items()))
