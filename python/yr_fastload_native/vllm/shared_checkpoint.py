"""The checkpoint itself as what instances share: vLLM's own ``load_weights`` gets its tensors from the worker's memory.

They come whole and under their own names, and vLLM narrows, quantises and renames them as if they came from files. So
instances of every parallel layout, dtype and version read what one of them has published.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.tensor_files import TensorFiles
from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.loading.published_checkpoint import PublishedCheckpoint
from yr_fastload_native.reporting.load_report import size
from yr_fastload_native.vllm import session
from yr_fastload_native.vllm.background import Thread
from yr_fastload_native.vllm.files_read import primary_files
from yr_fastload_native.vllm.lifetime import Stay
from yr_fastload_native.vllm.publishing import Source
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.verifying import compare_later, tell_later

__all__ = ["SharedCheckpoint"]

_log = logging.getLogger("vllm.yr_fastload")

_ITERATOR = "get_all_weights"  # of vLLM's default loader, 0.10.0 to 0.33.0: all that its load_weights reads


class _Publishing:
    """A publish beside the load that reads from it.

    Attributes:
        is_open: Set once it can be read, or never will be.
        over: Set at its end.
        has_begun: Whether it could be read.
        has_succeeded: Whether all of it is published.
    """

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.over = threading.Event()
        self.has_begun = False
        self.has_succeeded = False

    def begun(self) -> None:
        self.has_begun = True
        self.is_open.set()

    def end(self) -> None:
        self.over.set()
        self.is_open.set()


class SharedCheckpoint:
    """The checkpoint of one ``load_model``.

    Args:
        loader: That reads it from disk.
        settings: Settings of the exchange.
        iterator: Name of the loader's method that gives all weights.
    """

    def __init__(self, loader: Any, settings: Settings, *, iterator: str = _ITERATOR) -> None:
        self._loader = loader
        self._iterator = iterator
        self._settings = settings
        self._opened: PublishedCheckpoint | None = None
        self._to_compare: Source | None = None  # with what another process has published
        self._is_read = False
        self._publishing: _Publishing | None = None
        self._stay: Stay | None = None

    def ends_with(self, model: object) -> None:
        """Stop being a source of it when a model is deleted."""
        if self._stay is not None:
            self._stay.ends_with(model)

    def let_go(self) -> None:
        """Stop being a source of it."""
        if self._stay is not None:
            self._stay.end()

    def is_shared(self) -> bool:
        """Whether others can load from it: it was read, or this instance has published it. Waits for that."""
        if self._publishing is None:
            return self._is_read
        self._publishing.over.wait(self._settings.transfer.publish_deadline_s)
        return self._publishing.has_succeeded

    def is_published(self, model: Any, model_config: Any) -> bool:
        """Whether it can be read now, without the disk."""
        self._opened = self._opened or self._open(model, model_config, may_publish=False)
        return self._opened is not None

    def open(self, model: Any, model_config: Any) -> PublishedCheckpoint | None:
        """What is published; if nobody has published it, this instance does, and reads from there as it comes.

        None if it cannot be shared: then the loader is to read from disk.
        """
        opened, self._opened = self._opened or self._open(model, model_config, may_publish=True), None
        return opened

    def weights(self, opened: PublishedCheckpoint, model: Any) -> Iterator[tuple[str, Any]]:
        """What the loader's own iterator gives: the model's weights, and those of parts that have their own."""
        if getattr(self._loader, "counter_before_loading_weights", None) == 0.0:
            self._loader.counter_before_loading_weights = time.perf_counter()  # the loader logs the time since
        yield from opened.items()
        for source in getattr(model, "secondary_weights", ()):
            yield from self._loader._get_weights_iterator(source)

    def has_read(self, opened: PublishedCheckpoint) -> dict[str, Any]:
        """Say that weights came from it; returns what there is to report."""
        self._is_read = True
        if self._to_compare is not None:
            compare_later(self._to_compare, opened.generation)
        _log.info(
            "read the published checkpoint: %s, %d tensors, %d of them from files",
            size(opened.bytes),
            len(opened),
            len(opened.from_files),
        )
        return {"bytes": opened.bytes, "tensors": len(opened), "from_files": opened.from_files}

    @contextlib.contextmanager
    def read_instead(self, model: Any, model_config: Any, outcome: dict[str, Any]) -> Iterator[None]:
        """Have vLLM's ``load_weights`` read it meanwhile, if there is one to read."""
        opened = self.open(model, model_config)
        if opened is None:
            yield
            return
        setattr(self._loader, self._iterator, lambda model_config, model: self.weights(opened, model))
        try:
            yield
        finally:
            delattr(self._loader, self._iterator)
        outcome["checkpoint"] = self.has_read(opened)

    def _open(self, model: Any, model_config: Any, *, may_publish: bool) -> PublishedCheckpoint | None:
        if not hasattr(type(self._loader), self._iterator):
            _log.info("the checkpoint is not shared: %s has no %s", type(self._loader).__name__, self._iterator)
            return None
        try:
            fast = session.loader_of(self._settings.transfer)
            files = self._files(model, model_config)
            return self._of(fast, files, may_publish=may_publish)
        except NotPublishedError as error:
            _log.debug("%s", str(error))
        except FastLoadError as error:
            _log.warning("the checkpoint is not shared, reading from disk: %s: %s", error.code, str(error))
        except Exception as error:  # a version of vLLM in which something has moved
            if self._settings.exchange.fallback == "error":
                raise
            _log.warning("cannot share the checkpoint with this vLLM: %s: %s", type(error).__name__, error)
        return None

    def _files(self, model: Any, model_config: Any) -> TensorFiles:
        found = primary_files(self._loader, model, model_config)
        read = ReadFiles.of(found, deadline_s=self._settings.transfer.deadline_s)
        return TensorFiles(Path(str(model_config.model)), read, lambda: found)

    def _of(self, fast: FastLoader, files: TensorFiles, *, may_publish: bool) -> PublishedCheckpoint:
        """What somebody has published; else the first of those that ask publishes it, and the others wait for it."""
        exchange = self._settings.exchange
        source = Source(fast, fast.checkpoint_identity(files), self._settings, files.read)
        self._to_compare = source
        self._stay = self._stay or Stay(fast, source.identity)
        try:
            return fast.checkpoint(files, framework="torch")
        except NotPublishedError:
            if not may_publish or exchange.publish == "off":
                raise
        try:
            fast.wait_for_publisher(source.identity, timeout_s=exchange.wait_for_publisher_s)
        except NotPublishedError:
            self._to_compare = None
            if exchange.publish == "inline":
                self._publish(source, files, lambda done, total: None, lambda: None)
            elif not self._publish_beside(source, files):
                raise
        return fast.checkpoint(files, framework="torch")

    def _publish_beside(self, source: Source, files: TensorFiles) -> bool:
        """While what is published already is loaded, by this rank and others. Whether anything can be loaded."""
        publishing = self._publishing = _Publishing()

        def publish(thread: Thread) -> None:
            try:
                self._publish(source, files, thread.go_on, publishing.begun)
                publishing.has_succeeded = True
            finally:
                publishing.end()

        source.in_background(publish, gives_way=False)
        publishing.is_open.wait(self._settings.transfer.publish_deadline_s)
        return publishing.has_begun

    def _publish(
        self,
        source: Source,
        files: TensorFiles,
        progress: Callable[[int, int], None],
        announced: Callable[[], None],
    ) -> None:
        publication = source.fast.publish_checkpoint(files, progress=progress, announced=announced)
        _log.info("published the checkpoint: %s in %.2f s", size(publication.bytes), publication.seconds)
        what = {"bytes": publication.bytes, "seconds": publication.seconds}
        session.record("published checkpoint", what, self._settings.exchange.report)
        tell_later(source, publication)
