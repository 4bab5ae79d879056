"""Where tensors of every framework lie, and which are refused."""

from __future__ import annotations

import ctypes
import gc
import math
import weakref
from array import array
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.errors import DeviceError, InvalidArgumentError
from yr_fastload_native.weights.tensor_reader import Tensor

from .tables import SHARED, table_of

ML_ONLY = ["float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"]
TORCH_PLAIN = sorted(
    {
        str(kind).removeprefix("torch.")
        for kind in vars(torch).values()
        if isinstance(kind, torch.dtype) and not str(kind).startswith(("torch.q", "torch.bits"))
    }
)


class DLPackOnly:
    """An object of some other framework: nothing but the protocol is visible."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __dlpack__(self, **settings: Any) -> Any:
        return self._inner.__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return self._inner.__dlpack_device__()


def read(value: Any, *, writable: bool = False) -> Tensor:
    (tensor,) = table_of({"it": value}, writable=writable).tensors
    return tensor


def layout(value: Any) -> tuple[Any, ...]:
    tensor = read(value)
    return tensor.dtype, tensor.shape, tensor.strides, tensor.bytes


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def refused(value: Any, why: str, *, writable: bool = False) -> None:
    with pytest.raises(InvalidArgumentError, match=why) as caught:
        read(value, writable=writable)
    assert "'it'" in str(caught.value)
    assert caught.value.failed_keys == ("it",)
    assert caught.value.op == "load"


# -- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", TORCH_PLAIN)
def test_every_dtype_of_torch(name: str) -> None:
    value = torch.empty(3, 4, dtype=getattr(torch, name))
    tensor = read(value, writable=True)
    assert (tensor.dtype, tensor.shape, tensor.strides) == (name, (3, 4), (4, 1))
    assert tensor.bytes == value.numel() * value.element_size()
    assert tensor.address == value.data_ptr()
    assert tensor.owner is value


@pytest.mark.parametrize("name", SHARED)
def test_torch_numpy_and_dlpack_say_the_same(name: str) -> None:
    expected = layout(torch.empty(2, 5, dtype=getattr(torch, name)))
    assert expected[0] == name
    assert layout(np.zeros((2, 5), numpy_dtype(name))) == expected
    assert layout(DLPackOnly(torch.empty(2, 5, dtype=getattr(torch, name)))) == expected


@pytest.mark.parametrize("name", [name for name in SHARED if hasattr(np, name) or name == "bool"])
def test_dlpack_and_buffers_of_numpy_say_the_same(name: str) -> None:
    value = np.zeros((2, 5), name)
    assert layout(DLPackOnly(value)) == layout(value)
    if name != "bool":
        assert layout(memoryview(value)) == layout(value)


@pytest.mark.parametrize("name", ML_ONLY)
def test_dtypes_that_only_ml_dtypes_has(name: str) -> None:
    value = np.zeros((2, 5), numpy_dtype(name))
    assert layout(value) == (name, (2, 5), (5, 1), 10)
    assert read(value).address == value.ctypes.data


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_arrays_of_the_standard_library(code: str) -> None:
    value = array(code, [1, 2, 3])
    tensor = read(value, writable=True)
    kind = "float" if code in "fd" else "int" if code.islower() else "uint"
    assert tensor.dtype == f"{kind}{8 * value.itemsize}"
    assert (tensor.shape, tensor.strides, tensor.bytes) == ((3,), (1,), 3 * value.itemsize)
    assert tensor.address == value.buffer_info()[0]


def test_bytes_like_objects() -> None:
    assert layout(bytearray(5)) == layout(memoryview(bytearray(5))) == layout(b"12345") == ("uint8", (5,), (1,), 5)
    assert layout(memoryview(bytearray(8)).cast("?")) == ("bool", (8,), (1,), 8)
    assert layout(memoryview(bytearray(24)).cast("f", (2, 3))) == ("float32", (2, 3), (3, 1), 24)
    assert layout((ctypes.c_uint16 * 3 * 2)()) == ("uint16", (2, 3), (3, 1), 12)
    assert layout(memoryview(np.zeros(2, np.complex64))) == ("complex64", (2,), (1,), 16)


def test_a_buffer_cannot_be_resized_while_the_table_lives() -> None:
    value = bytearray(5)
    table = table_of({"it": value})
    with pytest.raises(BufferError):
        value.append(1)
    del table
    value.append(1)


# -- shapes and strides -----------------------------------------------------------------------------------------------


def both(shape: tuple[int, ...]) -> list[Any]:
    return [torch.zeros(shape), np.zeros(shape, np.float32), DLPackOnly(torch.zeros(shape))]


def test_scalars() -> None:
    for value in both(()):
        assert layout(value) == ("float32", (), (), 4)
        assert read(value).address


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)])
def test_empty_tensors_have_no_address(shape: tuple[int, ...]) -> None:
    for value in both(shape):
        tensor = read(value)
        assert (tensor.shape, tensor.bytes, tensor.address) == (shape, 0, 0)
    one, two = torch.zeros(shape), torch.zeros(shape[::-1]).permute(*range(len(shape))[::-1])
    assert read(one).strides == read(two).strides


@settings(deadline=None)
@given(st.permutations([0, 1, 2, 3]), st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_permuted_tensors_are_dense(order: list[int], shape: list[int]) -> None:
    as_torch, as_numpy = torch.zeros(shape).permute(order), np.zeros(shape, np.float32).transpose(order)
    expected = layout(as_torch)
    assert layout(as_numpy) == layout(DLPackOnly(as_torch)) == expected
    dtype, dense_shape, strides, size = expected
    assert (dtype, dense_shape, size) == ("float32", tuple(as_torch.shape), 4 * math.prod(shape))
    for mine, theirs, length in zip(strides, as_torch.stride(), dense_shape, strict=True):
        assert mine == theirs or length == 1
    assert read(as_torch).address == as_torch.data_ptr()


def test_channels_last() -> None:
    value = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert layout(value) == ("float32", (2, 3, 4, 5), (60, 1, 15, 3), 480)
    assert layout(torch.zeros(2, 3, 4, 5)) != layout(value)


def test_strides_of_dimensions_of_size_1_are_canonical() -> None:
    views = [torch.zeros(3, 1, 4), torch.zeros(9).as_strided((1, 9, 1), (77, 1, 5)), torch.zeros(2, 2).t()[None]]
    wants = [(4, 4, 1), (9, 1, 1), (4, 1, 2)]
    for value, want in zip(views, wants, strict=True):
        assert read(value).strides == want
    assert read(np.zeros((5, 7), np.float32)[2:3]).strides == read(torch.zeros(1, 7)).strides == (7, 1)


def test_a_contiguous_slice_begins_where_it_begins() -> None:
    store = torch.arange(40.0).view(10, 4)
    assert read(store[3:5]).address == store.data_ptr() + 48
    as_numpy = np.zeros((10, 4), np.float32)
    assert read(as_numpy[3:5]).address == as_numpy.ctypes.data + 48
    assert read(DLPackOnly(store[3:5])).address == store.data_ptr() + 48


NOT_DENSE = [
    torch.zeros(3, 1).expand(3, 4),
    torch.zeros(1).expand(2),
    torch.zeros(4, 4)[:, 1:],
    torch.zeros(8)[::2],
    torch.zeros(9).as_strided((3, 3), (2, 1)),
    np.broadcast_to(np.zeros((1, 4)), (3, 4)),
    np.zeros((4, 4))[:, :2],
    np.zeros(8)[::2],
    np.zeros(8)[::-1],
    np.zeros((4, 4))[::-1],
    memoryview(bytearray(8))[::2],
    memoryview(bytearray(8))[::-1],
    DLPackOnly(torch.zeros(4, 4)[:, 1:]),
    DLPackOnly(torch.zeros(3, 1).expand(3, 4)),
    DLPackOnly(np.zeros(8)[::-1]),
]


@pytest.mark.parametrize("value", NOT_DENSE, ids=lambda value: type(value).__name__)
def test_what_is_not_dense_is_refused(value: Any) -> None:
    refused(value, "is not dense")


def test_strides_between_elements_are_refused() -> None:
    packed = np.zeros(4, np.dtype([("a", np.uint8), ("b", np.float32)]))
    refused(packed["b"], "no multiples of 4 bytes")


# -- refusals ---------------------------------------------------------------------------------------------------------


def frozen(value: Any) -> Any:
    value.flags.writeable = False
    return value


READ_ONLY = [
    lambda: frozen(np.zeros(3)),
    lambda: np.float32(1),  # by its buffer: __array_interface__ of a scalar is the address of a copy
    lambda: b"abc",
    lambda: memoryview(b"abc"),
    lambda: memoryview(bytearray(3)).toreadonly(),
]


@pytest.mark.parametrize("make", READ_ONLY)
def test_read_only_memory_can_be_published_but_not_loaded_into(make: Any) -> None:
    value = make()
    assert read(value).bytes > 0
    refused(value, "is read-only", writable=True)


def test_a_numpy_scalar_is_read_where_it_is() -> None:
    value = np.float32(1.5)
    assert ctypes.c_float.from_address(read(value).address).value == 1.5


def lazy() -> Any:
    return torch.nn.LazyLinear(3).weight


UNUSABLE = {
    "sparse": (lambda: torch.zeros(3, 3).to_sparse(), "layout torch.sparse_coo"),
    "csr": (lambda: torch.sparse_csr_tensor([0, 1], [0], [1.0], size=(1, 1)), "layout torch.sparse_csr"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8), "quantized=True"),
    "conjugate": (lambda: torch.zeros(3, dtype=torch.complex64).conj(), "conjugate"),
    "negative": (lambda: torch.zeros(3, dtype=torch.complex64).conj().imag, "lazy"),
    "uninitialized": (lazy, "not initialized"),
    "objects": (lambda: np.array([object()]), "plain native numbers"),
    "structures": (lambda: np.zeros(2, "i4,f4"), "plain native numbers"),
    "no fields": (lambda: np.zeros(2, np.dtype([])), "plain native numbers"),
    "void": (lambda: np.zeros(2, "V8"), "plain native numbers"),
    "swapped": (lambda: np.zeros(2, np.dtype(np.float32).newbyteorder()), "plain native numbers"),
    "texts": (lambda: np.array(["a"]), "plain native numbers"),
    "byte texts": (lambda: np.array([b"a"]), "plain native numbers"),
    "variable texts": (lambda: np.array(["a"], np.dtypes.StringDType()), "plain native numbers"),
    "times": (lambda: np.zeros(2, "M8[s]"), "plain native numbers"),
    "text": (lambda: "weights", "is a str"),
    "nothing": (lambda: None, "is a NoneType"),
    "a number": (lambda: 3, "is a int"),
    "a list": (lambda: [1.0, 2.0], "is a list"),
    "pointers": (lambda: (ctypes.c_void_p * 2)(), "buffer format"),
    "swapped buffer": (lambda: (ctypes.c_float.__ctype_be__ * 2)(), "buffer format"),
    "swapped view": (lambda: memoryview(np.zeros(2, np.dtype(np.float32).newbyteorder())), "buffer format"),
    "dlpack with gradient": (lambda: DLPackOnly(torch.zeros(2, requires_grad=True)), "DLPack cannot export"),
    "dlpack read-only": (lambda: DLPackOnly(frozen(np.zeros(2))), "DLPack cannot export"),
    "dlpack conjugate": (lambda: DLPackOnly(torch.zeros(3, dtype=torch.complex64).conj()), "DLPack cannot export"),
    "dlpack of 4 bits": (lambda: DLPackOnly(torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)), "4 bits"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:Sparse invariant", "ignore:.*quantiz", "ignore:Lazy modules")
@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_move_is_refused_by_name(kind: str) -> None:
    make, why = UNUSABLE[kind]
    refused(make(), why)


def test_tensors_elsewhere_are_refused_by_name() -> None:
    with pytest.raises(DeviceError, match=r"tensor 'it' is on meta") as caught:
        read(torch.zeros(3, device="meta"))
    assert caught.value.failed_keys == ("it",)


class FakeDLPack:
    def __init__(self, result: Any) -> None:
        self.result = result

    def __dlpack__(self, **_: Any) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize("result", [None, 3, ValueError("no"), RuntimeError("no"), BufferError("no"), TypeError("no")])
def test_a_broken_dlpack_is_refused_by_name(result: Any) -> None:
    refused(FakeDLPack(result), "DLPack cannot export")


def test_a_capsule_is_used_once() -> None:
    capsule = torch.zeros(3).__dlpack__()
    assert _core.dlpack_view(capsule).shape == [3]
    with pytest.raises(ValueError, match="not an unused DLPack capsule"):
        _core.dlpack_view(capsule)
    refused(FakeDLPack(capsule), "not an unused DLPack capsule")


# -- lifetimes --------------------------------------------------------------------------------------------------------


def test_the_table_keeps_memory_and_lets_it_go() -> None:
    for wrap in (lambda value: value, DLPackOnly):
        value = np.ones(1000)
        gone = weakref.ref(value)
        table = table_of({"it": wrap(value)})
        del value
        gc.collect()
        assert gone() is not None
        assert ctypes.c_double.from_address(table.tensors[0].address).value == 1.0
        del table
        gc.collect()
        assert gone() is None


def test_dlpack_memory_lives_although_its_exporter_goes() -> None:
    value = torch.full((1000,), 7.0)
    view = _core.dlpack_view(value.__dlpack__())
    del value
    gc.collect()
    torch.full((1000,), 9.0)  # would take the memory, had it been freed
    assert ctypes.c_float.from_address(view.address + 4 * 999).value == 7.0
