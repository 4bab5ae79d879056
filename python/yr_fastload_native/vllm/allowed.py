"""Whether vLLM may run this package's plugin: if ``VLLM_PLUGINS`` is set, only the plugins that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping

from yr_fastload_native.vllm import LOAD_FORMAT

__all__ = ["allowing", "is_allowed"]

_VARIABLE = "VLLM_PLUGINS"


def is_allowed(environ: Mapping[str, str] | None = None) -> bool:
    """Whether vLLM runs the plugin in an environment, by default this process's."""
    value = (os.environ if environ is None else environ).get(_VARIABLE)
    return value is None or LOAD_FORMAT in value.split(",")


def allowing(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables with which vLLM also runs this plugin; often none."""
    environ = os.environ if environ is None else environ
    if is_allowed(environ):
        return {}
    return {_VARIABLE: ",".join(filter(None, [*environ[_VARIABLE].split(","), LOAD_FORMAT]))}
