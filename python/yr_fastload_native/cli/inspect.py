"""``yr-fastload inspect``: the details of a published identity."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from yr_fastload_native.cli import output
from yr_fastload_native.cli.cluster import PATIENCE_S, connected, facts, json_option, worker_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from yr_fastload_native.catalogue.listing import Listed
    from yr_fastload_native.catalogue.manifest import TensorEntry

__all__ = ["inspect"]

_GIB = 1 << 30


@click.command()
@click.argument("identity")
@worker_option
@json_option
def inspect(identity: str, worker: str, as_json: bool) -> None:
    """Show a published IDENTITY: where, by whom, and every tensor.

    IDENTITY is what `yr-fastload ls` shows, or a prefix that matches only one.
    """
    from yr_fastload_native.catalogue import listing
    from yr_fastload_native.process.deadline import Deadline

    catalogue = connected(worker, op="inspect")
    deadline = Deadline(PATIENCE_S, "inspect")
    digest = listing.find(catalogue, identity, deadline, op="inspect")
    listed = listing.look(catalogue, digest, deadline, op="inspect")
    tensors = [_tensor(each) for each in listed.manifest.tensors]
    output.emit(facts(listed) | {"table": tensors}, as_json=as_json, text=lambda: _text(listed))


def _tensor(entry: TensorEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "strides": list(entry.strides),
        "bytes": entry.bytes,
        "chunk": entry.chunk if entry.chunk >= 0 else None,
        "offset": entry.offset,
        "lies_in": entry.alias[0] if entry.alias is not None else None,
    }


def _text(listed: Listed) -> RenderableType:
    from rich.console import Group

    manifest = listed.manifest
    about = output.table("", "", "")
    about.show_header = False
    for name, value in (
        ("identity", listed.who.digest),
        *((name, value if isinstance(value, str) else json.dumps(value)) for name, value in listed.who.fields.items()),
        ("generation", manifest.generation),
        ("published", f"by {manifest.publisher}, {timedelta(seconds=round(listed.age_s))} ago"),
        ("transports", " ".join(listed.transports)),
        ("sources", " ".join(listed.sources) or "none"),
        ("bytes", f"{listed.bytes} ({listed.bytes / _GIB:.3f} GiB) in {len(manifest.chunks)} chunks"),
    ):
        about.add_row(name, value)
    table = output.table("", "tensor", "dtype", "shape", ">bytes", ">chunk", "lies in")
    for each in manifest.tensors:
        chunk = str(each.chunk) if each.chunk >= 0 else ""
        shape = "x".join(map(str, each.shape)) or "scalar"
        table.add_row(each.name, each.dtype, shape, str(each.bytes), chunk, each.alias[0] if each.alias else "")
    return Group(about, table)
