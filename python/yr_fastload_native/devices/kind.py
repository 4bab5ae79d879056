"""What a kind of device is, and what a process keeps of a device that it uses."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, ClassVar

import attrs
import msgspec

from yr_fastload_native import _core

__all__ = ["WAIT_S", "DeviceContext", "DeviceId", "DeviceKind"]

_OF_CPUS = "nh64-1"
WAIT_S = 60.0  # for work of others; a device that takes longer hangs


class DeviceKind(abc.ABC):
    """One kind of memory that tensors lie in. Without state: there is one object of each kind, in `registry.KINDS`.

    Attributes:
        name: What torch calls the type of such a device.
        where: Its tensors are, for messages, such as ``"on NPUs"``.
        dlpack_types: DLPack's numbers for its memory, if tensors of it are read by DLPack; torch's are read by torch.
        aliasable: Whether a tensor there can lie in the worker's shared memory itself.
        by_reference: Whether tensors there are published by reference where no setting says how.
        copy_threads: Most threads that are worth it, where no setting says how many.
        digest: One that this kind computes fast in memory of its own, of `_core.digest_names`.
    """

    name: ClassVar[str]
    where: ClassVar[str]
    dlpack_types: ClassVar[tuple[int, ...]] = ()
    aliasable: ClassVar[bool] = False
    by_reference: ClassVar[bool] = False
    copy_threads: ClassVar[int] = 8
    digest: ClassVar[str] = _OF_CPUS

    def at(self, index: int | None) -> DeviceId:
        """The device of this number; the first one where a framework gives none."""
        return DeviceId(self, index or 0)

    @abc.abstractmethod
    def label(self, index: int) -> str:
        """One of them, for messages."""

    @abc.abstractmethod
    def is_available(self) -> bool:
        """Whether this process can use one. Loads the vendor's runtime only where there may be one."""

    @abc.abstractmethod
    def current(self) -> int:
        """Number of the calling thread's device; -1 if it has none."""

    def stands_in(self) -> bool:
        """Whether tensors in ordinary memory count as on such a device: a simulated one has no other memory."""
        return False

    @abc.abstractmethod
    def open_device(self, index: int) -> _core.Device:
        """The native device.

        Raises:
            DeviceError: There is none of this number, or it cannot be used.
        """

    def open(
        self, index: int, connection: _core.Connection | None, *, staging_bytes: int, pin: str = "slots"
    ) -> DeviceContext:
        """What this process uses of a device.

        Args:
            index: Of the device.
            connection: To the worker; None where the loader was given a store.
            staging_bytes: Most page-locked memory beside the tensors.
            pin: The setting of that name.

        Raises:
            DeviceError: As `open_device`.
        """
        device = self.open_device(index)
        return DeviceContext(self, device, _core.PinnedPool(device, staging_bytes))

    @abc.abstractmethod
    def synchronize(self, index: int) -> None:
        """Wait for what the calling thread has asked of a device: its tensors may then be read and written."""

    def private_format(self, tensors: Iterable[Any]) -> tuple[int, str] | None:
        """The first of these tensors whose bytes do not lie as its shape and strides say, and its format."""
        return None

    def readable(self, index: int, address: int, size: int) -> Any:
        """Some bytes of a tensor where the CPU can read them, with the buffer protocol: a copy by the device.

        Args:
            index: Of the device.
            address: Of the first byte.
            size: Bytes.
        """
        return self.open_device(index).read(address, size, deadline_s=WAIT_S)


class DeviceId(msgspec.Struct, frozen=True):  # compared once a tensor
    """One device of this machine.

    Attributes:
        index: Its number among those of its kind; -1 for ordinary memory.
    """

    kind: DeviceKind
    index: int

    def __str__(self) -> str:
        return self.kind.label(self.index)


@attrs.frozen
class DeviceContext:
    """A device, and the memory that transports need beside the tensors on it.

    Attributes:
        pool: Page-locked memory that the device copies from and to.
        locked: What is page-locked in the worker's memory; None where nothing is to be.
    """

    kind: DeviceKind
    device: _core.Device
    pool: _core.PinnedPool
    locked: _core.LockedChunks | None = attrs.field(default=None, kw_only=True)

    @property
    def digest(self) -> str:
        """Of what is published from there: the CPU takes it where it can reach the memory."""
        return _OF_CPUS if self.device.cpu_accessible else self.kind.digest

    def prepare(self) -> None:
        """Start in the background what the first transfer would wait for."""

    def synchronize(self) -> None:
        """Wait for what the calling thread has asked of the device: its tensors may then be read and written."""
        self.kind.synchronize(self.device.index)

    def stats(self) -> dict[str, dict[str, int] | None]:
        """Of ``staging`` and ``landing`` memory; None for what this device has not."""
        found: dict[str, dict[str, int] | None] = {"staging": self.pool.stats(), "landing": None}
        return found if self.locked is None else found | {"pool": self.locked.stats()}
