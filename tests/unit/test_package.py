"""The installed package: what importing it costs, what its extension looks for, what it exports."""

from __future__ import annotations

import importlib.metadata
import json
import os
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


def test_the_datasystem_calls_what_stands_in_for_its_own() -> None:
    """csrc/datasystem/null_handles.cpp: found before the library's own functions."""
    command = [sys.executable, "-c", "import yr_fastload_native._core"]
    environment = {**os.environ, "LD_DEBUG": "bindings"}
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True, env=environment)
    for name in ("SetPollOut", "UnsetPollOut", "GetEndPoint", "CheckTranPointer", "RecordEvent"):
        bound = [line for line in done.stderr.splitlines() if f"{len(name)}{name}E" in line]
        assert any("libdatasystem.so [0] to " in line and f"to {_core.__file__} [0]" in line for line in bound), bound


GONE = """
import ctypes
from yr_fastload_native import _core

core, library = ctypes.CDLL(_core.__file__), ctypes.CDLL("libdatasystem.so")
string = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
get = core["_ZN10datasystem17ZmqSockConnHelper11GetEndPointERKSt4pairISt10shared_ptrINS_13SockConnEntryEES2_"
           f"INS_8StubInfoEEER{string}i"]
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
