"""What a loader does with checkpoints: part of `FastLoader`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from yr_fastload_native.catalogue.content_digest import check_trusted
from yr_fastload_native.catalogue.election import Claims
from yr_fastload_native.loader.kept import Kept
from yr_fastload_native.loader.store_link import StoreLink
from yr_fastload_native.process.at_exit import under_way
from yr_fastload_native.process.gc_pause import gc_paused
from yr_fastload_native.publishing.publication import Publication
from yr_fastload_native.reporting.prometheus import Metrics, counted
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.jobs import Progress

if TYPE_CHECKING:
    from yr_fastload_native.checkpoints.tensor_files import TensorFiles
    from yr_fastload_native.loader.checkpoint import Checkpoints
    from yr_fastload_native.loading.published_checkpoint import PublishedCheckpoint

__all__ = ["CheckpointCalls"]


class CheckpointCalls:
    """The calls about checkpoints."""

    config: Config
    _link: StoreLink
    _kept: Kept
    _claims: Claims

    @counted(Metrics.published, Metrics.publish_failed)
    @under_way()
    @gc_paused()
    def publish_checkpoint(
        self,
        directory: str | os.PathLike[str] | TensorFiles,
        *,
        progress: Progress | None = None,
        announced: Callable[[], None] | None = None,
    ) -> Publication:
        """Publish a checkpoint itself: its tensors, whole and under their own names, for every engine and layout.

        Bytes are copied from the files into the worker's memory, chunk by chunk. A reader gets a chunk once the files'
        state and its digest there have been compared, while others are still being copied; if that cannot go on, all
        are taken back. It is withdrawn within a second or so once a file is written to or replaced. A file that is cut
        short while it is read ends this process, as with safetensors' own reader. What is lost with its worker is
        published again, from the files.

        Args:
            directory: With files of safetensors, or with torch's, which torch reads; or the only file; or those files
                that somebody has chosen.
            progress: As in `publish`.
            announced: Called once `checkpoint` finds it: there is room for all of it.

        Raises:
            InvalidArgumentError: There are no such files, or one cannot be read.
            IntegrityError: A file breaks its format, or was written to meanwhile; or what was copied is not what was
                read. Nothing stays published.
            ResourceExhaustedError: The worker's shared memory has no room; nothing was published.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not done within ``publish_deadline_s``.
        """
        return self._checkpoints().publish(directory, progress, announced or (lambda: None))

    @under_way()
    @gc_paused()
    def checkpoint(
        self,
        source: str | os.PathLike[str] | TensorFiles | Mapping[str, Any],
        *,
        framework: str = "numpy",
        verify: str = "once",
        window: int = 0,
        deadline_s: float | None = None,
        trusted_digests: str | Iterable[str] | None = None,
    ) -> PublishedCheckpoint:
        """Open a checkpoint that somebody published; no byte moves before a tensor is asked for.

        While it is still being published, a tensor is waited for as long as others come. If its publisher goes before
        all have come, the rest is read from the files, if there are any.

        With ``hold`` (the default) this loader keeps it published from then on, as one more source.

        Args:
            source: Its identity; or, as in `publish_checkpoint`, the same files, from which a tensor is read where the
                worker cannot give it.
            framework: Whose tensors: ``"numpy"`` (``ml_dtypes`` for what numpy has not) or ``"torch"``.
            verify: ``"digest"`` compares every chunk with its digest when it comes to this process. ``"once"`` does not
                where its publisher has compared what lies in this very pool.
            window: Most chunks to keep beside those that tensors use; 0: as many as the worker has room for, which are
                few where a host's pool is smaller than the checkpoint.
            deadline_s: Bound of this call, seconds; by default ``config.deadline_s``, which also bounds each request
                for tensors later.
            trusted_digests: Content digests (`checkpoint_digest`, `Publication.digest`); by default the config's. What
                is published has to be one of these, and whole; every tensor is copied then, and compared by SHA-256
                before it is given. Tensors from the files are taken as they are.

        Raises:
            NotPublishedError: No live source publishes it.
            LayoutMismatchError: The files here are known to be others than those that were published.
            IntegrityError: The manifest is damaged, or it is none of the trusted ones.
            InvalidArgumentError: An argument is none of those allowed, or there are no such files.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not done in time.
        """
        within_s = self.config.deadline_s if deadline_s is None else deadline_s
        trusted = trusted_digests if trusted_digests is not None else self.config.trusted_digests or None
        return self._checkpoints().open(
            source,
            framework=framework,
            verify=verify,
            window=window,
            deadline_s=within_s,
            trusted=None if trusted is None else check_trusted(trusted, op="checkpoint"),
        )

    def checkpoint_identity(
        self, source: str | os.PathLike[str] | TensorFiles, *, deadline_s: float | None = None
    ) -> dict[str, Any]:
        """What `publish_checkpoint` publishes these files as: a digest of their names, headers and a sample.

        Args:
            source: As in `publish_checkpoint`.
            deadline_s: Bound, seconds; by default ``config.deadline_s``.

        Raises:
            InvalidArgumentError: There are no such files, or one cannot be read.
            IntegrityError: Their index is damaged, or names a file that is missing.
            TransferTimeoutError: Not done in time.
        """
        return self._checkpoints().identity_of(source, self.config.deadline_s if deadline_s is None else deadline_s)

    @under_way()
    def checkpoint_digest(
        self, source: str | os.PathLike[str] | TensorFiles, *, deadline_s: float | None = None
    ) -> str:
        """What `checkpoint` accepts as ``trusted_digests`` for these files. Every byte of them is read.

        Args:
            source: As in `publish_checkpoint`.
            deadline_s: Bound of sampling them, seconds; by default ``config.deadline_s``.

        Raises:
            InvalidArgumentError: There are no such files, or one cannot be read.
            IntegrityError: A file breaks its format, or was written to meanwhile.
            TransferTimeoutError: Not done in time.
        """
        return self._checkpoints().digest_of(source, self.config.deadline_s if deadline_s is None else deadline_s)

    def _checkpoints(self) -> Checkpoints:
        from yr_fastload_native.loader.checkpoint import Checkpoints  # numpy, which loaders do not need

        return Checkpoints(self._link, self._kept, self._claims, self.config)
