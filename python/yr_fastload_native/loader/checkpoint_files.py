"""The files of a checkpoint: as what is published, again too, and as what is read where the worker gives no tensor."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from yr_fastload_native.catalogue.checkpoint import FILE, HEADER, is_tensor
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.checkpoints.tensor_files import TensorFiles
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError
from yr_fastload_native.publishing.growth import Growing
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.jobs import PublishJob
from yr_fastload_native.transports.stored_chunks import StoredChunks
from yr_fastload_native.weights.tensor_table import TensorTable
from yr_fastload_native.weights.views import ITEM_BYTES

__all__ = ["FilesOrigin", "FromFiles", "check_dtypes", "entries", "growing"]

_COMPARED_AT_ONCE = 16  # chunks, which are copied where they cannot be mapped


def entries(files: TensorFiles) -> dict[str, Any]:
    """Everything that is published of a checkpoint, by name."""
    tensors = files.tensors()
    wrong = [name for name in tensors if not is_tensor(name)]
    if wrong:
        raise InvalidArgumentError(
            f"tensor {wrong[0]!r} of {files.root} has a name that is kept for other entries",
            op="checkpoint",
            failed_keys=wrong,
        )
    beside = {HEADER + name: value for name, value in files.headers().items()}
    return tensors | beside | {FILE + name: value for name, value in files.indexes().items()}


def check_dtypes(table: TensorTable) -> None:
    """Refuse tensors that nobody could read."""
    unknown = {number for number, layout in enumerate(table.layouts) if layout.dtype not in ITEM_BYTES}
    wrong = [name for name, number in zip(table.names, table.layout_of, strict=True) if number in unknown]
    if wrong:
        dtype = table.layout(table.index[wrong[0]]).dtype
        raise InvalidArgumentError(
            f"tensor {wrong[0]!r} has dtype {dtype}; tensors of a checkpoint have one of {', '.join(ITEM_BYTES)}",
            op="publish",
            failed_keys=wrong,
        )


def growing(files: TensorFiles, announced: Callable[[], None]) -> Growing:
    return Growing(functools.partial(_check_stored, files), announced, lambda: files.mapped)


def _check_stored(files: TensorFiles, job: PublishJob, stored: Sequence[tuple[int, int]]) -> None:
    """Refuse chunks that are not what the files hold, or do not lie in the worker's memory as they were read."""
    files.check("publish")
    digests = array("Q", bytes(8 * job.plan.chunks))
    for chunk, digest in stored:
        digests[chunk] = digest
    chunks = StoredChunks(
        job.worker,
        job.who.chunk_prefix(job.generation),
        job.plan,
        job.chunks.digest,
        digests,
    )
    wanted = [chunk for chunk, _ in stored]
    for first in range(0, len(wanted), _COMPARED_AT_ONCE):
        chunks.check(wanted[first : first + _COMPARED_AT_ONCE], deadline_s=job.deadline.left())


@attrs.frozen
class FilesOrigin:
    """Files that a checkpoint is published from, again if it must be."""

    files: TensorFiles
    config: Config
    who: Callable[[], Identity]

    def model(self) -> dict[str, Any]:
        self.files.check("publish")
        return entries(self.files)

    def growing(self) -> Growing:
        return growing(self.files, lambda: None)


class FromFiles:
    """Copies tensors from the files of this process, which are mapped when the first one is asked for."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self._tensors: Mapping[str, Any] | None = None

    def __call__(self, name: str, copied: Callable[[Any], Any]) -> Any:
        if self._tensors is None:
            self._tensors = entries(self._files)
        if name not in self._tensors:
            raise IntegrityError(f"{self._files.root} has no tensor {name!r}", op="checkpoint", failed_keys=[name])
        tensor = copied(self._tensors[name])
        self._files.check("checkpoint")  # afterwards: what was copied is what was sampled
        return tensor
