"""Calls that change an instance: made to all instances, and for adapters also to later ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs
import httpx
import msgspec
from fastapi.responses import JSONResponse, Response

from yr_fastload_native.errors import FastLoadError, UnavailableError
from yr_fastload_native.service.connection import Call, Connection
from yr_fastload_native.service.instance import Instance

__all__ = ["CHANGES", "Changes", "is_change"]

_LOADS = frozenset(["/v1/load_lora_adapter", "/adapters"])
_UNLOADS = "/v1/unload_lora_adapter"
_ADAPTER = "/adapters/"  # followed by its name: SageMaker's way to unload one
# POST calls of vLLM 0.32.0 that change its state, most of them only with VLLM_SERVER_DEV_MODE.
CHANGES = frozenset(
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/adapters",
        "/start_profile",
        "/stop_profile",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/reset_encoder_cache",
        "/collective_rpc",
        "/sleep",
        "/wake_up",
        "/release_kv_cache_memory",
        "/pause",
        "/resume",
        "/init_weight_transfer_engine",
        "/shutdown_weight_transfer_engine",
        "/start_weight_update",
        "/start_draft_weight_update",
        "/update_weights",
        "/update_weight_version",
        "/finish_weight_update",
        "/weight_checker",
        "/abort_requests",
        "/inference/v1/abort_requests",
        "/scale_elastic_ep",
        "/fault_tolerance/apply",
    ]
)
_SAID_CHARS = 300


def is_change(call: Call) -> bool:
    """Whether all instances must get it."""
    return (call.method == "POST" and call.path in CHANGES) or (
        call.method == "DELETE" and call.path.startswith(_ADAPTER)
    )


@attrs.frozen
class _Answer:
    instance: Instance
    status: int
    body: bytes
    kind: str | None

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    def passed_on(self, by: str) -> Response:
        return Response(self.body, self.status, {"x-served-by": by}, media_type=self.kind)


class Changes:
    """Makes changes one at a time, so that all instances reach the same state.

    Attributes:
        lock: Held during a change, and by an instance from catching up until it is ready.

    Args:
        bound_s: Time limit for an instance's answer, seconds; an instance that gives none is restarted.
    """

    def __init__(self, bound_s: float) -> None:
        self.lock = asyncio.Lock()
        self._bound_s = bound_s
        self._adapters: dict[str, Call] = {}  # the calls that loaded them, by name

    async def make(self, call: Call, instances: Sequence[Instance]) -> Response:
        """Make a change on all instances. Call with ``lock`` held.

        Returns:
            One answer if all answered the same, otherwise an object with the answer of each.

        Raises:
            FastLoadError: Some refused; the message names those that did and those that did not.
            UnavailableError: None answered.
        """
        answers = [each for each in await asyncio.gather(*(self._ask(call, each) for each in instances)) if each]
        if not answers:
            raise UnavailableError("no instance answered; GET /status has their states", op=call.path[1:])
        refused = [each for each in answers if not each.good]
        names = ", ".join(each.instance.name for each in answers)
        if len(refused) == len(answers):
            return answers[0].passed_on(names)
        if refused:
            said = "; ".join(f"{each.instance.name} answered {each.status} {_text(each.body)}" for each in refused)
            did = ", ".join(each.instance.name for each in answers if each.good)
            raise FastLoadError(f"{said}; it was done by {did}", op=call.path[1:])
        self._remember(call)
        if len({each.body for each in answers}) == 1:
            return answers[0].passed_on(names)
        return JSONResponse({each.instance.name: _decoded(each.body) for each in answers}, 200, {"x-served-by": names})

    async def catch_up(self, connection: Connection) -> str | None:
        """Load the adapters that the others have. Call with ``lock`` held. Returns what went wrong."""
        for name, call in self._adapters.items():
            try:
                answer = await asyncio.wait_for(_whole(connection, call), self._bound_s)
            except (httpx.HTTPError, asyncio.TimeoutError) as error:
                return f"it did not answer {call.path} for {name}: {type(error).__name__}"
            if not answer.is_success:
                return f"it answered {answer.status_code} to {call.path} for {name}: {_text(answer.content)}"
        return None

    async def _ask(self, call: Call, instance: Instance) -> _Answer | None:
        """None if it did not answer; it is then restarted, and catches up with the others."""
        with instance.serving():
            try:
                assert instance.connection is not None
                answer = await asyncio.wait_for(_whole(instance.connection, call), self._bound_s)
            except (httpx.HTTPError, asyncio.TimeoutError) as error:
                instance.give_up(f"it did not answer {call.path}: {type(error).__name__}")
                return None
        return _Answer(instance, answer.status_code, answer.content, answer.headers.get("content-type"))

    def _remember(self, call: Call) -> None:
        if call.path in _LOADS:
            self._adapters[_adapter(call)] = call
        elif call.path == _UNLOADS:
            self._adapters.pop(_adapter(call), None)
        elif call.method == "DELETE":
            self._adapters.pop(call.path[len(_ADAPTER) :], None)


async def _whole(connection: Connection, call: Call) -> httpx.Response:
    answer = await connection.begin(call)
    try:
        await answer.aread()
    finally:
        await answer.aclose()
    return answer


def _adapter(call: Call) -> str:
    """The adapter's name in the body of a call that succeeded."""
    told = msgspec.json.decode(call.body)
    return str(told.get("lora_name", told.get("name")))


def _decoded(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode(errors="replace")


def _text(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())[:_SAID_CHARS]
