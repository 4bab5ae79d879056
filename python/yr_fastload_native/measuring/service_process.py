"""`yr-fastload serve` as a process of its own, and what measures and shows the starts of its instances."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from yr_fastload_native.errors import TransferTimeoutError, UnavailableError

__all__ = ["ServiceProcess"]

_OP = "serve"
_ASK_S = 30.0
_ANSWER_S = 120.0
_END_S = 90.0
_POLL_S = 0.2
_LEARNING_S = 30.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServiceProcess:
    """A service of vLLM instances, until the end of the ``with`` block.

    Args:
        model: Its directory.
        arguments: Of ``yr-fastload serve``; those of vLLM follow ``--``.
        environment: Of the service, and so of its instances.
        python: With vLLM; by default this one.
        start_s: Time for instances to become ready, seconds.
    """

    def __init__(
        self,
        model: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        python: str = sys.executable,
        start_s: float = 600.0,
    ) -> None:
        self._start_s = start_s
        command = [python, "-m", "yr_fastload_native", "serve", "--model", str(model), "--port", "0", "--json"]
        self._process = subprocess.Popen(
            [*command, *arguments], env=dict(environment), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self.close()
            raise UnavailableError("the service has not started; what it said is above", op=_OP)
        self.url = str(json.loads(said)["url"])

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it in order; twice is as once."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    # -- scaling --------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What ``GET /status`` answers."""
        return dict(self._ask("status"))

    def scale_out(self, count: int = 1) -> list[dict[str, Any]]:
        """Add instances; their status once all of them are ready.

        Raises:
            UnavailableError: One has failed.
            TransferTimeoutError: Not ready in time.
        """
        names = self._ask("scaleout", {"count": count})["instances"]
        return self.until_ready(lambda each: each["id"] in names, count)

    def until_ready(self, wanted: Callable[[dict[str, Any]], bool], count: int) -> list[dict[str, Any]]:
        """Wait until so many of the wanted instances are ready; raises as `scale_out`."""

        def are_ready(status: dict[str, Any]) -> list[dict[str, Any]]:
            found = [each for each in status["instances"] if wanted(each)]
            failed = [each["error"] for each in found if each["error"]]
            if failed:
                raise UnavailableError(f"an instance failed: {failed[0]}", op=_OP)
            ready = [each for each in found if each["state"] == "ready"]
            return ready if len(ready) == count else []

        return list(self._until(are_ready, f"{count} instances are not ready"))

    def scale_in(self, instances: Sequence[Mapping[str, Any]]) -> None:
        """Stop some, and wait until they have gone.

        Raises:
            TransferTimeoutError: They have not in time.
        """
        names = {each["id"] for each in instances}
        self._ask("scalein", {"ids": sorted(names)})
        self._until(lambda status: names.isdisjoint(each["id"] for each in status["instances"]), "they have not gone")

    def until_template(self) -> int | None:
        """Wait until there is a template; its pid. None: there is none, for a reason that ``/status`` has.

        Raises:
            TransferTimeoutError: It takes too long.
        """

        def state(status: dict[str, Any]) -> dict[str, Any] | None:
            found: dict[str, Any] = status["template"] or {"state": "none"}
            is_there = found["state"] == "ready" and found["pid"] is not None
            return found if is_there or found["state"] == "none" else None

        found: dict[str, Any] = self._until(state, "there is no template")
        return int(found["pid"]) if found["state"] == "ready" else None

    def until_learned(self, before: int | None) -> bool:
        """Wait until another template than that pid has taken its place, which knows what the first instance imported.

        False if none has within half a minute: there was nothing to learn.
        """
        ends = time.monotonic() + _LEARNING_S
        while before is not None and time.monotonic() < ends:
            if self.until_template() not in (None, before):
                return True
            time.sleep(_POLL_S)
        return False

    # -- asking ---------------------------------------------------------------------------------------------------

    def complete(self, instance: Mapping[str, Any], model: str, prompt: str, tokens: int) -> str:
        """The text with which one instance goes on, by greedy decoding."""
        asked = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return str(_ask(f"{instance['url']}/v1/completions", asked, _ANSWER_S)["choices"][0]["text"])

    def _ask(self, what: str, wish: object = None) -> Any:
        return _ask(f"{self.url}/{what}", wish, _ASK_S)

    def _until(self, found: Callable[[dict[str, Any]], Any], what: str) -> Any:
        ends = time.monotonic() + self._start_s
        while not (answer := found(self.status())):
            if self._process.poll() is not None:
                raise UnavailableError("the service has ended; what it said is above", op=_OP)
            if time.monotonic() > ends:
                raise TransferTimeoutError(f"{what} within {self._start_s:g} s", op=_OP)
            time.sleep(_POLL_S)
        return answer


def _ask(url: str, wish: object, bound_s: float) -> Any:
    body = None if wish is None else json.dumps(wish).encode()
    asking = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with _DIRECT.open(asking, timeout=bound_s) as answer:
        return json.load(answer)
