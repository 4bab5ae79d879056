"""The paths of vLLM's server, against the list by which the service's are tested."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

LISTED = json.loads(Path(__file__).parents[1].joinpath("unit/vllm_routes.json").read_text())
# Not in a router of its own: SageMaker's, documentation, metrics.
ELSEWHERE = {"/adapters", "/adapters/{adapter_name}", "/docs", "/openapi.json", "/metrics"}
METHODS = {"get", "post", "put", "patch", "delete"}


def routes() -> dict[str, list[str]]:
    """By reading its source."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    found: dict[str, set[str]] = {}
    for path in Path(spec.origin).parent.joinpath("entrypoints").rglob("*.py"):
        for route, method in in_tree(ast.parse(path.read_text())):
            found.setdefault(route, set()).add(method)
    return {path: sorted(methods) for path, methods in sorted(found.items())}


def in_tree(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for call in ast.walk(tree):
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=router), attr=name), args=[ast.Constant(value=str(route)), *_]
            ):
                if router.endswith("router") and name in METHODS:
                    yield route, name.upper()
                elif router.endswith("router") and name == "add_api_route":
                    told = next(each.value for each in call.keywords if each.arg == "methods")
                    yield from ((route, method) for method in ast.literal_eval(told))


def test_every_path_is_listed() -> None:
    found = routes()
    assert len(found) > 40
    assert found == {path: methods for path, methods in LISTED.items() if path not in ELSEWHERE}
