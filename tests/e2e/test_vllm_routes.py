"""The paths of vLLM's server, against the list by which the service's are tested."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import vllm
import vllm.entrypoints
from fastapi import APIRouter
from fastapi.routing import APIRoute

LISTED = json.loads(Path(__file__).parents[1].joinpath("unit/vllm_routes.json").read_text())
# Not by a router: SageMaker's, documentation, and what belongs to another server than `vllm serve`.
ELSEWHERE = {"/ping", "/invocations", "/adapters", "/adapters/{adapter_name}", "/docs", "/openapi.json", "/metrics"}


def routes() -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for module in pkgutil.walk_packages(vllm.entrypoints.__path__, "vllm.entrypoints."):
        if "router" not in module.name.rpartition(".")[2] and "instrumentator" not in module.name:
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, APIRouter):
                for route in value.routes:
                    if isinstance(route, APIRoute):
                        found.setdefault(route.path, set()).update(route.methods)
    return {path: sorted(methods) for path, methods in sorted(found.items())}


def test_every_path_is_listed() -> None:
    found = routes()
    assert len(found) > 40
    missing = {path: methods for path, methods in found.items() if LISTED.get(path) != methods}
    assert not missing, vllm.__version__
    assert set(LISTED) - set(found) <= ELSEWHERE | {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
