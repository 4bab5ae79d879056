"""Writes csrc/devices/cuda_copy_kernel.hpp: the kernel in cuda_copy_kernel.cu as PTX, by NVRTC from PyPI.

With an NVRTC of CUDA 11.8, so that drivers from 520 on take it; neither a GPU nor a driver is needed. Run it as
``make ptx``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "csrc" / "devices"
_SOURCE, _HEADER = _FOLDER / "cuda_copy_kernel.cu", _FOLDER / "cuda_copy_kernel.hpp"
_KERNEL = "yrfl_copy_runs"
_OPTIONS = [b"--gpu-architecture=compute_70", b"--std=c++17"]


def _nvrtc() -> ctypes.CDLL:
    found = importlib.util.find_spec("nvidia.cuda_nvrtc")
    if found is None or found.submodule_search_locations is None:
        sys.exit("nvidia-cuda-nvrtc-cu11 is not installed")
    folder = Path(found.submodule_search_locations[0]) / "lib"
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))


def _compiled(nvrtc: ctypes.CDLL, source: str) -> str:
    program = ctypes.c_void_p()
    size = ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), _SOURCE.name.encode(), 0, None, None) == 0
    options = (ctypes.c_char_p * len(_OPTIONS))(*_OPTIONS)
    if nvrtc.nvrtcCompileProgram(program, len(_OPTIONS), options) != 0:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(log.value.decode())
    assert nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetPTX(program, text) == 0
    return text.value.decode()


def main() -> None:
    lines = [line.rstrip() for line in _compiled(_nvrtc(), _SOURCE.read_text()).splitlines()]
    ptx = "\n".join(line for line in lines if line and not line.startswith("//"))
    _HEADER.write_text(
        "#pragma once\n\n"
        "// Made of cuda_copy_kernel.cu by `make ptx`.\n"
        "namespace yr_fastload::cuda {\n\n"
        f'inline constexpr const char* kCopyKernelName = "{_KERNEL}";\n\n'
        "// clang-format off\n"
        f'inline constexpr const char* kCopyKernel = R"ptx({ptx}\n)ptx";\n'
        "// clang-format on\n\n"
        "}  // namespace yr_fastload::cuda\n"
    )


if __name__ == "__main__":
    main()
