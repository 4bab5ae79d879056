"""What vLLM's plugin mechanism calls in each of its processes."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from typing import Any

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.settings import ExchangeConfig
from yr_fastload_native.template.telling import tell_when_ready
from yr_fastload_native.vllm import LOAD_FORMAT, compat
from yr_fastload_native.vllm.allowed import is_allowed
from yr_fastload_native.vllm.phases import mark_imported

__all__ = ["describe", "register"]

_log = logging.getLogger("vllm.yr_fastload")

_GROUP = "vllm.general_plugins"


def register() -> None:
    """Register the load format and, if requested, the patch. Idempotent; see `yr_fastload_native.vllm.register`.

    Raises:
        InvalidArgumentError: The patch is requested, and a setting in the environment has a value that is not allowed.
    """
    wants_patch = _wants_patch()
    report = ExchangeConfig.report_from_env()
    mark_imported(report)
    tell_when_ready(report)
    try:
        _register_load_format()
        if wants_patch:
            importlib.import_module("yr_fastload_native.vllm.patch").patch()
    except Exception as error:
        _log.warning("weights are not exchanged, this vLLM is not as expected: %s: %s", type(error).__name__, error)


def _wants_patch() -> bool:
    """Whether the patch is requested. Without it, vLLM starts whatever the environment contains."""
    try:
        wanted = ExchangeConfig.patch_from_env()
    except InvalidArgumentError as error:
        _log.warning("weights are not exchanged: %s", error)
        return False
    if wanted:
        ExchangeConfig.from_env()
    return wanted


def describe() -> dict[str, Any]:
    """What this process's vLLM sees of this package, after `register`; plain types."""
    from yr_fastload_native.vllm.loader_wrapper import unwrapped

    register()
    loaders = importlib.import_module("vllm.model_executor.model_loader")
    found = importlib.metadata.entry_points(group=_GROUP, name=LOAD_FORMAT)
    return {
        "version": compat.version(),
        "is_tested": compat.is_tested(compat.version()),
        "tested": list(compat.TESTED),
        "platform": compat.platform(),
        "plugin_installed": bool(found),
        "plugins_allowed": importlib.import_module("vllm.envs").VLLM_PLUGINS,  # None: all
        "plugin_allowed": is_allowed(),
        "load_format_registered": LOAD_FORMAT in getattr(loaders, "_LOAD_FORMAT_TO_MODEL_LOADER", {}),
        "patched": unwrapped(compat.weight_loading().load_model) is not None,
    }


def _register_load_format() -> None:
    if not compat.has_load_formats():
        return
    loaders = importlib.import_module("vllm.model_executor.model_loader")
    loader = importlib.import_module("yr_fastload_native.vllm.load_format").YrFastLoader
    known = getattr(loaders, "_LOAD_FORMAT_TO_MODEL_LOADER", {})
    if known.get(LOAD_FORMAT) is not loader:
        loaders.register_model_loader(LOAD_FORMAT)(loader)
