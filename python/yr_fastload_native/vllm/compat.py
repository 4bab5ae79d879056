"""All differences between versions of vLLM are handled here."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

__all__ = [
    "FIRST_IMPORTS",
    "TESTED",
    "Call",
    "Registered",
    "beside_others",
    "cache_root",
    "cold_loader",
    "compiled",
    "compiles",
    "configuration_hash",
    "device",
    "has_load_formats",
    "has_online_quantization",
    "hash_models_as",
    "is_tested",
    "let_artifacts_load",
    "note_failed_artifacts",
    "on_all_ranks",
    "platform",
    "platform_version",
    "rank_directory",
    "ranks",
    "reads_alone",
    "version",
    "weight_loading",
    "worker_class",
]

_log = logging.getLogger(__name__)

TESTED = ("0.10.0", "0.32.0")  # oldest and newest; docs/compatibility.md lists all
# Load formats with which each rank reads on its own. With others (fastsafetensors, instanttensor, runai_streamer) ranks
# may share the reading, so all ranks of an instance must take part.
_READ_ALONE = ("auto", "hf", "safetensors", "pt", "npcache", "mistral", "sharded_state", "gguf")
# What the processes of a server import, by a first guess; those that a version does not have are left out.
FIRST_IMPORTS = (
    "vllm",
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.worker_base",
    "vllm.model_executor.model_loader",
    "yr_fastload_native.vllm.loader_wrapper",
    "yr_fastload_native.vllm.load_format",
)
_AS_NAMED = "_yr_fastload_as_named"
_ARTIFACT_FAILED = "due to a load failure"  # vllm/compilation/decorators.py
_WHY_CHARS = 200
_GROUPS = ("tp", "pp", "dp", "ep", "pcp", "dcp", "etp")


def version() -> str:
    """The version that vLLM reports."""
    module = importlib.import_module("vllm")
    return str(getattr(module, "__version__", "unknown"))


def is_tested(text: str) -> bool:
    """Whether a version is in the tested range, inclusive."""

    def number(each: str) -> tuple[int, ...]:
        parts = []
        for part in each.split("+")[0].split(".")[:3]:
            digits = "".join(character for character in part if character.isdigit())
            parts.append(int(digits or 0))
        return tuple(parts)

    return number(TESTED[0]) <= number(text) <= number(TESTED[1])


@attrs.frozen
class Call:
    """The arguments of one ``load_model``: 0.15.0 added ``prefix``."""

    vllm_config: Any
    model_config: Any
    prefix: str

    @classmethod
    def of(cls, load_model: Callable[..., Any], loader: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Raises TypeError if the arguments do not fit ``load_model``, as calling it would."""
        given = inspect.signature(load_model).bind(loader, *args, **kwargs).arguments
        named = {**given, **given.get("kwargs", {})}
        rest = dict(zip(("model_config", "prefix"), given.get("args", ()), strict=False))
        vllm_config = named["vllm_config"]
        model_config = named.get("model_config", rest.get("model_config")) or vllm_config.model_config
        prefix = named.get("prefix", rest.get("prefix")) or ""
        return cls(vllm_config, model_config, str(prefix))


def ranks() -> dict[str, tuple[int, int]]:
    """This process's rank and size in each parallel group that exists; (0, 1) for the others."""
    state = importlib.import_module("vllm.distributed.parallel_state")
    found = {}
    for name in _GROUPS:
        try:
            group = getattr(state, f"get_{name}_group")()
            found[name] = (int(group.rank_in_group), int(group.world_size))
        except (AssertionError, AttributeError, ValueError):  # not created for this model, or unknown to this version
            found[name] = (0, 1)
    return found


def reads_alone(load_format: str) -> bool:
    """Whether a rank reads from disk independently of the others."""
    return load_format in _READ_ALONE


def on_all_ranks(holds: bool) -> bool:
    """Whether something is true on every rank of this instance. All ranks must ask; if one dies, the wait ends."""
    import torch

    group = importlib.import_module("vllm.distributed.parallel_state").get_world_group()
    if group.world_size == 1:
        return holds
    answer = torch.tensor([int(holds)])
    torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MIN, group.cpu_group)
    return bool(answer.item())


def platform() -> str:
    """The platform: ``cpu``, ``cuda``, ``npu``, and the name of vLLM's platform class."""
    current = importlib.import_module("vllm.platforms").current_platform
    return f"{getattr(current, 'device_type', '')}:{type(current).__name__}"


def platform_version() -> str:
    """The version of the package that provides the platform, such as vllm-ascend or vLLM itself."""
    package = type(importlib.import_module("vllm.platforms").current_platform).__module__.partition(".")[0]
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a distribution with another name, as vLLM's may have
        return str(getattr(importlib.import_module(package), "__version__", ""))


def has_load_formats() -> bool:
    """Whether load formats can be registered (0.10.1 and newer)."""
    return hasattr(importlib.import_module("vllm.model_executor.model_loader"), "register_model_loader")


def beside_others(ranks: int) -> dict[str, str]:
    """Environment variables for instances that share a machine's cores, to be set before any rank starts.

    No rank is bound to cores. In 0.10.0, which has no such value for several ranks, each rank gets one core, because
    threads would otherwise wait for each other's cores. No rank keeps a core busy while it waits, as it would in 0.10.0
    and 0.14.1.
    """
    binding = "nobind"
    if not has_load_formats():
        binding = "all" if ranks == 1 else "|".join(str(rank % (os.cpu_count() or 1)) for rank in range(ranks))
    environment = {"VLLM_CPU_OMP_THREADS_BIND": binding}
    if "VLLM_SLEEP_WHEN_IDLE" in importlib.import_module("vllm.envs").environment_variables:
        environment["VLLM_SLEEP_WHEN_IDLE"] = "1"
    return environment


def cold_loader(vllm_load_config: Any, load_format: str, extra_config: Mapping[str, Any]) -> Any:
    """The loader that vLLM would use for a load format.

    Raises:
        ValueError: From vLLM: the format is unknown, or the extra config is refused.
    """
    import copy

    made = copy.copy(vllm_load_config)
    object.__setattr__(made, "load_format", load_format)
    object.__setattr__(made, "model_loader_extra_config", dict(extra_config))
    return importlib.import_module("vllm.model_executor.model_loader").get_model_loader(made)


def weight_loading() -> Any:
    """The base class of vLLM's loaders."""
    return importlib.import_module("vllm.model_executor.model_loader.base_loader").BaseModelLoader


def worker_class(vllm_config: Any) -> type | None:
    """The class of ranks that a config names, by its path (0.10.0 on); None where it names none that is there."""
    name = getattr(getattr(vllm_config, "parallel_config", None), "worker_cls", None)
    if isinstance(name, type):
        return name
    module, _, kind = str(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def compiled() -> dict[str, Any]:
    """How this process came by what it compiled, ``cache``: ``hit``, ``miss``, or ``failed`` and ``why``.

    Nothing where it compiled nothing. By vLLM's own counters, of which older versions have fewer.
    """
    try:
        counter = importlib.import_module("vllm.compilation.counter").compilation_counter
    except (ImportError, AttributeError):
        return {}
    if getattr(counter, "num_aot_artifacts_loaded", 0):
        return {"cache": "hit"}
    if _failures.last is not None:
        return {"cache": "failed", "why": _failures.last}
    made = ("num_aot_compiles", "num_graphs_seen", "num_inductor_compiles", "num_eager_compiles")
    return {"cache": "miss"} if any(getattr(counter, name, 0) for name in made) else {}


def cache_root() -> Path:
    """The directory of vLLM's caches."""
    return Path(importlib.import_module("vllm.envs").VLLM_CACHE_ROOT).absolute()


def compiles(vllm_config: Any) -> bool:
    """Whether models of this configuration are compiled, and what comes of it is kept in `cache_root`."""
    compilation = vllm_config.compilation_config
    level = getattr(compilation, "mode", getattr(compilation, "level", None))  # 0.11.1 renamed it
    kept = not importlib.import_module("vllm.envs").VLLM_DISABLE_COMPILE_CACHE
    return kept and bool(level) and not vllm_config.model_config.enforce_eager


def configuration_hash(vllm_config: Any) -> list[str]:
    """How vLLM tells configurations apart that are compiled differently: by their fields and its variables."""
    envs = importlib.import_module("vllm.envs")
    if hasattr(envs, "compile_factors"):
        variables = json.dumps(envs.compile_factors(), sort_keys=True, default=str)
    else:  # before 0.12
        variables = envs.compute_hash()
    return [vllm_config.compute_hash(), hashlib.sha256(variables.encode()).hexdigest()]


def rank_directory(vllm_config: Any) -> str:
    """The name of the directories of this rank in `cache_root`."""
    parallel = vllm_config.parallel_config
    data = getattr(parallel, "data_parallel_index", getattr(parallel, "data_parallel_rank", 0))
    return f"rank_{parallel.rank}_{data}"


def hash_models_as(named: Callable[[str], str | None]) -> None:
    """Have configurations of models hashed as if these lay elsewhere: the path counts for what is compiled. Idempotent.

    Args:
        named: Where the model of a path is said to be; None: there.
    """
    kind = importlib.import_module("vllm.config").ModelConfig
    plain = kind.compute_hash
    if hasattr(plain, _AS_NAMED):
        return

    @functools.wraps(plain)
    def compute_hash(self: Any) -> str:
        here = self.model
        try:
            self.model = named(here) or here
            return str(plain(self))
        finally:
            self.model = here

    setattr(compute_hash, _AS_NAMED, True)
    kind.compute_hash = compute_hash


def device() -> list[str]:
    """The architecture that kernels are compiled for, beside the CPU's."""
    current = importlib.import_module("vllm.platforms").current_platform
    found = []
    for ask in ("get_device_name", "get_device_capability"):
        try:
            found.append(str(getattr(current, ask)()))
        except (AttributeError, NotImplementedError, RuntimeError):
            found.append("")
    return found


def has_online_quantization(model: Any) -> bool:
    """Whether weights are quantised during loading, so that there is nothing to exchange before."""
    return any(
        getattr(getattr(module, "quant_method", None), "uses_meta_device", False) or _on_meta(module)
        for module in model.modules()
    )


def _on_meta(module: Any) -> bool:
    return any(parameter.device.type == "meta" for parameter in module.parameters(recurse=False))


def let_artifacts_load() -> None:
    """Have vLLM load the compiled artifacts that torch's own backend makes, as it does on a CPU. Idempotent.

    From 0.32.0 on vLLM finishes the loading of each by a method that those of its own backend have. Those of torch need
    no finishing and have no such method: the call fails, and what lies on disk is compiled again.
    """
    try:
        caching = importlib.import_module("vllm.compilation.caching")
        torchs = importlib.import_module("torch._dynamo.aot_compile_types").BundledAOTAutogradSerializableCallable
    except (ImportError, AttributeError):  # no artifacts in this version of vLLM or torch
        return
    method = "finalize_loading"
    if hasattr(getattr(caching, "VllmSerializableFunction", None), method) and not hasattr(torchs, method):
        setattr(torchs, method, _finished)


class _Failures(logging.Filter):
    """Reads in vLLM's log why an artifact was not loaded, which it says nowhere else.

    Attributes:
        last: Why the last one was not; None: none has failed.
    """

    last: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if _ARTIFACT_FAILED in text:
            self.last = text.partition("reason: ")[2].partition("\n")[0][:_WHY_CHARS]
        return True


_failures = _Failures()


def note_failed_artifacts() -> None:
    """Have `compiled` tell of artifacts that vLLM could not load (0.32.0; others do not say so). Idempotent."""
    logging.getLogger("vllm.compilation.decorators").addFilter(_failures)


def _finished(artifact: Any, vllm_config: Any) -> None:
    """Nothing of it is left to be loaded."""


class Registered:
    """What models register in vLLM's config when they are constructed, so that one can be constructed again.

    Layers register by name in ``compilation_config.static_forward_context`` (0.10.0 and newer) and in lists beside it,
    and a second layer with the same name is refused.
    """

    def __init__(self, vllm_config: Any) -> None:
        self._config = getattr(vllm_config, "compilation_config", None)
        self._before: dict[str, Any] = {}
        for name, value in vars(self._config).items() if self._config is not None else ():
            if isinstance(value, (dict, list, set)):
                self._before[name] = value.copy()

    def restore(self) -> None:
        """Remove what was registered since."""
        for name, before in self._before.items():
            value = getattr(self._config, name, None)
            if isinstance(value, list):
                value[:] = before
            elif isinstance(value, (dict, set)):
                value.clear()
                value.update(before)
