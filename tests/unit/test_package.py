"""The installed package: what importing it costs, what its extension looks for, what it exports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core

ROOT = Path(__file__).parents[2]


def imported_by(statement: str) -> set[str]:
    report = "print(json.dumps(sorted({*sys.modules} - before)))"
    script = f"import sys, json; before = set(sys.modules); {statement}; {report}"
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True)
    return set(json.loads(done.stdout))


def test_importing_costs_next_to_nothing() -> None:
    """Modules, not milliseconds, are counted: 2 ms were measured."""
    roots = {name.partition(".")[0] for name in imported_by("import yr_fastload_native")}
    assert roots - {"yr_fastload_native"} <= set(sys.stdlib_module_names)
    assert "yr_fastload_native._core" not in imported_by("import yr_fastload_native")


def test_the_loader_needs_no_framework() -> None:
    used = imported_by("import yr_fastload_native as fl; fl.FastLoader; fl.Config; fl.LocalWorker; fl.__version__")
    assert "yr_fastload_native._core" in used
    assert not {"torch", "vllm", "numpy", "torch_npu"} & used


def test_every_public_name_is_there() -> None:
    for name in fl.__all__:
        assert getattr(fl, name) is not None
    assert set(fl.__all__) <= set(dir(fl))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        fl.nothing_like_it  # noqa: B018


def test_one_version() -> None:
    assert fl.__version__ == _core.__version__ == importlib.metadata.version("yr-fastload-native")


def test_the_extension_finds_the_datasystem_wherever_the_wheel_lands() -> None:
    """Old-style RPATH, relative to itself: RUNPATH is not used for the libraries that libdatasystem.so needs."""
    done = subprocess.run(["readelf", "-d", _core.__file__], check=True, stdout=subprocess.PIPE, text=True)
    paths = [line for line in done.stdout.splitlines() if "PATH" in line]
    assert len(paths) == 1
    assert "(RPATH)" in paths[0]
    assert paths[0].endswith("[$ORIGIN/../yr/datasystem/lib]")


STAND_INS = (
    "SetPollOut",
    "UnsetPollOut",
    "GetEndPoint",
    "CheckTranPointer",
    "RecordEvent",
    "AddStubToConnList",
    "InterruptAll",
    "HandleConnectListAfterCheck",
)
CLASSES = "ZmqEpoll|ZmqSockConnHelper|CommWrapperBase|DeviceRtEventWrapper"


def calls_of_the_datasystem() -> list[int]:
    """Where its library has the addresses of those of its functions that something stands in for."""
    spec = importlib.util.find_spec("yr.datasystem")
    assert spec is not None
    (package,) = spec.submodule_search_locations or ()
    command = ["readelf", "--wide", "--relocs", f"{package}/lib/libdatasystem.so"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = {}
    for line in lines:
        called = re.search(rf"JUMP_SL.* _ZNK?10datasystem\d+(?:{CLASSES})\d+({'|'.join(STAND_INS)})E", line)
        if called is not None:
            found[called[1]] = int(line.split()[0], 16)
    return [found[name] for name in STAND_INS]


@pytest.mark.parametrize("first", [(), ("yr.datasystem",)], ids=["alone", "openYuanrong first"])
def test_the_datasystem_calls_what_stands_in_for_its_own(first: tuple[str, ...]) -> None:
    """csrc/datasystem/stand_ins.hpp: also where openYuanrong's own package was imported before."""
    code = f"""
import ctypes, re
for name in {(*first, "yr_fastload_native._core")!r}:
    __import__(name)
maps = [(*(int(end, 16) for end in line.split()[0].split("-")), line.split()[-1]) for line in open("/proc/self/maps")]
base = min(start for start, _, path in maps if path.endswith("/libdatasystem.so"))
for offset in {calls_of_the_datasystem()!r}:
    called = ctypes.c_uint64.from_address(base + offset).value
    print(*(path.rpartition("/")[2] for start, end, path in maps if start <= called < end))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == [Path(_core.__file__).name] * len(STAND_INS)


GONE = """
import ctypes
from yr_fastload_native import _core

core, library = ctypes.CDLL(_core.__file__), ctypes.CDLL("libdatasystem.so")
pair = "St4pairISt10shared_ptrIN10datasystem13SockConnEntryEES2_INS3_8StubInfoEEE"
get = core[f"_ZN11yr_fastload13get_end_pointEPvRK{pair}RNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEi"]
code = library["_ZNK10datasystem6Status7GetCodeEv"]
status, path = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
stub, entry = ctypes.create_string_buffer(160), ctypes.create_string_buffer(1024)  # of a connection that is gone
who = (ctypes.c_void_p * 4)(ctypes.addressof(entry), None, ctypes.addressof(stub), None)
get(status, None, who, path, 0)
print(code(status))
"""


def test_a_connection_that_is_gone_is_an_error() -> None:
    """The openYuanrong thread that connects again for somebody who gave up looked into null."""
    done = subprocess.run([sys.executable, "-c", GONE], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip() == "1002"  # K_RPC_UNAVAILABLE


def test_typing_marker_and_stub_are_installed() -> None:
    package = Path(fl.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_core" / "__init__.pyi").exists()


def test_checkouts_are_built_with_what_the_package_asks_for() -> None:
    (requires,) = re.findall(r"^requires = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    asked = re.findall(r'"([^"]+)"', requires)
    assert len(asked) == 3
    assert set(asked) <= set((ROOT / "requirements/build.txt").read_text().splitlines())
