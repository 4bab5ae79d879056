"""`yr-fastload sim`, and the environment that it makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from yr_fastload_native import sim
from yr_fastload_native.cli import main
from yr_fastload_native.errors import DeviceError, InvalidArgumentError
from yr_fastload_native.sim.launcher import launch

CLI = [sys.executable, "-m", "yr_fastload_native", "sim", "--force"]
MODULE = [sys.executable, "-m", "yr_fastload_native.sim"]
SHOW = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"
COUNT = """
import ctypes, yr_fastload_native.sim as sim
count = ctypes.c_uint()
ctypes.CDLL("libascendcl.so").aclrtGetDeviceCount(ctypes.byref(count))
print(sim.active(), count.value, sim.counters()["calls"])
"""


def start(arguments, **environment):
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )


def test_the_environment_puts_the_libraries_first_and_keeps_the_rest():
    base = {"LD_LIBRARY_PATH": "/a:/b", "LD_PRELOAD": "/first.so /second.so", "OTHER": "x"}
    made = sim.environment(base)
    directory = str(sim.library_directory())
    assert made == {
        "LD_LIBRARY_PATH": f"{directory}:/a:/b",
        "LD_PRELOAD": f"/first.so:/second.so:{directory}/libyrfl_davinci.so",
        "OTHER": "x",
        "YR_FASTLOAD_SIM": "1",
    }
    assert sim.environment(made) == made
    assert base == {"LD_LIBRARY_PATH": "/a:/b", "LD_PRELOAD": "/first.so /second.so", "OTHER": "x"}


def test_the_environment_of_nothing():
    directory = str(sim.library_directory())
    assert sim.environment({}) == {
        "LD_LIBRARY_PATH": directory,
        "LD_PRELOAD": f"{directory}/libyrfl_davinci.so",
        "YR_FASTLOAD_SIM": "1",
    }


@pytest.mark.parametrize("launcher", [CLI, MODULE])
def test_a_command_runs_with_simulated_devices(launcher):
    found = start([*launcher, sys.executable, "-c", COUNT], YR_FASTLOAD_SIM_DEVICES="5")
    assert (found.stdout, found.stderr) == ("True 5 {'aclrtGetDeviceCount': 1}\n", "")


def test_the_number_of_devices_is_an_option():
    found = start([*CLI, "--devices", "2", "--", sys.executable, "-c", COUNT], YR_FASTLOAD_SIM_DEVICES="5")
    assert found.stdout.startswith("True 2 ")


def test_options_behind_the_command_are_its_own():
    arguments = ["--devices", "9", "--help", "-x", "--"]
    found = start([*CLI, "--", sys.executable, "-c", SHOW, *arguments])
    assert json.loads(found.stdout)[1] == arguments
    assert start([*CLI, sys.executable, "-c", SHOW, *arguments]).stdout == found.stdout


def test_what_is_preloaded_stays_first(tmp_path):
    other = str(sim.library_directory() / "libra.so")  # any library will do
    found = start([*CLI, sys.executable, "-c", SHOW], LD_PRELOAD=other, LD_LIBRARY_PATH=str(tmp_path))
    environment = json.loads(found.stdout)[0]
    assert environment["LD_PRELOAD"] == f"{other}:{sim.library_directory() / 'libyrfl_davinci.so'}"
    assert environment["LD_LIBRARY_PATH"] == f"{sim.library_directory()}:{tmp_path}"


@pytest.mark.parametrize("launcher", [CLI, MODULE])
def test_the_exit_status_is_that_of_the_command(launcher):
    assert start([*launcher, "sh", "-c", "exit 37"]).returncode == 37
    assert start([*launcher, "true"]).returncode == 0


@pytest.mark.parametrize("launcher", [CLI, MODULE])
def test_commands_that_cannot_be_started(launcher, tmp_path):
    missing = start([*launcher, "no-such-command-anywhere", "x"])
    assert missing.returncode == 127
    assert missing.stderr == "error: INVALID_ARGUMENT: sim: no-such-command-anywhere: command not found\n"
    (tmp_path / "text").write_text("not a program")
    refused = start([*launcher, str(tmp_path / "text")])
    assert refused.returncode == 126
    assert refused.stderr.count("\n") == 1


def test_commands_are_found_on_the_path(tmp_path):
    (tmp_path / "my-command").write_text("#!/bin/sh\necho found $1\n")
    (tmp_path / "my-command").chmod(0o755)
    assert start([*CLI, "my-command", "it"], PATH=f"{tmp_path}:{os.environ['PATH']}").stdout == "found it\n"


def test_a_command_is_needed():
    assert CliRunner().invoke(main, ["sim"]).exit_code == 2
    with pytest.raises(InvalidArgumentError, match="no command"):
        launch([])


def test_a_machine_with_a_real_device_is_refused(monkeypatch):
    with pytest.raises(DeviceError, match=r"real NPU.*/dev/davinci7.*--force"):
        launch(["true"], real_device=lambda kind: "/dev/davinci7")
    monkeypatch.setattr(sim, "real_device", lambda kind: "/dev/davinci7")
    refused = CliRunner().invoke(main, ["sim", "true"])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: DEVICE: sim: this machine has a real NPU")
    assert refused.stderr.count("\n") == 1


def test_a_real_device_is_no_obstacle_if_forced(monkeypatch):
    executed = []
    monkeypatch.setattr(os, "execvpe", lambda *arguments: executed.append(arguments) or exit_(0))

    def exit_(status):
        raise SystemExit(status)

    with pytest.raises(SystemExit):
        launch(["true", "-x"], force=True, devices=3, real_device=lambda kind: "/dev/davinci7")
    assert executed[0][:2] == ("true", ["true", "-x"])
    assert executed[0][2]["YR_FASTLOAD_SIM_DEVICES"] == "3"


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="there is a real NPU")
def test_the_runtime_of_a_real_device_is_noticed(monkeypatch, tmp_path):
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{sim.library_directory()}:")
    assert sim.real_device() is None  # the simulated one is none
    (tmp_path / "libascendcl.so").touch()
    assert sim.real_device() == str(tmp_path / "libascendcl.so")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libascendcl.so").touch()
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path))
    assert sim.real_device() == str(tmp_path / "lib64" / "libascendcl.so")


def test_counters_need_simulated_devices(monkeypatch):
    monkeypatch.delenv("YR_FASTLOAD_SIM", raising=False)
    assert not sim.active()
    with pytest.raises(DeviceError, match="no simulated devices"):
        sim.counters()


def test_importing_it_is_cheap():
    code = "import sys; import yr_fastload_native.sim; print(sorted({'ctypes', 'numpy', 'click'} & set(sys.modules)))"
    assert start([sys.executable, "-c", code]).stdout == "[]\n"


def test_simulated_gpus_take_the_place_of_simulated_npus():
    made = sim.environment(sim.environment({"LD_LIBRARY_PATH": "/a"}), kind="cuda")
    assert made == {"LD_LIBRARY_PATH": f"{sim.library_directory('cuda')}:/a", "YR_FASTLOAD_SIM": "cuda"}
    assert sim.environment(made, kind="cuda") == made


def test_a_command_runs_with_simulated_gpus():
    count = """
import ctypes, yr_fastload_native.sim as sim
from yr_fastload_native import _core
print(sim.active(), sim.active("cuda"), _core.cuda_device_count(), sim.counters()["calls"]["cuInit"])
"""
    found = start([*CLI, "--device", "cuda", "--devices", "3", "--", sys.executable, "-c", count])
    assert (found.stdout, found.stderr) == ("False True 3 1\n", "")


def test_a_machine_with_a_real_gpu_is_refused():
    with pytest.raises(DeviceError, match="has a real GPU or its runtime"):
        launch(["true"], kind="cuda", real_device=lambda kind: f"/dev/{kind}0")
