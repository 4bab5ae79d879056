"""What processes store, written down before they store it: one that is killed cannot tell any more.

The package raises an audit event before it stores anything (docs/design.md, "Leases"); each process adds a line to one
file for all of them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.transports.d2d.hetero_peer import HeteroPeer
from yr_fastload_native.transports.d2d.tree import SLOTS

__all__ = ["Ledger", "write_down"]


def write_down(path: Path) -> None:
    """Have this process add to the file whatever it is about to store, from now on."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "yr_fastload_native.publish":
            facts = dict(zip(("identity", "generation", "chunks"), arguments, strict=True))
        elif event == "yr_fastload_native.serve":
            facts = {"identity": arguments[0], "token": arguments[1].reveal()}
        else:
            return
        os.write(file, (json.dumps(facts) + "\n").encode())

    sys.addaudithook(hook)


class Ledger:
    """The keys of one identity, from what processes wrote down.

    Args:
        path: Their file.
        identity: Which one.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._who = Identity.of(identity, op="chaos")

    def of(self, identity: dict[str, Any]) -> Ledger:
        """That of another identity, in the same file."""
        return Ledger(self._path, identity)

    def _facts(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        facts = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [fact for fact in facts if fact["identity"] == self._who.digest]

    def _generations(self) -> dict[str, int]:
        """Each with how many chunks it has."""
        return {fact["generation"]: fact["chunks"] for fact in self._facts() if "generation" in fact}

    def manifests(self) -> list[str]:
        return [self._who.manifest_key(name) for name in self._generations()]

    def digests(self) -> list[str]:
        return [self._who.digests_key(name) for name in self._generations()]

    def chunks(self) -> list[str]:
        return [
            f"{prefix(name)}{index}"
            for name, count in self._generations().items()
            for prefix in (self._who.chunk_prefix, self._who.staged_prefix)
            for index in range(count)
        ]

    def everything(self) -> list[str]:
        """All that may be there: head, manifests, digests, chunks, slots, places and lanes."""
        keys = [self._who.head_key, *self.manifests(), *self.digests(), *self.chunks()]
        for name in self._generations():
            keys.append(self._who.arrived_key(name))
            keys += self._who.slot_keys(name)
            keys += [f"{self._who.place_prefix(name)}{number}" for number in range(SLOTS)]
        tokens = [fact["token"] for fact in self._facts() if "token" in fact]
        return keys + [self._who.lane_key(token, lane) for token in tokens for lane in range(HeteroPeer.LANES)]
