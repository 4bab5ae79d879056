"""Whether vLLM may run this package's plugin: ``VLLM_PLUGINS`` names those that it may, and without it all are."""

from __future__ import annotations

import os
from collections.abc import Mapping

from yr_fastload_native.vllm import LOAD_FORMAT

__all__ = ["allowing", "is_allowed"]

_VARIABLE = "VLLM_PLUGINS"


def is_allowed(environ: Mapping[str, str] | None = None) -> bool:
    """Whether vLLM runs the plugin in an environment, by default that of this process."""
    value = (os.environ if environ is None else environ).get(_VARIABLE)
    return value is None or LOAD_FORMAT in value.split(",")


def allowing(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What to add to an environment for vLLM to run the plugin beside those that it names; often nothing."""
    environ = os.environ if environ is None else environ
    if is_allowed(environ):
        return {}
    return {_VARIABLE: ",".join(filter(None, [*environ[_VARIABLE].split(","), LOAD_FORMAT]))}
