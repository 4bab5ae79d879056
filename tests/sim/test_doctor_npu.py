"""``yr-fastload doctor --npu``, end to end on simulated devices."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from yr_fastload_native.cli import doctor_npu, main
from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.measuring.symbols import Needs, missing, needs_of

pytestmark = pytest.mark.worker

CHECKS = ["NPU", "plugin", "digests", "transfer", "capture", "memory of NPU"]


@pytest.fixture(autouse=True)
def simulated(worker, monkeypatch):
    monkeypatch.setenv("DS_WORKER_ADDR", worker)
    monkeypatch.setattr(doctor_npu, "_BYTES", 64 << 20)


def trial():
    return {finding.check: finding for finding in doctor_npu.examine_npus()}


def test_all_is_well_on_simulated_devices(worker):
    done = CliRunner().invoke(main, ["doctor", "--npu", "--json"])
    assert done.exit_code == 0, done.output
    findings = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert [name for name in findings if name in CHECKS] == CHECKS
    assert {findings[name]["level"] for name in CHECKS} == {"ok"}, findings
    assert "openyuanrong-datasystem 0.8" in findings["NPU"]["what"]
    assert "by the device" in findings["digests"]["what"]
    assert "by d2d between two NPUs" in findings["transfer"]["what"]


def test_one_device_is_tried_too(monkeypatch):
    monkeypatch.setenv("YR_FASTLOAD_SIM_DEVICES", "1")
    found = trial()
    assert "by staged through the worker: there is one NPU" in found["transfer"].what
    assert {each.level for each in found.values()} == {"ok"}


def test_what_does_not_work_is_said(monkeypatch):
    monkeypatch.setenv("YR_FASTLOAD_SIM_FAULTS", "malloc:oom")
    found = trial()["NPU"]
    assert (found.level, "aclrtMalloc" in found.what) == ("wrong", True)
    assert "send this page" in found.todo


def test_a_damaged_operator_is_a_note(monkeypatch):
    monkeypatch.setenv("YR_FASTLOAD_SIM_FAULTS", "copy@2:corrupt=1")  # of the rows that it is tried with
    found = trial()["digests"]
    assert (found.level, "by the CPU" in found.what) == ("note", True)


def test_missing_symbols_are_named(monkeypatch, tmp_path):
    needs = Needs(["libc.so.6", "libnowhere.so"], ["malloc", "aclNothingOfThisName"])
    libraries, symbols = missing(needs)
    assert (len(libraries), symbols) == (1, ["aclNothingOfThisName"])
    assert "libnowhere.so" in libraries[0]
    (tmp_path / "text").write_text("no library" * 20)
    with pytest.raises(InvalidArgumentError, match="not a 64-bit ELF library"):
        needs_of(tmp_path / "text")
