"""A connection to a running worker, for commands that examine what a cluster has published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import click

from yr_fastload_native.catalogue.identity import ABOUT
from yr_fastload_native.errors import UnavailableError

if TYPE_CHECKING:
    from yr_fastload_native.catalogue.catalogue import Catalogue
    from yr_fastload_native.catalogue.listing import Listed

__all__ = ["PATIENCE_S", "connected", "facts", "json_option", "model_of", "worker_option"]

PATIENCE_S = 30.0

worker_option = click.option(
    "--worker",
    default="",
    help="openYuanrong's worker, HOST:PORT.  [env: YR_FASTLOAD_WORKER, DS_WORKER_ADDR; default: the running local one]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of text.")


def connected(worker: str, *, op: str) -> Catalogue:
    """Connect to a running worker; none is started.

    Raises:
        UnavailableError: It does not answer, or none is running.
        InvalidArgumentError: The address is invalid.
    """
    from yr_fastload_native import _core
    from yr_fastload_native.catalogue.catalogue import Catalogue
    from yr_fastload_native.settings import Config
    from yr_fastload_native.worker import LocalWorker
    from yr_fastload_native.worker.credentials import Credentials

    config = Config.from_env()
    if worker:
        config = attrs.evolve(config, worker=worker)
    address = config.worker if config.worker != "auto" else Config.worker_from_env()
    if address is None:
        status = LocalWorker.status()
        if status is None:
            raise UnavailableError("no local openYuanrong worker is running; use --worker or DS_WORKER_ADDR", op=op)
        address = status.address
    connection = Credentials.of(config).connection(address, config)
    return Catalogue(_core.connect_host_store(connection), config)


def model_of(fields: dict[str, object]) -> str:
    """The name of an identity's model, with its rank if there is more than one."""
    ranks = fields.get("ranks")
    places = [
        f"{name} {place[0]}/{place[1]}"
        for name, place in (ranks.items() if isinstance(ranks, dict) else ())
        if isinstance(place, list) and len(place) == 2 and place[1] != 1
    ]
    about = fields.get(ABOUT)
    named = {**(about if isinstance(about, dict) else {}), **fields}
    kind = [f"({fields['kind']})"] if "kind" in fields else []  # sets of files
    return " ".join([str(named.get("model", "-")), *places, *kind])


def facts(listed: Listed) -> dict[str, object]:
    """A published generation, for JSON."""
    return {
        "identity": listed.who.digest,
        "fields": listed.who.fields,
        "generation": listed.manifest.generation,
        "transports": list(listed.transports),
        "sources": list(listed.sources),
        "tensors": len(listed.manifest.tensors),
        "chunks": len(listed.manifest.chunks),
        "bytes": listed.bytes,
        "publisher": listed.manifest.publisher,
        "age_s": round(listed.age_s, 1),
    }
