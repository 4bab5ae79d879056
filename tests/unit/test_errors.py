"""One table: the C++ rows are the Python classes."""

from __future__ import annotations

import inspect
from array import array

import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core, errors
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.testing import MemoryStore

BASES = {
    "InvalidArgumentError": ValueError,
    "NotPublishedError": LookupError,
    "LayoutMismatchError": ValueError,
    "IntegrityError": RuntimeError,
    "PartialTransferError": RuntimeError,
    "TransferTimeoutError": TimeoutError,
    "UnavailableError": ConnectionError,
    "ResourceExhaustedError": MemoryError,
    "DeviceError": RuntimeError,
}


def test_the_table_and_the_classes_are_the_same() -> None:
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, FastLoadError) and kind is not FastLoadError
    }
    rows = _core.error_table()
    assert [name for _, name, _, _ in rows] == list(classes)
    for code, name, retryable, meaning in rows:
        kind = classes[name]
        assert (kind.code, kind.retryable) == (code, retryable)
        assert inspect.getdoc(kind).splitlines()[0] == meaning
    assert len({code for code, _, _, _ in rows}) == len(rows)


def test_every_class_is_public_and_has_its_standard_base() -> None:
    assert {name for _, name, _, _ in _core.error_table()} == set(BASES)
    assert set(errors.__all__) == {*BASES, "FastLoadError"}
    for name, base in BASES.items():
        kind = getattr(errors, name)
        assert issubclass(kind, FastLoadError)
        assert issubclass(kind, base)
        assert getattr(fl, name) is kind
    assert issubclass(FastLoadError, RuntimeError)


@pytest.mark.parametrize("name", BASES)
def test_what_an_error_carries(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("the detail", op="load", failed_keys=["a", "b"])
    assert str(error) == "load: the detail"
    assert (error.op, error.failed_keys) == ("load", ("a", "b"))
    assert kind("x", op="y").failed_keys == ()
    with pytest.raises(BASES[name]):
        raise error


def test_a_native_error_is_the_python_class_with_all_it_carries() -> None:
    with pytest.raises(ValueError, match=r"^plan: two tensors overlap") as caught:
        _core.find_sharing(array("Q", [100, 104]), array("Q", [8, 8]))
    error = caught.value
    assert type(error) is errors.InvalidArgumentError
    assert (error.code, error.op, error.failed_keys, error.retryable) == ("INVALID_ARGUMENT", "plan", ("0", "1"), False)


def test_each_native_code_becomes_its_class() -> None:
    pool = _core.PinnedPool(_core.cpu_device(), 1 << 16)
    with pytest.raises(MemoryError, match=r"^staging: 65537 bytes") as exhausted:
        pool.lease(65537, deadline_s=1)
    assert type(exhausted.value) is errors.ResourceExhaustedError
    assert (exhausted.value.code, exhausted.value.op) == ("RESOURCE_EXHAUSTED", "staging")
    assert exhausted.value.retryable

    kept = pool.lease(1, deadline_s=1)
    with pytest.raises(TimeoutError) as late:
        pool.lease(1, deadline_s=0)
    assert type(late.value) is errors.TransferTimeoutError
    del kept

    store = MemoryStore()
    store.set_faults(refuse_seal=["k0"])
    plan = _core.make_plan(array("Q", [8]), chunk_bytes=64, max_blobs=1)
    data = array("Q", [7])
    with pytest.raises(ConnectionError, match=r"^seal: .*k0") as gone:
        _core.publish_chunks(
            store, plan, array("Q", [data.buffer_info()[0]]), key_prefix="k", ttl_s=9, copy_threads=1,
            chunks_in_flight=1, verify=True, deadline_s=9,
        )  # fmt: skip
    assert type(gone.value) is errors.UnavailableError
    assert gone.value.failed_keys == ("k0",)
