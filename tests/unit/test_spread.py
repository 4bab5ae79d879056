"""Which node of a cluster gets the next server."""

from __future__ import annotations

from typing import Any

from yr_fastload_native.service.remote import RemoteServer
from yr_fastload_native.service.spread import Spread

EQUAL = {"a": 1.0, "b": 1.0, "c": 1.0}


class Actor:
    def ask(self, method: str, bound_s: float, *arguments: Any) -> None: ...

    def kill(self) -> None: ...


def server_on(node: str) -> RemoteServer:
    return RemoteServer(Actor(), 1.0, {"pid": 1, "host": "127.0.0.1", "port": 1, "machine": node})


def start(spread: Spread, room: dict[str, float] = EQUAL) -> RemoteServer:
    with spread.place(room) as node:
        assert node is not None
        made = server_on(node)
        spread.add(made)
    return made


def test_nodes_get_one_after_the_other() -> None:
    spread = Spread()
    servers = [start(spread) for _ in range(6)]
    assert [each.machine for each in servers] == ["a", "b", "c", "a", "b", "c"]
    servers[1].stop()
    assert start(spread).machine == "b"


def test_those_that_are_being_started_count() -> None:
    spread = Spread()
    with spread.place(EQUAL) as first, spread.place(EQUAL) as second, spread.place(EQUAL) as third:
        assert {first, second, third} == set(EQUAL)
    with spread.place(EQUAL) as again:
        assert again == "a", "none of them was started"


def test_a_larger_node_gets_more() -> None:
    spread, room = Spread(), {"large": 4.0, "small": 2.0, "full": 0.5}
    servers = [start(spread, room) for _ in range(6)]
    assert sorted(each.machine for each in servers) == ["large"] * 4 + ["small"] * 2


def test_where_one_was_lost_others_come_first() -> None:
    spread = Spread()
    spread.avoid("a")
    servers = [start(spread) for _ in range(2)]
    assert [each.machine for each in servers] == ["b", "c"]
    assert start(spread, {"a": 1.0}).machine == "a", "there is no other"


def test_no_node_has_room() -> None:
    with Spread().place({"a": 0.5}) as node:
        assert node is None
