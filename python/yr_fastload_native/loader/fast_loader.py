"""Publish the weights of a model, and load those that another process published."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import SupersededError
from yr_fastload_native.catalogue.content_digest import check_trusted
from yr_fastload_native.catalogue.election import Claims
from yr_fastload_native.catalogue.file_sums import check_files
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import FastLoadError, PartialTransferError
from yr_fastload_native.loader.bounds import bounds
from yr_fastload_native.loader.catalogue_calls import CatalogueCalls
from yr_fastload_native.loader.checkpoint_calls import CheckpointCalls
from yr_fastload_native.loader.file_calls import FileCalls
from yr_fastload_native.loader.kept import Kept
from yr_fastload_native.loader.store_link import StoreLink
from yr_fastload_native.loading.puller import Pulled, Puller
from yr_fastload_native.process.at_exit import close_at_exit, under_way
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.process.gc_pause import gc_paused
from yr_fastload_native.process.peaks import Peaks
from yr_fastload_native.publishing.publication import Publication
from yr_fastload_native.publishing.publisher import ATTEMPTS, Publisher
from yr_fastload_native.reporting.load_report import LoadReport
from yr_fastload_native.reporting.opentelemetry import of_load, of_publication, traced
from yr_fastload_native.reporting.prometheus import Metrics, counted
from yr_fastload_native.reporting.timeline import Timeline
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.chunk_digests import of_tensors
from yr_fastload_native.transports.jobs import Progress, Request
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["FastLoader", "Progress"]


class FastLoader(CatalogueCalls, CheckpointCalls, FileCalls):
    """Connection to one openYuanrong worker, through which weights are published and loaded.

    Safe to use from several threads. Not across a fork: make a new one in the child.
    """

    def __init__(self, config: Config | None = None, *, store: _core.ObjectStore | None = None) -> None:
        """Connect.

        Args:
            config: Settings; by default those of the environment (`Config.from_env`).
            store: Where weights are published and loaded from, instead of a worker's; tests pass a
                `yr_fastload_native.testing.MemoryStore`. No worker is started or connected to then, and settings that
                are about one have no effect. Only tensors in CPU memory move, by `host`. It stays the caller's.

        Raises:
            UnavailableError: No worker answers, or none could be started.
            InvalidArgumentError: ``DS_WORKER_ADDR`` is no address, a file with a key or secret cannot be used, or
                ``transport`` or ``publish_as`` name what only a worker has, and a store was given.
        """
        self.config = Config.from_env() if config is None else config
        self._usage = Peaks()
        self._claims = Claims()
        # After another worker took over nobody knows of a claim: others may read the disk.
        self._link = StoreLink(self.config, self._usage, store, moved=self._claims.release_all)
        self._kept = Kept(self._link, self.config)
        self._lock = threading.Lock()
        self._counts = {"loads": 0, "loaded_bytes": 0, "chunks_retried": 0}
        self._pid = os.getpid()
        close_at_exit(self)

    @property
    def worker(self) -> str:
        """Address of the worker, ``HOST:PORT``; empty where a store was given."""
        return self._link.address

    # -- publish ------------------------------------------------------------------------------------------------

    @counted(Metrics.published, Metrics.publish_failed)
    @traced("yr_fastload.publish", of_publication)
    @under_way()
    @gc_paused()
    def publish(
        self,
        model: Any,
        identity: Mapping[str, Any],
        *,
        publish_as: str | None = None,
        progress: Progress | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Publication:
        """Publish every parameter and buffer; returns when another process can load them.

        By `host` and `staged` the bytes are copied into the worker's memory, so that the tensors may change afterwards.
        By `d2d` (the default on an NPU) readers take them from the tensors themselves: the publication keeps these, and
        they must not change until it is closed. Publishing the same bytes again joins the generation that is there;
        other bytes make a new generation, and readers of the old one finish on it or get a typed error.

        Args:
            model: ``torch.nn.Module``, or mapping of names to anything with DLPack or the buffer protocol. Dense
                tensors in CPU memory, or all on one NPU; tied tensors and views of others move once, empty ones never.
            identity: What makes these weights these weights: model, revision, checkpoint fingerprint, dtype,
                quantisation, ranks and sizes, stage, ... Plain JSON types. A field ``about`` is shown with it and is no
                part of it.
            publish_as: Transports to offer, as in the config; by default ``config.publish_as``.
            progress: Called with bytes done and in total, from this thread, at most 20 times a second: while `host`
                copies, that is, not by `staged`, nor by `d2d`, which copies nothing.
            files: SHA-256 sums, by name, of files that the weights were read from, as far as they are known; others may
                be told later (`tell_files`). A reader that knows its own refuses those of others.

        Raises:
            InvalidArgumentError: A tensor cannot be moved, or the identity cannot be hashed.
            DeviceError: A transport was asked for that cannot reach the tensors.
            ResourceExhaustedError: The worker's shared memory has no room; nothing was published.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not done within ``publish_deadline_s``.
        """
        started = time.perf_counter()
        worker = self._link.worker("publish", self.config.publish_deadline_s)
        who = Identity.of(identity, op="publish")
        try:
            if publish_as is not None:
                worker = attrs.evolve(worker, config=attrs.evolve(self.config, publish_as=publish_as))
            deadline = Deadline(self.config.publish_deadline_s, "publish")
            table = TensorTable(model, op="publish", writable=False, max_tensors=self.config.max_tensors)
            self._usage.note("tensors", len(table.names))
            told = None if files is None else check_files(files, op="publish")
            request = Request(worker, who, table, self._link.devices.of(table), deadline, progress)
            publication = Publisher(request, told).publish(started)
            publication.keep_origin(table, who, worker.config)
        finally:
            self._claims.release(who)
        self._kept.keep(who, publication, deadline)
        return publication

    def publication(self, identity: Mapping[str, Any]) -> Publication | None:
        """What this loader keeps published of an identity, after `publish` or a `load` with ``hold``; None if nothing.

        Raises:
            InvalidArgumentError: The identity cannot be hashed.
        """
        return self._kept.get(Identity.of(identity, op="publication"))

    def lease_trouble(self) -> dict[str, str]:
        """What is wrong with what this loader keeps published, by generation: nothing, as a rule.

        A lease that was not renewed is tried again, and what was lost is published again if that can be; until then
        others may not find it.
        """
        return self._kept.trouble()

    @under_way()
    def check(self, publication: Publication, *, deadline_s: float = 60.0) -> list[str]:
        """Compare what is published by reference with its digests, and withdraw it if it changed.

        Returns:
            Names of the tensors that lie elsewhere now, or share a chunk with bytes that differ; of a publication that
            copied its tensors, or was closed, none.

        Raises:
            NotPublishedError: A newer generation took over.
            TransferTimeoutError: Not done in time.
            UnavailableError: The worker does not answer.
        """
        changed = publication.changed(deadline_s=deadline_s)
        if changed:
            publication.close()
        return changed

    @under_way()
    def digests(self, model: Any) -> dict[str, tuple[int, ...]]:
        """The digest of each tensor's bytes, to see later which ones changed.

        Args:
            model: As in `publish`.

        Returns:
            By name; a tensor of more than 1 GiB has several, an empty one and one that lies in another's memory none.

        Raises:
            InvalidArgumentError: A tensor cannot be moved.
            DeviceError: A tensor is where no transport can reach.
            TransferTimeoutError: Not done within ``publish_deadline_s``.
        """
        table = TensorTable(model, op="digests", writable=False, max_tensors=self.config.max_tensors)
        context = self._link.devices.of(table)
        return of_tensors(context, table, self._link.copy_threads, self.config.publish_deadline_s)

    # -- load ---------------------------------------------------------------------------------------------------

    @counted(Metrics.loaded, Metrics.load_failed)
    @traced("yr_fastload.load", of_load)
    @under_way()
    @gc_paused()
    def load(
        self,
        model: Any,
        identity: Mapping[str, Any],
        *,
        deadline_s: float | None = None,
        progress: Progress | None = None,
        trusted_digests: str | Iterable[str] | None = None,
        zero_copy: bool | None = None,
        files: Mapping[str, str] | None = None,
    ) -> LoadReport:
        """Fill every parameter and buffer in place with what is published under ``identity``.

        Nothing is written before names, dtypes, shapes, strides, sizes and sharing of all tensors agree, and nothing
        after the call has returned or raised. An error that comes later than that has ``memory_written`` set: some
        tensors may hold bytes that nobody verified; make them anew and load from disk.

        Args:
            model: As in `publish`; every tensor must be writable. With ``hold`` (the default) and by `d2d` this process
                serves them to others from then on: until it is closed the loader keeps them, and they must not change.
            identity: As it was published.
            deadline_s: Bound of the whole call, seconds; by default ``config.deadline_s``.
            progress: As in `publish`.
            trusted_digests: Content digests (`Publication.digest`, `content_digest`), by default those of the config.
                What is published has to be one of these, or nothing is written; then every byte is compared by SHA-256.
                So a malicious publisher is found out, and a malicious source.
            zero_copy: Whether torch's tensors in CPU memory may use the worker's memory itself, by `host`; by default
                as in the config. Then no byte moves: a parameter's data lies where all readers have it until somebody
                writes to it, who gets a copy of that page. ``LoadReport.bytes_aliased`` tells how much that was; the
                rest was copied.
            files: SHA-256 sums, by name, of files that hold these weights here, as far as they are known: nothing is
                loaded that was read from others.

        Raises:
            NotPublishedError: No live source publishes this identity.
            LayoutMismatchError: The tensors, or ``files``, are not those that were published; nothing was written.
            DeviceError: No transport of the publication can reach these tensors.
            IntegrityError: Manifest or bytes are damaged, and stayed so when asked for again; or they are none of the
                trusted ones.
            PartialTransferError: Chunks are missing, and stayed so; ``failed_keys`` names them.
            TransferTimeoutError: Not done within the deadline.
            UnavailableError: The worker does not answer.
            ResourceExhaustedError: A bound of the config was hit.
            InvalidArgumentError: A tensor cannot be loaded into, or the identity cannot be hashed.
        """
        timeline = Timeline()
        deadline = Deadline(self.config.deadline_s if deadline_s is None else deadline_s, "load")
        worker = self._link.worker("load", deadline.left())
        if zero_copy is not None:
            worker = attrs.evolve(worker, config=attrs.evolve(self.config, zero_copy=zero_copy))
        who = Identity.of(identity, op="load")
        with timeline.stage("layout"):
            table = TensorTable(model, op="load", writable=True, max_tensors=self.config.max_tensors)
        self._usage.note("tensors", len(table.names))
        trusted = trusted_digests if trusted_digests is not None else self.config.trusted_digests or None
        pins = None if trusted is None else check_trusted(trusted, op="load")
        known = check_files(files or {}, op="load")
        request = Request(worker, who, table, self._link.devices.of(table), deadline, progress)
        puller = Puller(request, pins, timeline, known)
        try:
            pulled = self._pull(puller)
        except FastLoadError as error:
            error.memory_written = puller.memory_written
            raise
        report = LoadReport(
            bytes=table.bytes,
            tensors=len(table.names),
            chunks=len(pulled.generation.manifest.chunks),
            seconds=timeline.elapsed_s(),
            transport=pulled.outcome.transport,
            generation=pulled.generation.manifest.generation,
            verified=self.config.verify == "digest",
            chunks_retried=pulled.outcome.chunks_retried,
            stages=timeline.seconds(),
            spans=timeline.spans,
            steps=[step.to_dict() for step in puller.steps],
            bytes_aliased=pulled.outcome.bytes_aliased,
            publisher=pulled.generation.manifest.publisher,
        )
        with self._lock:
            self._counts["loads"] += 1
            self._counts["loaded_bytes"] += report.bytes
            self._counts["chunks_retried"] += report.chunks_retried
        if self.config.hold and pulled.can_be_served:
            self._kept.join(worker, pulled, report, deadline, table)
        return report

    @staticmethod
    def _pull(puller: Puller) -> Pulled:
        for _ in range(ATTEMPTS):
            try:
                return puller.pull()
            except SupersededError:
                continue
        raise PartialTransferError(f"the publication was replaced {ATTEMPTS} times while it was read", op="load")

    # -- the rest -----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Every bound of this loader with what was used of it, and what it has done; plain types.

        ``bounds`` has for each the ``cap`` and the ``peak``: of this loader, and of any one transfer of the process for
        ``copy_threads`` and ``chunks_in_flight``. What the whole process shares has ``used``, what there is now.
        """
        with self._lock:
            counts = dict(self._counts)
        link = self._link
        return {
            "worker": self.worker,
            "transport": self.config.transport,
            "copy_threads": link.copy_threads,
            "deadline_s": self.config.deadline_s,
            "bounds": bounds(self.config, link.copy_threads, self._usage, link.devices),
            "devices": link.devices.stats(),
            "sources": {publication.generation: publication.state for publication in self._kept.all()},
            "threads_left_behind": _core.threads_left_behind(),
            "connections_left_behind": _core.connections_left_behind(),
            "digest_backend": _core.digest_backend(),
            **counts,
        }

    def close(self) -> None:
        """Withdraw everything this loader publishes or holds, and disconnect. Idempotent and bounded.

        In a process that was forked since, it does nothing: all that is the parent's.
        """
        if os.getpid() != self._pid:
            return
        self._link.end()
        self._kept.stop()
        self._claims.release_all()
        self._kept.close()
        self._link.leave()

    def __enter__(self) -> FastLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
