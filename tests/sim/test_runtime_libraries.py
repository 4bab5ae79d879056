"""What the linker sees of the simulated runtime: symbols, names, and devices found with glob(3)."""

import ctypes
import signal
import subprocess
from pathlib import Path

import pytest

from yr_fastload_native import sim

from .runtime import run

LIBRARIES = ["libascendcl.so", "libhccl.so", "libruntime.so", "libhccl_plf.so", "libra.so"]


def symbols(path, *options):
    listing = subprocess.run(["nm", "-D", *options, path], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in listing.splitlines()}


def defined():
    return set().union(*(symbols(sim.library_directory() / name, "--defined-only") for name in LIBRARIES))


def test_everything_that_the_plugin_needs_of_cann_is_there():
    import importlib.util

    found = importlib.util.find_spec("yr.datasystem").submodule_search_locations[0]
    wanted = symbols(Path(found) / "lib" / "libacl_plugin.so", "--undefined-only")
    prefixes = ("acl", "Hccl", "hrt", "rt", "Ra", "_Z11Hccl", "_Z13Hccl")
    wanted = {name for name in wanted if name.startswith(prefixes) and not name.startswith(("acl_", "realloc"))}
    assert len(wanted) > 80
    assert wanted - defined() == set()


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_show_their_interface_alone(name):
    own = {
        symbol for symbol in symbols(sim.library_directory() / name, "--defined-only") if not symbol.startswith("_Z")
    }
    assert all(symbol.startswith(("acl", "Hccl", "hrt", "rt", "Ra", "Msprof", "yrfl_sim_")) for symbol in own), own


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("libascendcl.so", "aclopCompileAndExecute"),
        ("libascendcl.so", "aclrtMemImportFromShareableHandle"),
        ("libra.so", "RaInit"),
        ("libra.so", "RaSendWr"),
        ("libruntime.so", "rtIpcOpenMemory"),
        ("libruntime.so", "rtRDMADBSend"),
        ("libhccl_plf.so", "_Z11HcclNetInit13NICDeploymentiibb"),
    ],
)
def test_what_is_not_simulated_says_so_and_aborts(library, name):
    found = run(f"ctypes.CDLL({library!r})[{name!r}]()", code=None)
    assert found.code == -signal.SIGABRT
    assert f"yr_fastload sim: {name} is not simulated" in found.stderr


FIND = """
class Found(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_size_t), ("paths", ctypes.POINTER(ctypes.c_char_p)),
        ("offset", ctypes.c_size_t), ("rest", ctypes.c_void_p * 6),
    ]
libc = ctypes.CDLL(None)
def find(function, pattern, flags=0):
    found = Found()
    result = getattr(libc, function)(pattern.encode(), flags, None, ctypes.byref(found))
    paths = sorted(found.paths[i].decode() for i in range(found.count)) if result == 0 else None
    libc.globfree(ctypes.byref(found))
    return [result, paths]
"""


@pytest.mark.parametrize("function", ["glob", "glob64"])
def test_devices_are_found_with_glob(function, tmp_path):
    (tmp_path / "here.txt").touch()
    (tmp_path / "davinci0").touch()
    said = run(
        FIND
        + f"""
for pattern in ["/dev/davinci[0-9]*", "/dev/davinci*", "/dev/davinci[12]", "/dev/davinci9", {str(tmp_path / "*.txt")!r},
                {str(tmp_path / "davinci*")!r}, "/dev/nul*", "/dev/davinci_manager*"]:
    say(find({function!r}, pattern))
""",
        YR_FASTLOAD_SIM_DEVICES=3,
    ).said
    devices = [f"/dev/davinci{i}" for i in range(3)]
    no_match = 3  # GLOB_NOMATCH
    assert said == [
        [0, devices],
        [0, devices],
        [0, devices[1:]],
        [no_match, None],
        [0, [str(tmp_path / "here.txt")]],
        [0, [str(tmp_path / "davinci0")]],
        [0, ["/dev/null"]],
        [no_match, None],
    ]


def test_the_libraries_of_this_process_are_not_the_simulated_ones():
    assert not sim.active()
    with pytest.raises(OSError, match="libascendcl"):
        ctypes.CDLL("libascendcl.so")
