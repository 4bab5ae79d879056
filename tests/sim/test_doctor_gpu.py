"""What ``yr-fastload doctor`` says of GPUs, on the simulated driver."""

from __future__ import annotations

import pytest

from .runtime import run

_EXAMINE = """
import json
from yr_fastload_native.cli.doctor_gpu import examine_gpus
from yr_fastload_native.devices import ipc
def found(): return [[each.level, each.what, each.todo] for each in examine_gpus()]
"""


def script(text, **environment):
    return run(_EXAMINE + text, kind="cuda", **{"YR_FASTLOAD_SIM_DEVICES": 3, **environment}).said


def test_nothing_in_the_way_is_no_note():
    found = script("ipc.in_first_ipc_namespace = lambda: True; say(found())")[0]
    assert [level for level, _, _ in found] == ["note", "ok"]
    assert "simulated devices" in found[0][1]
    assert "3 by CUDA, whose driver knows version 12.4" in found[1][1]


@pytest.mark.parametrize(
    ("environment", "what", "todo"),
    [
        (
            {"YR_FASTLOAD_SIM_FAULTS": "peer:fail"},
            "6 pairs of GPUs have no peer access (0 from 1, 0 from 2, 1 from 0, 1 from 2, ...): between them `d2d`",
            "nvidia-smi topo",
        ),
        (
            {"YR_FASTLOAD_SIM_FAULTS": "peer@4:fail"},
            "1 pairs of GPUs have no peer access (1 from 2): between",
            "d2d+host",
        ),
        ({"CUDA_VISIBLE_DEVICES": "0,MIG-c7384736-a75d-5afc"}, "slices of a card (MIG)", "`host` works there"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "a:1,expandable_segments:True"}, "PYTORCH_CUDA_ALLOC_CONF has", "leave it out"),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, "PYTORCH_ALLOC_CONF has expandable", "leave it out"),
    ],
)
def test_what_keeps_d2d_from_memory_is_a_note(environment, what, todo):
    found = script("ipc.in_first_ipc_namespace = lambda: True; say(found())", **environment)[0]
    assert [level for level, _, _ in found] == ["note", "ok", "note"]
    assert what in found[2][1]
    assert todo in found[2][2]


def test_a_slice_is_known_by_its_name_and_a_container_by_its_namespace():
    found = script("""
from yr_fastload_native import _core
_core.cuda_device_name = lambda index: "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
ipc.in_first_ipc_namespace = lambda: False
say(found())
""")[0]
    assert [level for level, _, _ in found] == ["note", "ok", "note", "note"]
    assert "slices of a card (MIG)" in found[2][1]
    assert "--ipc=host" in found[3][2]


def test_a_driver_without_a_device_is_wrong():
    found = script("say(found())", YR_FASTLOAD_SIM_FAULTS="init:fail")[0]
    assert [level for level, _, _ in found] == ["note", "wrong"]
    assert "CUDA_ERROR_NO_DEVICE" in found[1][1]
