"""A server of an actor, as the service sees it: none of its methods raises, whatever becomes of the actor."""

from __future__ import annotations

import pickle

import pytest

from yr_fastload_native.errors import ResourceExhaustedError, UnavailableError
from yr_fastload_native.service.actor import ServerActor
from yr_fastload_native.service.launcher import Order
from yr_fastload_native.service.machine_template import MachineTemplates
from yr_fastload_native.service.remote import ActorGoneError, launch_on, one_line

ORDER = Order("instance-1", ["-c", "pass"], {"A": "1"}, 2.0, devices=1, defaults={"B": "2"})
TOLD = {"pid": 7, "host": "127.0.0.1", "port": 80}


class FakeActor:
    """Answers what it is told to, or raises it."""

    def __init__(self, **answers) -> None:
        self.answers = answers
        self.asked = []
        self.killed = 0

    def ask(self, method, bound_s, *arguments):
        self.asked.append((method, bound_s, arguments))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        self.killed += 1


def launched(**answers):
    actor = FakeActor(launch=TOLD, **answers)
    return actor, launch_on(lambda: actor, ORDER, 3.0, lambda: "nothing")


def test_a_server_is_where_its_actor_says() -> None:
    actor, server = launched(ended=None, events=[{"event": "loading"}], stop=None)
    assert (server.pid, server.host, server.port) == (7, "127.0.0.1", 80)
    assert actor.asked == [("launch", 3.0, (ORDER,))]
    assert server.ended() is None
    assert server.events() == [{"event": "loading"}]
    server.stop()
    assert actor.killed == 1
    method, bound_s, _ = actor.asked[-1]
    assert method == "stop"
    assert bound_s > ORDER.grace_s


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (TimeoutError(), ResourceExhaustedError, "no machine for instance-1 within 3 s: 2 NPU were asked for"),
        (ActorGoneError("no such module"), UnavailableError, "the actor of instance-1 .* no such module"),
        ({"error": "cannot start it"}, UnavailableError, "cannot start it"),
        (KeyError("a defect"), KeyError, "a defect"),
    ],
)
def test_what_cannot_be_started_leaves_no_actor(answer, error, says) -> None:
    actor = FakeActor(launch=answer)
    with pytest.raises(error, match=says):
        launch_on(lambda: actor, ORDER, 3.0, lambda: "2 NPU were asked for")
    assert actor.killed == 1


def test_an_actor_that_cannot_be_made_is_a_typed_error() -> None:
    def make():
        raise ConnectionError("the cluster is gone")

    with pytest.raises(UnavailableError, match="the actor of instance-1 cannot be created: the cluster is gone"):
        launch_on(make, ORDER, 3.0, lambda: "nothing")


def test_an_actor_that_is_gone_is_an_ended_server() -> None:
    actor, server = launched(ended=ActorGoneError("its machine went"), events=[{"event": "loading"}])
    server.events()
    actor.answers |= dict.fromkeys(("events", "stop"), ActorGoneError("its machine went"))
    assert server.ended() == "its actor ended: its machine went"
    assert server.events() == [{"event": "loading"}], "what was known is known"
    server.stop()
    assert actor.killed == 1


def test_an_actor_that_is_slow_is_not_an_ended_server() -> None:
    actor, server = launched(ended=TimeoutError(), events=TimeoutError(), stop=TimeoutError())
    assert server.ended() is None
    assert server.events() == []
    server.stop()
    assert actor.killed == 1


def test_how_it_ended_stays() -> None:
    actor, server = launched(ended="ended with status 3")
    assert server.ended() == "ended with status 3"
    actor.answers["ended"] = ActorGoneError("later")
    assert server.ended() == "ended with status 3"


def test_an_order_travels() -> None:
    assert pickle.loads(pickle.dumps(ORDER)) == ORDER


def test_an_actor_without_a_server_says_so() -> None:
    actor = ServerActor(None, lambda: "127.0.0.1")
    assert actor.ended() == "it was never started"
    assert actor.events() == []
    actor.stop()


def test_one_line_of_a_long_message() -> None:
    assert one_line(ValueError("first\n\n second\nthird \nfourth")) == "second | third | fourth"
    assert one_line(ValueError()) == "ValueError"


class FakeTemplates:
    """Of machines that have one, or not."""

    def __init__(self, found: dict[str, str]) -> None:
        self.found = found
        self.asked = []

    def find(self, machine, imports, environment):
        self.asked.append((machine, tuple(imports), environment))
        return self.found

    def tell(self, machine, socket, lost):
        self.asked.append((machine, socket, lost))


@pytest.mark.parametrize(
    ("found", "told", "said"),
    [
        ({"socket": "/s"}, {"from_template": True, "not_forked": None, "lost": None}, [("m", "/s", None)]),
        (
            {"socket": "/s"},
            {"from_template": False, "not_forked": "it died", "lost": "it died"},
            [("m", "/s", "it died")],
        ),
        ({"socket": "/s"}, {"from_template": False, "not_forked": "it differs", "lost": None}, []),
        ({"error": "none"}, {"from_template": False, "not_forked": "none", "lost": None}, []),
    ],
)
def test_a_server_is_forked_from_the_template_of_its_machine(found, told, said) -> None:
    actor = FakeActor(where={"machine": "m", "environment": {"A": "1"}}, launch={**TOLD, **told})
    templates = FakeTemplates(found)
    server = launch_on(lambda: actor, ORDER, 3.0, lambda: "nothing", templates)
    assert (server.from_template, server.not_forked) == (told["from_template"], told["not_forked"])
    assert [(method, arguments) for method, _, arguments in actor.asked] == [
        ("where", (ORDER,)),
        ("launch", (ORDER, found)),
    ]
    assert templates.asked == [("m", (), {"A": "1"}), *said]


@pytest.mark.parametrize("answer", [TimeoutError(), ActorGoneError("its machine went")])
def test_a_machine_whose_template_does_not_answer_has_none(answer) -> None:
    actors = []

    def make(machine):
        actors.append(FakeActor(find=answer, status=answer, stop=answer))
        return actors[-1]

    templates = MachineTemplates(make)
    assert "error" in templates.find("m", ("os",), {})
    assert templates.status() == {"machines": {} if isinstance(answer, ActorGoneError) else {"m": None}}
    templates.tell("m", "/s", None)
    templates.find("m", ("os",), {})
    assert len(actors) == (2 if isinstance(answer, ActorGoneError) else 1)
    templates.close()
    assert all(each.killed for each in actors)
