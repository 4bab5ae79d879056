"""The command that runs a campaign; its last line of output is JSON."""

from __future__ import annotations

import signal
import sys

import click

from chaos.campaign import Campaign
from chaos.site import Site

__all__ = ["command"]


def command(site: Site) -> click.Command:
    """The command of campaigns that run there."""

    @click.command()
    @click.option("--seed", default=1, show_default=True)
    @click.option("--rounds", default=150, show_default=True)
    @click.option("--only", type=int, help="Run this round alone.")
    @click.option(
        "--kind", "kinds", multiple=True, type=click.Choice(list(site.kinds)), help="Draw rounds of these kinds alone."
    )
    @click.option("--quiet", is_flag=True, help="No line for each round.")
    def main(seed: int, rounds: int, only: int | None, kinds: tuple[str, ...], quiet: bool) -> None:
        """Publish and load under every kind of fault, and check every byte."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it has started goes with it
        numbers = range(rounds) if only is None else [only]
        with Campaign(seed, site, quiet=quiet) as campaign:
            campaign.run(numbers, kinds or tuple(site.kinds))
            ended = campaign.finish()
        tally = campaign.tally
        tally.table()
        for problem in tally.problems:
            click.echo(problem.splitlines()[0])
        click.echo(tally.as_json(**ended))
        sys.exit(0 if tally.good() else 1)

    return main
