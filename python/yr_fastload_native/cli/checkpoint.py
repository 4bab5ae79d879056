"""``yr-fastload checkpoint``: publish a checkpoint's files, list, export and remove what is published."""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from yr_fastload_native.cli import output
from yr_fastload_native.cli.cluster import PATIENCE_S, connected, facts, json_option, model_of, worker_option
from yr_fastload_native.errors import FastLoadError, IntegrityError, NotPublishedError, ResourceExhaustedError

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import RenderableType

    from yr_fastload_native.catalogue.catalogue import Catalogue
    from yr_fastload_native.catalogue.listing import Listed
    from yr_fastload_native.loader.fast_loader import FastLoader
    from yr_fastload_native.loading.export import Written
    from yr_fastload_native.process.deadline import Deadline
    from yr_fastload_native.publishing.publication import Publication

__all__ = ["checkpoint"]

_GIB = 1 << 30
_LOOK_S = 1.0


@click.group()
def checkpoint() -> None:
    """Share the files of a checkpoint: whole tensors, for every engine and parallel layout."""


@checkpoint.command()
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
@worker_option
@json_option
def publish(directory: Path, worker: str, as_json: bool) -> None:
    """Publish the checkpoint in DIRECTORY, and keep it published until Ctrl-C or SIGTERM.

    Prints a line once it can be read and the SHA-256 of its files are known. Fails as soon as a file is changed.
    """
    stopped = _until_stopped()
    with _loader(worker) as loader:
        with output.progress_bar("publishing", 0) as progress:
            publication = loader.publish_checkpoint(directory, progress=progress)
        sums = _tell_sums(loader, publication, directory)
        output.emit(
            {
                "identity": _digest(publication),
                "generation": publication.generation,
                "bytes": publication.bytes,
                "seconds": publication.seconds,
                "files": sums,
            },
            as_json=as_json,
            text=lambda: (
                f"published {_digest(publication)[:12]} ({directory.resolve().name}, "
                f"{publication.bytes / _GIB:.3f} GiB) in {publication.seconds:.2f} s"
            ),
        )
        while not stopped.wait(_LOOK_S):
            if publication.state not in ("live", "lost"):
                raise FastLoadError(
                    f"it is not published any more: {publication.failure or publication.state}", op="publish"
                )


@checkpoint.command()
@worker_option
@json_option
def ls(worker: str, as_json: bool) -> None:
    """List the checkpoints that are published on the cluster."""
    from yr_fastload_native.process.deadline import Deadline

    found = _published(connected(worker, op="ls"), Deadline(PATIENCE_S, "ls"))
    output.emit(
        {"published": [facts(each) for each in found]},
        as_json=as_json,
        text=lambda: _table(found) if found else "no checkpoint is published",
    )


@checkpoint.command()
@click.argument("identity")
@click.argument("directory", type=click.Path(path_type=Path))
@worker_option
@json_option
def export(identity: str, directory: Path, worker: str, as_json: bool) -> None:
    """Write the published checkpoint IDENTITY into a new DIRECTORY, byte for byte as it was read.

    Every byte is compared with the publisher's digest, and the SHA-256 of each file with that of the file that was
    published, as far as the publisher has told it.
    """
    from yr_fastload_native.loading import export as exporting
    from yr_fastload_native.process.deadline import Deadline

    catalogue, deadline = connected(worker, op="export"), Deadline(PATIENCE_S, "export")
    listed = _one(identity, _published(catalogue, deadline), op="export")
    sums = catalogue.files(listed.who, listed.manifest.generation, deadline, op="export") or {}
    with _loader(worker) as loader, loader.checkpoint(listed.who.fields, verify="digest") as opened:
        written = exporting.export(opened, directory, sums)
    output.emit(
        {"identity": listed.who.digest, "files": [attrs.asdict(each) for each in written]},
        as_json=as_json,
        text=lambda: "\n".join(_file(directory, each) for each in written),
    )


@checkpoint.command()
@click.argument("identity")
@worker_option
@json_option
def evict(identity: str, worker: str, as_json: bool) -> None:
    """Remove the published checkpoint IDENTITY from the cluster, whoever keeps it there."""
    from yr_fastload_native.process.deadline import Deadline
    from yr_fastload_native.publishing import eviction

    catalogue, deadline = connected(worker, op="evict"), Deadline(PATIENCE_S, "evict")
    listed = _one(identity, _published(catalogue, deadline), op="evict")
    eviction.evict(catalogue, listed, deadline)
    output.emit(
        {"evicted": facts(listed)},
        as_json=as_json,
        text=lambda: f"evicted {listed.who.digest[:12]} ({model_of(listed.who.fields)})",
    )


def _until_stopped() -> threading.Event:
    """Set by the first signal that ends the command; another one ends it at once."""
    stopped = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped


def _loader(worker: str) -> FastLoader:
    from yr_fastload_native.loader.fast_loader import FastLoader
    from yr_fastload_native.settings import Config

    config = Config.from_env()
    return FastLoader(attrs.evolve(config, worker=worker) if worker else config)


def _digest(publication: Publication) -> str:
    from yr_fastload_native.catalogue.identity import Identity

    return Identity.of(publication.identity, op="publish").digest


def _tell_sums(loader: FastLoader, publication: Publication, directory: Path) -> dict[str, str]:
    """Have the sums of all files known to who reads them; in the page cache they are by now."""
    from yr_fastload_native.checkpoints.tensor_files import TensorFiles

    files = TensorFiles.of(directory, deadline_s=loader.config.publish_deadline_s)
    if files.fingerprint != publication.identity["files"]:
        raise IntegrityError(f"the files in {directory} were changed while they were published", op="publish")
    files.read.read_whole()
    loader.tell_files(publication, files.read.sums)
    return dict(files.read.sums)


def _published(catalogue: Catalogue, deadline: Deadline) -> list[Listed]:
    from yr_fastload_native.catalogue import listing
    from yr_fastload_native.catalogue.checkpoint import is_checkpoint

    found: list[Listed] = []
    for who in listing.identities(catalogue, deadline, op="ls"):
        if not is_checkpoint(who.fields):
            continue
        try:
            found.append(listing.look(catalogue, who.digest, deadline, op="ls"))
        except (NotPublishedError, IntegrityError, ResourceExhaustedError):
            continue  # withdrawn a moment ago, or damaged, which `yr-fastload ls` shows
    return sorted(found, key=lambda each: (model_of(each.who.fields), each.who.digest))


def _one(beginning: str, found: list[Listed], *, op: str) -> Listed:
    matching = [each for each in found if each.who.digest.startswith(beginning.lower())]
    if len(matching) > 1:
        raise click.UsageError(f"{len(matching)} checkpoints begin with {beginning!r}; give more digits")
    if not matching:
        raise NotPublishedError(
            f"no published checkpoint begins with {beginning!r}; see `yr-fastload checkpoint ls`", op=op
        )
    return matching[0]


def _table(found: list[Listed]) -> RenderableType:
    table = output.table("", "identity", "checkpoint", "generation", ">sources", ">tensors", ">GiB", ">age")
    for each in found:
        table.add_row(
            each.who.digest[:12],
            model_of(each.who.fields),
            each.manifest.generation[-8:],
            str(len(each.sources)),
            str(len(each.manifest.tensors)),
            f"{each.bytes / _GIB:.3f}",
            str(timedelta(seconds=round(each.age_s))),
        )
    return table


def _file(directory: Path, written: Written) -> str:
    how = "the same SHA-256 as the published file" if written.compared else "SHA-256 of the published file not known"
    return f"{directory / written.name}: {written.bytes} bytes, {how}"
