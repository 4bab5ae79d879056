"""deploy/kubernetes, against Kubernetes' own schemas."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
MANIFESTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}")
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "openyuanrong-values.yaml"
    for document in yaml.safe_load_all(path.read_text())
]


@pytest.mark.parametrize("manifest", MANIFESTS)
@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_manifests(manifest: dict, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_pods_find_the_worker() -> None:
    chart = yaml.safe_load((FOLDER / "openyuanrong-values.yaml").read_text())["global"]
    (pod,) = [one.values[0]["spec"]["template"]["spec"] for one in MANIFESTS if one.values[0]["kind"] == "Deployment"]
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["DS_WORKER_ADDR"] == f"$(NODE_IP):{chart['port']['datasystemWorker']}"
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    (sockets,) = [each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each]
    assert mounts["worker"] == sockets == chart["ipc"]["udsDir"]


def test_variables_of_services_are_none_of_ours() -> None:
    """Kubernetes makes NAME_PORT=tcp://... of a service's name, in pods that do not refuse it."""
    made = [one.values[0] for one in MANIFESTS]
    names = [one["metadata"]["name"].upper().replace("-", "_") for one in made if one["kind"] == "Service"]
    assert names
    assert not [name for name in names if f"{name}_".startswith(("VLLM_", "YR_", "DS_", "SERVER_", "RAY_"))]
    pods = [one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"]
    assert pods
    assert not any(pod["enableServiceLinks"] for pod in pods)


def test_the_chart_knows_these_values() -> None:
    import yr.datasystem

    chart = Path(yr.datasystem.__file__).parent / "helm_chart/datasystem/values.yaml"
    known = yaml.safe_load(chart.read_text())

    def check(mine: dict, theirs: dict, path: str) -> None:
        for key, value in mine.items():
            assert key in theirs, f"{path}.{key}"
            if isinstance(value, dict):
                check(value, theirs[key], f"{path}.{key}")

    check(yaml.safe_load((FOLDER / "openyuanrong-values.yaml").read_text()), known, "")
