"""Tensors of a process with simulated devices: what weights are made of, where they lie, and what bytes they have."""

from __future__ import annotations

import ctypes
import sys


def memory_of(tensor):
    """Its bytes, in the order in which they lie in memory."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        return tensor.bytes()
    start = tensor.storage_offset() * tensor.element_size()
    return flat(tensor)[start : start + tensor.nbytes].cpu().numpy()


def flat(tensor):
    """All bytes of its storage: another tensor, which counts writes for itself."""
    import torch

    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def same_bytes(one, other):
    """Of tensors of the same layout."""
    return bool((memory_of(one) == memory_of(other)).all())


def on_device(tensors, index=None):
    """Copies in the memory of a device, by default the thread's; what shares memory does so there."""
    import ml_dtypes
    import numpy as np

    from yr_fastload_native import _core, sim
    from yr_fastload_native.devices.cuda import CUDA
    from yr_fastload_native.devices.npu import NPU
    from yr_fastload_native.measuring.device_arrays import DeviceArray

    kind = CUDA if sim.active("cuda") else NPU
    device, blocks, made = kind.at(max(0, kind.current()) if index is None else index), {}, {}
    native = kind.open_device(device.index)
    for name, value in tensors.items():
        storage = value.untyped_storage()
        if storage.data_ptr() not in blocks:
            block = blocks[storage.data_ptr()] = _core.DeviceMemory(native, storage.nbytes() + 1)
            block.write(0, flat(value).numpy(), deadline_s=60)
        name_of = str(value.dtype).removeprefix("torch.")
        dtype = np.dtype(getattr(ml_dtypes, name_of, name_of))
        offset = value.storage_offset() * value.element_size()
        made[name] = DeviceArray(device, blocks[storage.data_ptr()], offset, dtype, tuple(value.shape), value.stride())
    return made


def on_npu(tensors):
    """As `on_device`, in tensors of torch_npu."""
    import torch

    storages, made = {}, {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        if place not in storages:
            storages[place] = flat(value).to("npu").untyped_storage()
        made[name] = torch.empty(0, dtype=value.dtype, device="npu").set_(
            storages[place], value.storage_offset(), value.shape, value.stride()
        )
    return made


def placed(tensors, index=None):
    """The same bytes where this process's device has them, or where the one of this number has."""
    from yr_fastload_native import sim

    if "torch_npu" in sys.modules:
        return on_npu(tensors)
    return on_device(tensors, index) if sim.opaque() else tensors


def overwrite(tensors):
    """Behind the back of torch and the loader."""
    import numpy as np
    import torch

    for value in tensors.values():
        if isinstance(value, torch.Tensor):
            flat(value).copy_(torch.full_like(flat(value).cpu(), 0x5A))
        else:
            value.memory.write(0, np.full(value.memory.bytes, 0x5A, np.uint8), deadline_s=60)


def set_device(index):
    """Of this thread, as `torch.npu.set_device` does; loaders take it. On a GPU they take that of the tensors."""
    from yr_fastload_native import sim

    if sim.active("cuda"):
        return
    ctypes.CDLL("libascendcl.so").aclrtSetDevice(index)


def DTYPES(torch):  # noqa: N802
    names = "uint8 int8 int16 int32 int64 bool float16 bfloat16 float32 float64 float8_e4m3fn float8_e5m2 complex64"
    return [getattr(torch, name) for name in names.split()]


def weights(seed, count, size):
    import torch

    if not count:
        return zoo(seed)
    made = {}
    for index in range(count):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        made[f"w{index}"] = torch.randint(0, 256, (size + index,), dtype=torch.uint8, generator=generator)
    return made


def zoo(seed):
    """One tensor of every kind: all dtypes, scalars, empty ones, other orders of dimensions, views, tied ones."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def random(*shape, dtype=torch.uint8):
        item = torch.empty(0, dtype=dtype).element_size()
        bytes_ = torch.randint(0, 2 if dtype is torch.bool else 256, (*shape, item), generator=generator)
        made = bytes_.to(torch.uint8).view(dtype).squeeze(-1)
        return made.nan_to_num(0.0) if dtype in (torch.float16, torch.float32, torch.float64) else made

    made = {str(dtype): random(5, 7, dtype=dtype) for dtype in DTYPES(torch)}
    made["scalar"] = random(dtype=torch.float32)
    made["empty"] = random(0, 3)
    made["transposed"] = random(300, 200, dtype=torch.bfloat16).t()
    made["channels_last"] = random(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    base = random(1 << 20)
    made["base"], made["view"], made["tied"] = base, base[1 << 10 : 1 << 12], base
    made["large"] = random((5 << 20) + 3)
    return made


def blank(wanted):
    """The same tensors with other bytes; what shares memory in one shares it in the other."""
    storages = {}
    made = {}
    for name, value in wanted.items():
        storage = value.untyped_storage()
        if storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = storage.clone().fill_(0x5A)
        made[name] = value.new_empty(0).set_(
            storages[storage.data_ptr()], value.storage_offset(), value.shape, value.stride()
        )
    return made
