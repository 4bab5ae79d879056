"""The kinds of faults: how each strikes, and which ends of a load it allows.

Whatever the fault, bytes that were loaded are right, errors are typed and come in time, and nothing is written later.
"""

from chaos.faults.checkpoint import Checkpoint
from chaos.faults.clocks import ClockJump
from chaos.faults.devices import (
    DeviceCapture,
    DeviceComm,
    DeviceCopy,
    DeviceCorrupt,
    DeviceFreeze,
    DeviceLagging,
    DeviceMalloc,
    DeviceOpaque,
    DeviceRecv,
    DeviceSend,
)
from chaos.faults.fault import Fault, Nothing
from chaos.faults.signals import (
    PublisherKilled,
    PublisherStopped,
    PublisherTerminated,
    ReaderKilled,
    ReaderStopped,
    ReaderTerminated,
    WorkerKilled,
    WorkerRestarted,
    WorkerStopped,
    WorkerTerminated,
)
from chaos.faults.stored import (
    ChunkDeleted,
    ChunkReplaced,
    ChunkTruncated,
    LeaseExpired,
    ManifestDeleted,
    ManifestReplaced,
    ManifestTruncated,
    PoolFull,
)
from chaos.faults.weights import TwoPublishers, WeightsChanged

__all__ = ["KINDS", "Fault"]

KINDS: dict[str, type[Fault]] = {
    "none": Nothing,
    "publisher.sigkill": PublisherKilled,
    "publisher.sigstop": PublisherStopped,
    "publisher.sigterm": PublisherTerminated,
    "reader.sigkill": ReaderKilled,
    "reader.sigstop": ReaderStopped,
    "reader.sigterm": ReaderTerminated,
    "worker.sigkill": WorkerKilled,
    "worker.sigstop": WorkerStopped,
    "worker.sigterm": WorkerTerminated,
    "worker.restart": WorkerRestarted,
    "device.capture": DeviceCapture,
    "device.lagging": DeviceLagging,
    "device.opaque": DeviceOpaque,
    "device.send": DeviceSend,
    "device.recv": DeviceRecv,
    "device.copy": DeviceCopy,
    "device.malloc": DeviceMalloc,
    "device.comm": DeviceComm,
    "device.corrupt": DeviceCorrupt,
    "device.freeze": DeviceFreeze,
    "pool.full": PoolFull,
    "manifest.deleted": ManifestDeleted,
    "manifest.replaced": ManifestReplaced,
    "manifest.truncated": ManifestTruncated,
    "chunk.deleted": ChunkDeleted,
    "chunk.replaced": ChunkReplaced,
    "chunk.truncated": ChunkTruncated,
    "lease.expiry": LeaseExpired,
    "clock.jump": ClockJump,
    "two.publishers": TwoPublishers,
    "weights.changed": WeightsChanged,
    "checkpoint": Checkpoint,
}
