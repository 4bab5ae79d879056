"""What happens in each round: a pure function of the campaign's seed and the round's number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import attrs

__all__ = ["COMMON", "CONNECT_S", "DATA_GRACE_S", "LEASE_S", "PUBLISH_DEADLINE_S", "Part", "Round", "draw", "kind_of"]

LEASE_S = 2
PUBLISH_DEADLINE_S = 5.0
CONNECT_S = 2.0
DATA_GRACE_S = 5  # a minute elsewhere: here what a killed source leaves is to be seen going
COMMON = {"lease_s": LEASE_S, "data_grace_s": DATA_GRACE_S}
_MIB = 1 << 20
_TRANSPORTS = ("host", "staged", "d2d", "d2d+staged", "d2d+host")


@attrs.define
class Part:
    """One reader or publisher of a round.

    Attributes:
        framework: What its tensors are, as `Model` has it.
        where: The host that it is on, where there are several.
    """

    framework: str
    settings: dict[str, Any]
    where: str = ""


@attrs.define
class Round:
    """What is drawn for a round; the fault draws the rest from ``rng``.

    Attributes:
        holders: Who loads, and keeps what was loaded published, before the readers come.
    """

    number: int
    kind: str
    publish_as: str
    identity: dict[str, Any]
    model: dict[str, int]
    contents: list[int]
    publishers: list[Part]
    readers: list[Part]
    deadline_s: float
    connects_first: bool
    again: bool
    rng: random.Random
    holders: list[Part] = attrs.Factory(list)

    def told(self) -> dict[str, Any]:
        """What to print of it."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "rng")


def kind_of(seed: int, number: int, kinds: Sequence[str]) -> str:
    """A shuffled round robin: in n rounds every kind comes n // len(kinds) times at least."""
    order = list(kinds)
    random.Random(f"{seed}:kinds:{number // len(kinds)}").shuffle(order)
    return order[number % len(kinds)]


def draw(seed: int, number: int, kind: str, transports: tuple[str, ...] | None = None) -> Round:
    """The round; ``transports`` are those that its fault has a meaning for."""
    rng = random.Random(f"{seed}:{number}")
    publish_as = rng.choice(transports or _TRANSPORTS)
    deadline_s = round(rng.uniform(1.5, 3.5), 2)
    common = {**COMMON, "rpc_timeout_s": 1.0, "connect_timeout_s": CONNECT_S}
    publishers = []
    for _ in range(2):
        settings = {
            **common,
            "publish_as": publish_as,
            "publish_deadline_s": PUBLISH_DEADLINE_S,
            "chunk_bytes": rng.choice([_MIB // 4, _MIB, 4 * _MIB]),
        }
        if publish_as == "host":
            settings["transport"] = "host"
        publishers.append(Part(rng.choice(["torch", "torch", "numpy"]), settings))
    readers = []
    for _ in range(3):
        settings = {
            **common,
            "hold": rng.random() < 0.5,
            "staging": rng.choice(["auto", "auto", "always"]),
            "source_stall_s": 0.5,
            "chunks_ahead": rng.choice([1, 2, 8]),
            "copy_threads": rng.choice([1, 2]),
        }
        if publish_as == "host":
            settings["transport"] = "host"
        readers.append(Part(rng.choice(["torch", "torch", "numpy"]), settings))
    content = rng.randrange(1 << 40)
    return Round(
        number=number,
        kind=kind,
        publish_as=publish_as,
        identity={"model": "chaos", "seed": seed, "round": number},
        model={"structure": rng.randrange(1 << 40), "size": int(2 ** rng.uniform(16, 23.5))},
        contents=[content, content + 1],
        publishers=publishers,
        readers=readers[: rng.randint(1, 3)],
        deadline_s=deadline_s,
        connects_first=rng.random() < 0.8,
        again=rng.random() < 0.4,
        rng=rng,
    )
