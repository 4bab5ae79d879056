"""
Native core of yr_fastload_native; private, use the package's classes.
"""

from __future__ import annotations
import collections.abc
import typing
import typing_extensions
from . import testing

__all__: list[str] = [
    "BLOB_ALIGNMENT",
    "Blob",
    "ChunkReader",
    "Connection",
    "D2dReader",
    "D2dSource",
    "DIGEST_BLOCK_BYTES",
    "Device",
    "DeviceMemory",
    "HeteroReceiver",
    "IpcReader",
    "Lease",
    "LockedChunks",
    "MOST_CONNECTIONS_LEFT_BEHIND",
    "MOST_THREADS_LEFT_BEHIND",
    "ObjectStore",
    "PinnedLease",
    "PinnedPool",
    "Plan",
    "PrivateMemory",
    "STAGED_CHUNK_BYTES",
    "StagedReader",
    "StoreReader",
    "TensorView",
    "acl_device",
    "acl_device_count",
    "are_names",
    "buffer_view",
    "chunk_keys",
    "connect_host_store",
    "connections_left_behind",
    "copy_and_digest",
    "cpu_device",
    "cuda_device",
    "cuda_device_count",
    "cuda_device_name",
    "cuda_device_of",
    "cuda_device_reaches",
    "cuda_driver_version",
    "current_acl_device",
    "digest",
    "digest_backend",
    "digest_block_sums",
    "digest_chunks",
    "digest_keys",
    "digest_names",
    "digests_on_device",
    "dlpack_view",
    "encode_entries",
    "end_transfers",
    "error_table",
    "expect_exit",
    "find_sharing",
    "fold_digests",
    "load_chunks",
    "make_plan",
    "map_chunks",
    "matrix_numbers",
    "memcpy_seconds",
    "publish_chunks",
    "publish_staged",
    "read_tensors",
    "ready_workers",
    "row_sums",
    "share_memory",
    "testing",
    "threads_left_behind",
    "transfer_peaks",
]

class Blob:
    """
    One run of bytes of one tensor, and its place in a chunk.
    """
    @property
    def bytes(self) -> int: ...
    @property
    def chunk_offset(self) -> int:
        """
        Where it begins in the chunk, bytes.
        """
    @property
    def tensor(self) -> int:
        """
        Index of the tensor.
        """
    @property
    def tensor_offset(self) -> int:
        """
        Where it begins in the tensor, bytes.
        """

class Plan:
    """
    How tensors are divided into chunks of blobs; immutable.
    """
    def chunk(self, index: typing.SupportsInt | typing.SupportsIndex) -> list[Blob]:
        """
        The blobs of one chunk, in its order.
        """
    def places(self) -> tuple[memoryview, memoryview]:
        """
        For each tensor the chunk of its first blob, -1 if it does not move (int64[N]), and the offset there (uint64[N]).
        """
    @property
    def blobs(self) -> memoryview:
        """
        uint64[4 * blobs]: tensor, offset in the tensor, bytes, offset in the chunk.
        """
    @property
    def chunk_bytes(self) -> memoryview: ...
    @property
    def chunks(self) -> int: ...
    @property
    def first_blob(self) -> memoryview: ...
    @property
    def tensors(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...

class TensorView:
    """
    Where a tensor's bytes are; keeps them there as long as it lives.
    """
    @property
    def address(self) -> int: ...
    @property
    def device(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> tuple[int, int, int]: ...
    @property
    def format(self) -> str: ...
    @property
    def item_bytes(self) -> int: ...
    @property
    def readonly(self) -> bool: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def strides(self) -> list[int]: ...

class Device:
    """
    The memory that tensors live in.
    """
    def read(
        self,
        address: typing.SupportsInt | typing.SupportsIndex,
        bytes: typing.SupportsInt | typing.SupportsIndex,
        *,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> bytes:
        """
        A copy of some of its memory.
        """
    def wait_for_stream(
        self,
        handle: typing.SupportsInt | typing.SupportsIndex,
        *,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None:
        """
        Wait for what others have asked of a stream of theirs; nothing to wait for with ordinary memory.
        """
    @property
    def cpu_accessible(self) -> bool:
        """
        Whether the CPU can load from and store to it.
        """
    @property
    def index(self) -> int:
        """
        Number on this machine; -1 for ordinary memory.
        """
    @property
    def memory_bytes(self) -> int:
        """
        Of the device, all in all; 0 where nobody knows.
        """
    @property
    def name(self) -> str: ...
    @property
    def verifies_on_the_way(self) -> bool:
        """
        Whether a load compares digests while it copies; if not, tensors have to be looked at afterwards.
        """

class PinnedLease:
    """
    Page-locked memory on loan; returned with the object.
    """
    @property
    def address(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class PinnedPool:
    """
    Page-locked memory up to a cap.
    """
    def __init__(self, device: Device, cap_bytes: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def lease(
        self,
        bytes: typing.SupportsInt | typing.SupportsIndex,
        *,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> PinnedLease:
        """
        Wait for a block.
        """
    def stats(self) -> dict[str, int]: ...
    def try_lease(self, bytes: typing.SupportsInt | typing.SupportsIndex) -> PinnedLease | None:
        """
        A block; None if that would exceed the cap now.
        """

class LockedChunks:
    """
    Chunks in the worker's shared memory that are page-locked there for a device.
    """
    def __init__(self, device: Device) -> None: ...
    def settle(self, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> bool:
        """
        Wait until all that the loads before have seen is locked; False at the deadline.
        """
    def stats(self) -> dict[str, int]: ...
    def take_refusal(self) -> str | None:
        """
        Why no more is locked, once; None if nothing has failed since.
        """

class DeviceMemory:
    """
    A block of a device's own memory.
    """
    def __init__(self, device: Device, bytes: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def copy_from(self, source: DeviceMemory, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Copy another block of the same device to the beginning of this one.
        """
    def dlpack(
        self,
        offset: typing.SupportsInt | typing.SupportsIndex,
        *,
        device_type: typing.SupportsInt | typing.SupportsIndex,
        code: typing.SupportsInt | typing.SupportsIndex,
        bits: typing.SupportsInt | typing.SupportsIndex,
        shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        strides: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> typing_extensions.CapsuleType:
        """
        A DLPack capsule of a tensor that begins there; keeps the memory as long as it is used.
        """
    def read_into(
        self,
        offset: typing.SupportsInt | typing.SupportsIndex,
        into: typing_extensions.Buffer,
        *,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None:
        """
        Fill a contiguous buffer from the device.
        """
    def write(
        self,
        offset: typing.SupportsInt | typing.SupportsIndex,
        data: typing_extensions.Buffer,
        *,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None:
        """
        Copy a contiguous buffer to the device.
        """
    @property
    def address(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class Connection:
    """
    One openYuanrong worker and how to connect to it; its credentials cannot be read back.
    """
    def __init__(
        self,
        host: str,
        port: typing.SupportsInt | typing.SupportsIndex,
        *,
        connect_timeout_s: typing.SupportsFloat | typing.SupportsIndex,
        rpc_timeout_s: typing.SupportsFloat | typing.SupportsIndex,
        client_public_key: str = "",
        client_private_key: str = "",
        server_public_key: str = "",
        access_key: str = "",
        secret_key: str = "",
        tenant_id: str = "",
        token: str = "",
        is_alone: bool = False,
    ) -> None: ...
    def __repr__(self) -> str: ...

class ObjectStore:
    """
    Where chunks and small values are kept. TTLs are seconds; every call ends by its deadline.
    """
    def erase(
        self, keys: collections.abc.Sequence[str], *, deadline_s: typing.SupportsFloat | typing.SupportsIndex
    ) -> None: ...
    def exist(
        self, keys: collections.abc.Sequence[str], *, deadline_s: typing.SupportsFloat | typing.SupportsIndex
    ) -> list[bool]: ...
    def expire(
        self,
        keys: collections.abc.Sequence[str],
        *,
        ttl_s: typing.SupportsInt | typing.SupportsIndex,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> list[str]:
        """
        Give the keys a new TTL; returns those that did not exist.
        """
    def get(self, key: str, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> bytes | None:
        """
        The value, None if there is none.
        """
    def get_many(
        self, keys: collections.abc.Sequence[str], *, deadline_s: typing.SupportsFloat | typing.SupportsIndex
    ) -> list[bytes | None]:
        """
        The value of each key, None if there is none.
        """
    def set(
        self,
        key: str,
        value: bytes,
        *,
        ttl_s: typing.SupportsInt | typing.SupportsIndex,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    def set_all_if_absent(
        self,
        values: collections.abc.Mapping[str, bytes],
        *,
        ttl_s: typing.SupportsInt | typing.SupportsIndex,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> bool:
        """
        Set all keys, or none and return False if one exists. At most 8.
        """
    def set_if_absent(
        self,
        key: str,
        value: bytes,
        *,
        ttl_s: typing.SupportsInt | typing.SupportsIndex,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> bool: ...
    @property
    def transport(self) -> str: ...

class PrivateMemory:
    """
    An object's bytes, shared with all processes until this one writes to a page and gets its own copy of it.
    """
    def detach(self) -> None:
        """
        Copy the pages that are still shared.
        """
    def forbid(self) -> None:
        """
        From now on, touching the bytes ends the process.
        """
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def shared_address(self) -> int:
        """
        Their address in the shared mapping; not to be written to.
        """

class ChunkReader:
    """
    Brings the chunks of one generation to where they can be copied from.
    """
    @property
    def transport(self) -> str: ...

class StoreReader(ChunkReader):
    """
    Reads chunks that are objects of a store.
    """
    def __init__(
        self,
        store: ObjectStore,
        key_prefix: str,
        *,
        first_batch: typing.SupportsInt | typing.SupportsIndex,
        batch: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...

class D2dSource:
    """
    Serves chunks by reference, from the memory of tensors on a device.
    """
    def __init__(
        self,
        connection: Connection,
        *,
        device: Device,
        lanes: collections.abc.Sequence[str],
        plan: Plan,
        addresses: typing_extensions.Buffer,
        owners: typing.Any,
    ) -> None:
        """
        lanes: prefixes of keys, each for one reader at a time.
        """
    def offer(self, chunk: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Queue a chunk whose bytes are in the tensors.
        """
    def serving(self) -> int:
        """
        Number of chunks that can be read.
        """
    def start(self) -> None:
        """
        Start to publish the keys of offered chunks.
        """
    def wait(self, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Wait until all offered chunks can be read.
        """
    def withdraw(self, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Withdraw all keys and release the tensors. Idempotent.
        """

class HeteroReceiver:
    """
    A connection for one device, and device memory for arriving chunks.
    """
    def __init__(
        self, connection: Connection, *, device: Device, landing_bytes: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def greet(self, key_prefix: str) -> None:
        """
        Start connecting to a source in the background.
        """
    def prepare(self) -> None:
        """
        Start connecting in the background.
        """
    def stats(self) -> dict[str, int]: ...

class D2dReader(ChunkReader):
    """
    Reads chunks from the device memory of another process.
    """
    def __init__(
        self,
        receiver: HeteroReceiver,
        plan: Plan,
        *,
        peer: str,
        key_prefix: str,
        stall_s: typing.SupportsFloat | typing.SupportsIndex,
        chunks_ahead: typing.SupportsInt | typing.SupportsIndex,
        addresses: typing_extensions.Buffer | None = None,
        owners: typing.Any = None,
    ) -> None:
        """
        peer: its name for messages. addresses: of the tensors to read straight into; None for landing memory.
        """
    def distrust(self) -> None:
        """
        Make later transfers use a new connection.
        """
    @property
    def arrived(self) -> int:
        """
        Number of chunks that arrived.
        """
    @property
    def in_flight(self) -> list[int]:
        """
        Chunks that may still be written to at any time.
        """
    @property
    def left_because(self) -> str:
        """
        Why the peer was abandoned, if it was.
        """

class StagedReader(ChunkReader):
    """
    Reads chunks of a staged publication.
    """
    def __init__(
        self,
        receiver: HeteroReceiver,
        plan: Plan,
        key_prefix: str,
        *,
        chunks_ahead: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...

class IpcReader(ChunkReader):
    """
    Reads chunks from device memory that another process of this machine shares.
    """
    def __init__(
        self,
        device: Device,
        pool: PinnedPool,
        plan: Plan,
        *,
        peer: str,
        allocations: collections.abc.Sequence[
            tuple[bytes, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        there: typing_extensions.Buffer,
        addresses: typing_extensions.Buffer,
        digests: bool,
    ) -> None:
        """
        peer: its name for messages. allocations, there: what it shares, and where its tensors begin. addresses: of this process's tensors. digests: whether to take them on the way, where the device can.
        """
    def open(self, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Open the memory; raises DeviceError if it is gone.
        """
    @property
    def arrived(self) -> int:
        """
        Number of chunks that arrived.
        """
    @property
    def left_because(self) -> str:
        """
        Why the peer was abandoned, if it was.
        """

class Lease:
    """
    One source's share in keeping a generation published.
    """
    def __init__(
        self,
        store: ObjectStore,
        *,
        head_key: str,
        head_value: bytes,
        slot_prefix: str,
        owner: str,
        data_keys: collections.abc.Sequence[str],
        lease_s: typing.SupportsInt | typing.SupportsIndex,
        data_s: typing.SupportsInt | typing.SupportsIndex,
        deadline_s: typing.SupportsFloat | typing.SupportsIndex,
        place_key: str = "",
        place_value: bytes = b"",
        slot_key: str = "",
        entry_keys: collections.abc.Sequence[str] = [],
        entry_value: str = "",
    ) -> None: ...
    def leave(self, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    def sources(self, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> int: ...
    def status(self) -> tuple[str, float, str]:
        """
        (state, seconds since the last renewal, last error): live, superseded, lost or left.
        """

def acl_device(index: typing.SupportsInt | typing.SupportsIndex) -> Device:
    """
    A device of Ascend's runtime, real or simulated; raises DeviceError if there is none.
    """

def acl_device_count() -> int:
    """
    Number of devices that Ascend's runtime knows; 0 if it cannot be loaded. Loads it.
    """

def are_names(names: list[typing.Any], max_chars: typing.SupportsInt | typing.SupportsIndex) -> bool:
    """
    Whether all of these are Unicode text of 1 to `max_chars` characters.
    """

def buffer_view(object: typing_extensions.Buffer) -> TensorView:
    """
    View of an object with the buffer protocol.
    """

def chunk_keys(prefix: str, count: typing.SupportsInt | typing.SupportsIndex) -> list[str]:
    """
    The key of every chunk.
    """

def connect_host_store(connection: Connection) -> ObjectStore:
    """
    Connect to an openYuanrong worker.
    """

def connections_left_behind() -> int:
    """
    Number of connections that may still be busy with a silent peer; each goes after some minutes.
    """

def copy_and_digest(destination: typing_extensions.Buffer, source: typing_extensions.Buffer) -> int:
    """
    Copy a contiguous buffer; returns its digest.
    """

def cpu_device() -> Device:
    """
    Tensors in ordinary memory.
    """

def cuda_device(index: typing.SupportsInt | typing.SupportsIndex) -> Device:
    """
    A device of CUDA's driver, real or simulated; raises DeviceError where there is none.
    """

def cuda_device_count() -> int:
    """
    How many devices CUDA's driver knows; 0 where it cannot be loaded. Loads it.
    """

def cuda_device_name(index: typing.SupportsInt | typing.SupportsIndex) -> str:
    """
    As the driver calls it; raises DeviceError where there is no such device.
    """

def cuda_device_of(address: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    The number of the CUDA device whose memory is at an address; raises DeviceError if it is no device's.
    """

def cuda_device_reaches(
    index: typing.SupportsInt | typing.SupportsIndex, other: typing.SupportsInt | typing.SupportsIndex
) -> bool:
    """
    Whether a device can copy from the memory of another one.
    """

def cuda_driver_version() -> int:
    """
    The newest CUDA that the driver knows, as 12040 for 12.4; raises DeviceError where there is none.
    """

def current_acl_device() -> int:
    """
    The device of this thread; -1 if it has none, or Ascend's runtime cannot be loaded. Loads it.
    """

def digest(data: typing_extensions.Buffer, kind: str = "nh64-1") -> int:
    """
    Digest of a contiguous buffer.
    """

def digest_backend(kind: str = "nh64-1") -> str:
    """
    Instruction set of a digest on this machine.
    """

def digest_block_sums(data: typing_extensions.Buffer) -> tuple[int, int]:
    """
    Sum of one block from portable code and from the code this machine uses; for tests.
    """

def digest_chunks(
    plan: Plan,
    addresses: typing_extensions.Buffer,
    *,
    copy_threads: typing.SupportsInt | typing.SupportsIndex,
    deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    progress: collections.abc.Callable[[int, int], None] | None = None,
    chunks: typing_extensions.Buffer | None = None,
    device: Device | None = None,
    pool: PinnedPool | None = None,
    digest: str = "nh64-1",
) -> memoryview:
    """
    Digest of each of these chunks, by default of all; moves nothing.
    """

def digest_keys() -> memoryview:
    """
    uint64[1024]: the key of every column of a digest block.
    """

def digest_names() -> typing.Annotated[list[str], "FixedSize(2)"]:
    """
    Of the digests that there are.
    """

def digests_on_device(
    device: Device, pool: PinnedPool, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex
) -> bool:
    """
    Whether a device takes digests of kind 'matrix64-1' itself. It becomes the calling thread's.
    """

def dlpack_view(capsule: typing_extensions.CapsuleType) -> TensorView:
    """
    View of a DLPack capsule, which it uses up.
    """

def encode_entries(
    names: list[str],
    layouts: list[bytes],
    layout_of: typing_extensions.Buffer,
    plan: Plan,
    owner: typing_extensions.Buffer,
    offset: typing_extensions.Buffer,
    quote: typing.Any,
) -> bytes:
    """
    A manifest's entries as JSON: of each tensor the name, the text of its layout (layouts[layout_of[i]]: dtype, shape, strides and bytes), chunk and offset, and the name of the tensor that it lies in with the offset there, null if none. quote(name): a name as JSON, where it is not plain ASCII.
    """

def end_transfers() -> None:
    """
    End every transfer, including later ones, with SystemExit in the waiting thread.
    """

def error_table() -> list[tuple[str, str, bool, str]]:
    """
    Rows (code, Python class, retryable, meaning) of the one table of errors, csrc/core/error.hpp.
    """

def expect_exit() -> None:
    """
    Make this process end without the C library's exit handlers if a connection is left then.
    """

def find_sharing(
    addresses: typing_extensions.Buffer, tensor_bytes: typing_extensions.Buffer
) -> tuple[memoryview, memoryview, memoryview]:
    """
    For each tensor, the index of the one whose memory it lies in, the offset there in bytes, and how many of its own bytes move.
    """

def fold_digests(digests: typing_extensions.Buffer) -> int:
    """
    Digest of a chunk from its blobs' digests, in order.
    """

def load_chunks(
    reader: ChunkReader,
    device: Device,
    pool: PinnedPool,
    plan: Plan,
    addresses: typing_extensions.Buffer,
    chunks: typing_extensions.Buffer,
    *,
    digests: typing_extensions.Buffer,
    copy_threads: typing.SupportsInt | typing.SupportsIndex,
    chunks_in_flight: typing.SupportsInt | typing.SupportsIndex,
    verify: bool,
    stage: bool,
    deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    progress: collections.abc.Callable[[int, int], None] | None = None,
    source: D2dSource | None = None,
    digest: str = "nh64-1",
    locked: LockedChunks | None = None,
) -> tuple[int, bool, list[tuple[str, int, int, float, float]], list[tuple[int, str, str]]]:
    """
    Copy chunks into tensors, and offer them to `source` as they arrive; returns (bytes, whether they were verified, [(stage, chunk, thread, begin, seconds)], [(chunk, code, detail)] of failures).
    """

def make_plan(
    tensor_bytes: typing_extensions.Buffer,
    *,
    chunk_bytes: typing.SupportsInt | typing.SupportsIndex,
    max_blobs: typing.SupportsInt | typing.SupportsIndex,
) -> Plan:
    """
    Plan the transfer of tensors of these sizes (uint64[N], bytes; 0 does not move).
    """

def map_chunks(
    reader: ChunkReader,
    chunks: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    *,
    deadline_s: typing.SupportsFloat | typing.SupportsIndex,
) -> list[PrivateMemory]:
    """
    Map these chunks privately, each once; None for one that is not there.
    """

def matrix_numbers() -> bytes:
    """
    uint8[8192 + 64 * 9]: of column c, the numbers from 64 * c on.
    """

def memcpy_seconds(
    destinations: typing_extensions.Buffer,
    sources: typing_extensions.Buffer,
    sizes: typing_extensions.Buffer,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> float:
    """
    Time a plain memcpy of these ranges on this many threads.
    """

def publish_chunks(
    store: ObjectStore,
    plan: Plan,
    addresses: typing_extensions.Buffer,
    *,
    key_prefix: str,
    ttl_s: typing.SupportsInt | typing.SupportsIndex,
    copy_threads: typing.SupportsInt | typing.SupportsIndex,
    chunks_in_flight: typing.SupportsInt | typing.SupportsIndex,
    verify: bool,
    deadline_s: typing.SupportsFloat | typing.SupportsIndex,
    progress: collections.abc.Callable[[int, int], None] | None = None,
    device: Device | None = None,
    pool: PinnedPool | None = None,
    stored: collections.abc.Callable[[list[tuple[int, int]]], None] | None = None,
    files: collections.abc.Sequence[
        tuple[
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
        ]
    ] = [],
    digest: str = "nh64-1",
) -> tuple[memoryview, dict[str, float]]:
    """
    Copy tensors, by default of ordinary memory, into chunks, and tell `stored` of them, [(chunk, digest)], as they can be read, and of none once there is room for all; returns (digest of each chunk, seconds by stage). files: (address, bytes, descriptor) of mapped ones that tensors may lie in, which are read by calls then.
    """

def publish_staged(
    connection: HeteroReceiver,
    plan: Plan,
    addresses: typing_extensions.Buffer,
    *,
    owners: typing.Any,
    key_prefix: str,
    ttl_s: typing.SupportsInt | typing.SupportsIndex,
    deadline_s: typing.SupportsFloat | typing.SupportsIndex,
) -> None:
    """
    Copy all chunks from the device into objects of the worker.
    """

def read_tensors(
    values: list[typing.Any],
    kind: type,
    api: typing_extensions.CapsuleType,
    bare: tuple[type, ...],
    check: typing.Any,
    number_of: typing.Any,
    device_of: typing.Any,
    make: typing.Any,
) -> tuple[list[typing.Any], memoryview, memoryview, memoryview, list[int]]:
    """
    Read those values that are dense tensors of a class, by its DLPack exchange API. Returns the layouts that differ, each as make(dtype, shape, strides, bytes, device); for each value the number of its layout, its address and its bytes (uint64[N] each); and which values were not read, whose rows hold zeros. check(i) is called for each value that is not of one of the types `bare`, or has attributes. number_of(dtype): its name and item size; device_of(type, number): what `make` is given of a DLPack device, None where tensors are not read so.
    """

def ready_workers(directory: str, *, deadline_s: typing.SupportsFloat | typing.SupportsIndex) -> list[str]:
    """
    Addresses of the workers that a cluster's etcd, or the metastore of its head, calls ready.
    """

def row_sums(data: typing_extensions.Buffer, backend: str) -> typing.Annotated[list[int], "FixedSize(10)"] | None:
    """
    Sums of one row by the code of an instruction set; None if this machine has it not. For tests.
    """

def share_memory(device: Device, addresses: typing_extensions.Buffer) -> list[tuple[bytes, int, int]]:
    """
    The allocations that tensors lie in, as (handle, address, bytes), for other processes of this machine to open; raises DeviceError where they cannot.
    """

def threads_left_behind() -> int:
    """
    Number of threads that a frozen worker kept from ending with their store.
    """

def transfer_peaks() -> dict[str, int]:
    """
    The most that any single transfer in this process used of what its options limit.
    """

BLOB_ALIGNMENT: int = 64
DIGEST_BLOCK_BYTES: int = 8192
MOST_CONNECTIONS_LEFT_BEHIND: int = 64
MOST_THREADS_LEFT_BEHIND: int = 64
STAGED_CHUNK_BYTES: int = 8388608
__version__: str = "0.1.0"
