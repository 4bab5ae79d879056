"""An order for a machine that does not have the directory of its model."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping

import attrs

from yr_fastload_native.errors import NotPublishedError, UnavailableError
from yr_fastload_native.service.launcher import Order
from yr_fastload_native.vllm.model_files import is_directory_elsewhere

__all__ = ["at_hand"]

_log = logging.getLogger(__name__)
_MOST_S = 45.0


def at_hand(order: Order, environment: Mapping[str, str]) -> Order:
    """The order, with a directory of this machine that has the small files of the model; weights are pulled anyway.

    In a process of its own, so that nothing of openYuanrong's client stays in this one. Bounded.

    Args:
        order: Names the model by a directory.
        environment: Of the server.

    Raises:
        NotPublishedError: No instance publishes them.
        UnavailableError: They did not come in time.
    """
    model = order.model
    if model is None or not is_directory_elsewhere(model.name):
        return order
    command = [sys.executable, "-m", "yr_fastload_native.vllm.take_model", model.name, "1" if model.code else "0"]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_MOST_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{model.name} is not on this machine: {error}", op="serve") from None
    try:
        answer = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": " | ".join(run.stderr.splitlines()[-3:]) or f"status {run.returncode}"}
    if "error" in answer:
        raise NotPublishedError(
            f"{model.name} is not on this machine, and its files cannot be had from an instance: {answer['error']}",
            op="serve",
        )
    _log.info("%s is not on this machine: its files are in %s", model.name, answer["directory"])
    arguments = [answer["directory"] if each == model.name else each for each in order.arguments]
    named = () if model.is_named else ("--served-model-name", model.name)  # as clients know it
    return attrs.evolve(order, arguments=(*arguments, *named))
