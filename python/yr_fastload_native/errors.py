"""The errors that users can see: one class per row of the table in ``csrc/core/error.hpp``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "DeviceError",
    "FastLoadError",
    "IntegrityError",
    "InvalidArgumentError",
    "LayoutMismatchError",
    "NotPublishedError",
    "PartialTransferError",
    "ResourceExhaustedError",
    "TransferTimeoutError",
    "UnavailableError",
]


class FastLoadError(RuntimeError):
    """Base of all errors that this package raises on purpose.

    Attributes:
        code: Stable name of the kind of error, the same in C++ and Python.
        op: The operation that failed: ``"load"``, ``"publish"``, ``"worker start"``, ...
        failed_keys: Keys, tensor names or paths that it failed on; may be empty.
        retryable: Whether the same call may succeed later, unchanged.
        memory_written: Whether the load that failed may have written to some tensors.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    memory_written: bool = False

    def __init__(self, detail: str, *, op: str, failed_keys: Sequence[str] = ()) -> None:
        super().__init__(f"{op}: {detail}")
        self.op = op
        self.failed_keys = tuple(failed_keys)


class InvalidArgumentError(FastLoadError, ValueError):
    """The caller passed something that can never work."""

    code = "INVALID_ARGUMENT"


class NotPublishedError(FastLoadError, LookupError):
    """No live source publishes this identity; load from disk."""

    code = "NOT_PUBLISHED"
    retryable = True


class LayoutMismatchError(FastLoadError, ValueError):
    """Names, dtypes, shapes, strides or sharing differ from what was published; nothing was written."""

    code = "LAYOUT_MISMATCH"


class IntegrityError(FastLoadError):
    """Bytes or a manifest do not match their digest or their format."""

    code = "INTEGRITY"


class PartialTransferError(FastLoadError):
    """Some chunks could not be transferred; `failed_keys` names them."""

    code = "PARTIAL_TRANSFER"
    retryable = True


class TransferTimeoutError(FastLoadError, TimeoutError):
    """The call's deadline passed before it was done."""

    code = "TRANSFER_TIMEOUT"
    retryable = True


class UnavailableError(FastLoadError, ConnectionError):
    """The openYuanrong worker cannot be reached, or could not be started."""

    code = "UNAVAILABLE"
    retryable = True


class ResourceExhaustedError(FastLoadError, MemoryError):
    """A limit was reached: the worker's shared memory or clients, page-locked memory, tensors, manifest size."""

    code = "RESOURCE_EXHAUSTED"
    retryable = True


class DeviceError(FastLoadError):
    """A device call failed, or the transport cannot reach this device."""

    code = "DEVICE"
