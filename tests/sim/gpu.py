"""What scripts on a simulated CUDA driver are made of: its functions by ctypes, and arrays in its memory."""

from __future__ import annotations

import ctypes
from array import array

cuda = ctypes.CDLL("libcuda.so.1")

MIB = 1 << 20
_ITEMS = {"|b1": 1, "|u1": 1, "|i1": 1, "<f2": 2, "<i2": 2, "<u2": 2, "<f4": 4, "<i4": 4, "<f8": 8, "<i8": 8, "<c8": 8}


def ok(result):
    if result != 0:
        raise AssertionError(f"failed with {result}")


def use(device=0):
    """Make a device the thread's own."""
    context = ctypes.c_void_p()
    ok(cuda.cuInit(0))
    ok(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    ok(cuda.cuCtxSetCurrent(context))
    return context


def malloc(size):
    address = ctypes.c_uint64()
    ok(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)))
    return address


def pinned(size):
    data = ctypes.c_void_p()
    ok(cuda.cuMemHostAlloc(ctypes.byref(data), ctypes.c_size_t(size), 0))
    return data


def _made(function):
    handle = ctypes.c_void_p()
    ok(function(ctypes.byref(handle), 0))
    return handle


def stream():
    return _made(cuda.cuStreamCreate)


def event():
    return _made(cuda.cuEventCreate)


def upload(address, data, size):
    return cuda.cuMemcpyHtoD_v2(address, data, ctypes.c_size_t(size))


def upload_async(address, data, size, on):
    return cuda.cuMemcpyHtoDAsync_v2(address, data, ctypes.c_size_t(size), on)


def download(data, address, size):
    return cuda.cuMemcpyDtoH_v2(data, address, ctypes.c_size_t(size))


class Array:
    """Dense, in a device's memory, with bytes of its own; `__cuda_array_interface__` is all that it offers."""

    def __init__(self, data, dtype="|u1", shape=None, device=0, offset=0):
        use(device)
        self.size = len(data)
        self.start = malloc(max(1, self.size + offset))
        self.address = self.start.value + offset
        if data:
            ok(upload(ctypes.c_uint64(self.address), data, self.size))
        self.__cuda_array_interface__ = {
            "version": 3,
            "typestr": dtype,
            "shape": (self.size // _ITEMS[dtype],) if shape is None else shape,
            "data": (self.address if data else 0, False),
            "strides": None,
            "stream": None,
        }

    @property
    def bytes(self):
        data = ctypes.create_string_buffer(max(1, self.size))
        if self.size:
            ok(download(data, ctypes.c_uint64(self.address), self.size))
        return data.raw[: self.size]


class _Managed(ctypes.Structure):
    """A DLManagedTensor of one dimension of bytes."""

    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p), ("offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    ]  # fmt: skip


class Exported:
    """The same by DLPack alone."""

    def __init__(self, data, device=0):
        self._array = Array(data, device=device)
        self._shape = (ctypes.c_int64 * 1)(len(data))
        self._managed = _Managed(self._array.address, 2, device, 1, 1, 8, 1, self._shape, None, 0, None, None)

    def __dlpack__(self, **_):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._managed), b"dltensor", None)

    @property
    def bytes(self):
        return self._array.bytes


class Transfer:
    """Arrays that are published into a store of this process, and others that they are loaded into."""

    def __init__(self, sizes, *, pool_bytes=64 * MIB, chunk_bytes=4 * MIB, max_blobs=10_000, device=0):
        from runtime import pattern

        from yr_fastload_native import _core
        from yr_fastload_native.testing import MemoryStore

        self.core = _core
        self.device = _core.cuda_device(device)
        self.pool = _core.PinnedPool(self.device, pool_bytes)
        self.store = MemoryStore()
        self.locked = None
        self.plan = _core.make_plan(array("Q", sizes), chunk_bytes=chunk_bytes, max_blobs=max_blobs)
        self.source = [Array(pattern(size, 1 + i % 200), device=device) for i, size in enumerate(sizes)]
        self.target = [Array(bytes(size), device=device) for size in sizes]

    def publish(self, **changed):
        settings = {"copy_threads": 2, "deadline_s": 30} | changed
        self.digests, _ = self.core.publish_chunks(
            self.store, self.plan, self._addresses(self.source), key_prefix="c-", ttl_s=600, chunks_in_flight=2,
            verify=True, device=self.device, pool=self.pool, **settings
        )  # fmt: skip

    def load(self, **changed):
        """Bytes, whether they were verified, and failures."""
        return self._load(self.core.StoreReader(self.store, "c-", first_batch=4, batch=2), self.digests, **changed)

    def shared(self):
        """What another process needs to read the arrays that are published here."""
        there = self._addresses(self.source)
        allocations = [(handle.hex(), *place) for handle, *place in self.core.share_memory(self.device, there)]
        return {"allocations": allocations, "there": list(there), "digests": self.take_digests()}

    def load_shared(self, shared, digests=True, **changed):
        """As `load`, from another process."""
        self.reader = self.core.IpcReader(
            self.device, self.pool, self.plan, peer="another",
            allocations=[(bytes.fromhex(handle), *place) for handle, *place in shared["allocations"]],
            there=array("Q", shared["there"]), addresses=self._addresses(self.target), digests=digests,
        )  # fmt: skip
        self.reader.open(deadline_s=30)
        return self._load(self.reader, array("Q", shared["digests"]), **changed)

    def _load(self, reader, digests, **changed):
        settings = {
            "copy_threads": 2,
            "deadline_s": 30,
            "stage": False,
            "verify": True,
            "locked": self.locked,
        } | changed
        done, verified, _, failures = self.core.load_chunks(
            reader, self.device, self.pool, self.plan, self._addresses(self.target),
            array("Q", range(self.plan.chunks)), digests=digests, chunks_in_flight=4, **settings
        )  # fmt: skip
        return done, verified, failures

    def clear(self):
        """The target's bytes."""
        for each in self.target:
            if each.size:
                ok(upload(ctypes.c_uint64(each.address), bytes(each.size), each.size))

    def take_digests(self):
        return list(
            self.core.digest_chunks(
                self.plan, self._addresses(self.source), copy_threads=2, deadline_s=30, device=self.device,
                pool=self.pool,
            )
        )  # fmt: skip

    @property
    def equal(self):
        return all(one.bytes == other.bytes for one, other in zip(self.source, self.target, strict=True))

    @staticmethod
    def _addresses(arrays):
        return array("Q", [each.address if each.size else 0 for each in arrays])


def failure(function, *arguments, **settings):
    """Code and message of the error that it ends with; None if it does not."""
    from yr_fastload_native import FastLoadError

    try:
        function(*arguments, **settings)
    except FastLoadError as error:
        return [error.code, str(error)]
    return None
