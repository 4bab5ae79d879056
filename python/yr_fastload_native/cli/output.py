"""What commands print: the result on stdout, as a table or one line of JSON, and everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["emit", "note", "progress_bar", "table"]

_UNBROKEN = 100_000  # columns; piped output keeps each row on one line


def emit(record: Mapping[str, object], *, as_json: bool, text: Callable[[], RenderableType]) -> None:
    """Print a command's result on stdout.

    Args:
        record: The result; with ``as_json`` it is printed as one line of JSON.
        as_json: Print ``record``, not ``text``.
        text: Creates the output for people, for example a rich table.
    """
    if as_json:
        click.echo(json.dumps(record))
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNBROKEN
    Console(markup=False, emoji=False, highlight=False, width=width).print(text())  # model names are not markup


def table(title: str, *headings: str) -> Table:
    """An empty table for `emit`, drawn as plain text if stdout is not a terminal.

    Args:
        title: Empty for none.
        headings: Of the columns; ``>`` in front marks a column of numbers.
    """
    from rich.box import HEAVY_HEAD
    from rich.table import Table

    drawn = sys.stdout.isatty()
    made = Table(title=title or None, box=HEAVY_HEAD if drawn else None, pad_edge=drawn, title_justify="left")
    for heading in headings:
        made.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left")
    return made


def note(message: str) -> None:
    """Print what is going on to stderr, if that is a terminal."""
    if sys.stderr.isatty():
        click.echo(message, err=True)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr while the block runs, if stderr is a terminal.

    Args:
        description: What is under way.
        total: Total bytes.

    Yields:
        Callback that takes the bytes done so far and the total.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, total: progress.update(task, completed=done, total=total)
        progress.update(task, completed=total)
