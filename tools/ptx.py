"""Writes csrc/devices/cuda_*_kernel.hpp: the kernels beside them, in CUDA C++, as PTX, by NVRTC from PyPI.

With an NVRTC of CUDA 11.8, so that drivers from 520 on take it; neither a GPU nor a driver is needed. Run it as
``make ptx``; with ``--check`` it writes nothing and says what is out of date.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "csrc" / "devices"
_KERNELS = {"copy": "yrfl_copy_runs", "digest": "yrfl_digest_pieces"}
_OPTIONS = [b"--gpu-architecture=compute_70", b"--std=c++17"]


def _nvrtc() -> ctypes.CDLL:
    found = importlib.util.find_spec("nvidia.cuda_nvrtc")
    if found is None or found.submodule_search_locations is None:
        sys.exit("nvidia-cuda-nvrtc-cu11 is not installed")
    folder = Path(found.submodule_search_locations[0]) / "lib"
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))


def _compiled(nvrtc: ctypes.CDLL, source: Path) -> str:
    program = ctypes.c_void_p()
    size = ctypes.c_size_t()
    text = source.read_bytes()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None) == 0
    options = (ctypes.c_char_p * len(_OPTIONS))(*_OPTIONS)
    if nvrtc.nvrtcCompileProgram(program, len(_OPTIONS), options) != 0:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(log.value.decode())
    assert nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)) == 0
    made = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetPTX(program, made) == 0
    lines = [line.rstrip() for line in made.value.decode().splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _header(what: str, kernel: str, source: Path, ptx: str) -> str:
    name = f"k{what.capitalize()}Kernel"
    return (
        "#pragma once\n\n"
        f"// Made of {source.name} by `make ptx`.\n"
        f"// SHA-256 of that: {hashlib.sha256(source.read_bytes()).hexdigest()}\n"
        "namespace yr_fastload::cuda {\n\n"
        f'inline constexpr const char* {name}Name = "{kernel}";\n\n'
        "// clang-format off\n"
        f'inline constexpr const char* {name} = R"ptx({ptx}\n)ptx";\n'
        "// clang-format on\n\n"
        "}  // namespace yr_fastload::cuda\n"
    )


def main() -> None:
    nvrtc, stale = _nvrtc(), []
    for what, kernel in _KERNELS.items():
        source = _FOLDER / f"cuda_{what}_kernel.cu"
        header = source.with_suffix(".hpp")
        made = _header(what, kernel, source, _compiled(nvrtc, source))
        if "--check" not in sys.argv[1:]:
            header.write_text(made)
        elif not header.exists() or header.read_text() != made:
            stale.append(header.name)
    if stale:
        sys.exit(f"{', '.join(stale)} out of date; run `make ptx`")


if __name__ == "__main__":
    main()
