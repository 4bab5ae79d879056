"""Publish the weights of a model, and load those that another process published."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import attrs

from yr_fastload_native import _core
from yr_fastload_native.at_exit import close_at_exit, under_way
from yr_fastload_native.catalogue import Catalogue, SupersededError
from yr_fastload_native.config import Config
from yr_fastload_native.content import check_trusted
from yr_fastload_native.credentials import Credentials
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.devices.contexts import DeviceContexts
from yr_fastload_native.election import Claim, await_publisher
from yr_fastload_native.errors import (
    FastLoadError,
    IntegrityError,
    InvalidArgumentError,
    LayoutMismatchError,
    NotPublishedError,
    PartialTransferError,
)
from yr_fastload_native.gc_pause import gc_paused
from yr_fastload_native.guard import Guard
from yr_fastload_native.identity import Identity
from yr_fastload_native.listing import identities
from yr_fastload_native.manifest import check_files
from yr_fastload_native.metrics import Metrics, count, counted
from yr_fastload_native.publication import LEAVE_S, Publication
from yr_fastload_native.publisher import ATTEMPTS, Publisher
from yr_fastload_native.puller import Pulled, Puller
from yr_fastload_native.report import LoadReport
from yr_fastload_native.tensors import TensorTable
from yr_fastload_native.timeline import Timeline
from yr_fastload_native.tracing import of_load, of_publication, traced
from yr_fastload_native.transports.digests import of_tensors
from yr_fastload_native.transports.jobs import Progress, Worker
from yr_fastload_native.usage import Usage
from yr_fastload_native.worker import LocalWorker

__all__ = ["FastLoader", "Progress"]

_log = logging.getLogger(__name__)


class FastLoader:
    """Connection to one openYuanrong worker, through which weights are published and loaded.

    Safe to use from several threads. Not across a fork: make a new one in the child.
    """

    def __init__(self, config: Config | None = None) -> None:
        """Connect.

        Args:
            config: Settings; by default those of the environment (`Config.from_env`).

        Raises:
            UnavailableError: No worker answers, or none could be started.
            InvalidArgumentError: ``DS_WORKER_ADDR`` is no address, or a file with a key or secret cannot be used.
        """
        self.config = Config.from_env() if config is None else config
        self._leave_local_worker: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._guard: Guard | None = None
        self._local: LocalWorker | None = None
        self._held: dict[str, Publication] = {}
        self._claims: dict[str, Claim] = {}
        self._closed = False
        self._published: weakref.WeakSet[Publication] = weakref.WeakSet()
        self._usage = Usage()
        self._loads = 0
        self._loaded_bytes = 0
        self._retried_chunks = 0
        self._credentials = Credentials.of(self.config)
        self.worker = self._worker_address()
        self._copy_threads = self.config.copy_threads or min(8, len(os.sched_getaffinity(0)))
        self._store: _core.ObjectStore | None
        try:
            self._connect()
        except BaseException:
            self._leave_local_worker()
            raise
        self._pid = os.getpid()
        close_at_exit(self)

    def _connect(self) -> None:
        self._connection = self._credentials.connection(self.worker, self.config)
        self._store = _core.connect_host_store(self._connection)
        self._devices = DeviceContexts(self.config, self._connection)
        self._devices.prepare()

    def _reconnect(self, timeout_s: float, *, may_launch: bool = True) -> bool:
        """Connect to another local worker where the one before has gone. Whether there is a worker now.

        Raises:
            UnavailableError: None could be started.
            ResourceExhaustedError: Nor is there memory for one.
        """
        local = self._local
        if local is None or not local.is_lost:
            return True
        with self._connecting:
            if self._store is None or not local.is_lost:
                return self._store is not None
            before, process = self.worker, local.process
            if not local.rejoin(timeout_s, may_launch=may_launch):
                return False
            if local.process == process:  # only who watches it is another
                return True
            self.worker = local.address
            self._connect()
            with self._lock:
                if self._closed:
                    self._store = None
                    return False
                claims, self._claims = list(self._claims.values()), {}
        _log.warning("the local worker %s has gone: connected to %s", before, self.worker)
        for claim in claims:  # others may read the disk now: nobody knows of it
            claim.release()
        return True

    def _look(self) -> bool:
        """Publish again what was lost with its worker."""
        local = self._local
        if self._store is None:
            return False
        try:
            if not self._reconnect(
                self.config.worker_start_timeout_s, may_launch=local is None or not local.was_stopped
            ):
                return True
            with self._lock:
                held = list(self._held.values())
            for publication in held:
                if publication.origin is not None and (
                    publication.is_forgotten or publication.is_of_other(self._store)
                ):
                    self._publish_again(publication)
        except FastLoadError as error:
            _log.debug("what was lost with its worker is not published again yet: %s", str(error))
        return True

    def _publish_again(self, publication: Publication) -> None:
        origin = publication.origin
        assert origin is not None
        model, worker = origin.model(), self._worker("publish")
        deadline = Deadline(self.config.publish_deadline_s, "publish")
        why = "its tensors are gone"
        if worker.catalogue.was_evicted(origin.who, publication.generation, deadline):
            why = "it was evicted"
        elif model is not None:
            try:
                worker = attrs.evolve(worker, config=origin.config)
                table = TensorTable(model, op="publish", writable=False, max_tensors=self.config.max_tensors)
                context = self._devices.of(table)
                made = Publisher(
                    worker, origin.who, table, context, deadline, None, publication.files, again=publication
                )
                made.publish(time.perf_counter())
            except (IntegrityError, InvalidArgumentError, LayoutMismatchError) as error:
                why = str(error)
            else:
                publication.tie(self._local)
                _log.warning("published again what was lost with its worker: generation %s", publication.generation)
                return
        publication.origin = None
        _log.warning("generation %s was lost and is not published again: %s", publication.generation, why)

    def _worker_address(self) -> str:
        address = self.config.worker
        if address == "auto":
            address = Config.worker_from_env() or "auto"
        if address == "auto":
            local = LocalWorker(
                home=self.config.worker_home or None,
                memory_mb=self.config.worker_memory_mb,
                start_timeout_s=self.config.worker_start_timeout_s,
                curve_key_dir=self.config.curve_key_dir or None,
            )
            address = local.start().address
            self._local = local
            leave = weakref.finalize(self, local.stop)
            leave.atexit = False  # `close_all` comes first, and publications are withdrawn from a live worker
            self._leave_local_worker = leave
        return address

    def _worker(self, op: str, deadline_s: float | None = None) -> Worker:
        """The worker, another one where the local one has gone and ``deadline_s`` are given to find or start it."""
        if deadline_s is not None and self._store is not None:
            self._reconnect(deadline_s)
        if self._store is None:
            raise InvalidArgumentError("this FastLoader is closed", op=op)
        catalogue = Catalogue(self._store, self.config, self._usage)
        return Worker(catalogue, self.config, self._connection, self._copy_threads)

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
        worker = self._worker("publish", self.config.publish_deadline_s)
        who = Identity.of(identity, op="publish")
        try:
            if publish_as is not None:
                worker = attrs.evolve(worker, config=attrs.evolve(self.config, publish_as=publish_as))
            deadline = Deadline(self.config.publish_deadline_s, "publish")
            table = TensorTable(model, op="publish", writable=False, max_tensors=self.config.max_tensors)
            self._usage.note("tensors", len(table.tensors))
            told = None if files is None else check_files(files, op="publish")
            publisher = Publisher(worker, who, table, self._devices.of(table), deadline, progress, told)
            publication = publisher.publish(started)
            publication.keep_origin(table, who, worker.config)
        finally:
            self._release(who)
        self._published.add(publication)
        self._keep(who, publication, deadline)
        return publication

    def _keep(self, who: Identity, publication: Publication, deadline: Deadline) -> None:
        """One publication of an identity at a time: the newer one takes over."""
        with self._lock:
            before = self._held.get(who.digest)
            self._held[who.digest] = publication
            if self._guard is None:
                self._guard = Guard(self._look, share=1)
        if before is not None:
            before.close_by(deadline)
        publication.tie(self._local)
        count(lambda metrics: metrics.kept(publication))

    def publication(self, identity: Mapping[str, Any]) -> Publication | None:
        """What this loader keeps published of an identity, after `publish` or a `load` with ``hold``; None if nothing.

        Raises:
            InvalidArgumentError: The identity cannot be hashed.
        """
        who = Identity.of(identity, op="publication")
        with self._lock:
            return self._held.get(who.digest)

    def wait_for_publisher(self, identity: Mapping[str, Any], *, timeout_s: float) -> None:
        """Have one of the processes that start together read the disk, and the others wait for it.

        Returns at once where somebody publishes. Else the first process that asks gets a `NotPublishedError` at once:
        its turn is to read the disk and to `publish`, or to `release` the identity if it cannot. The others return as
        soon as it has published. If it dies, its turn is another's within ``config.lease_s``.

        Args:
            identity: As in `load`, which comes next.
            timeout_s: Longest wait, seconds.

        Raises:
            NotPublishedError: It is this process's turn, or that of another which did not publish in time.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Nor within ``config.rpc_timeout_s``.
            InvalidArgumentError: The identity cannot be hashed.
        """
        op = "wait_for_publisher"
        who = Identity.of(identity, op=op)
        with self._lock:
            mine = who.digest in self._claims
        if not mine:
            claim = await_publisher(
                self._worker(op, self.config.worker_start_timeout_s).catalogue, who, timeout_s, op=op
            )
            if claim is None:
                return
            with self._lock:
                self._claims[who.digest] = claim
        raise NotPublishedError(
            f"no live source publishes {who.fields}; load from disk and publish, others wait for it",
            op=op,
            failed_keys=[who.head_key],
        )

    def release(self, identity: Mapping[str, Any]) -> None:
        """Let another process publish what `wait_for_publisher` made this one's turn. Bounded.

        `publish`, whatever its end, and `close` do so by themselves.

        Raises:
            InvalidArgumentError: The identity cannot be hashed.
        """
        self._release(Identity.of(identity, op="release"))

    def _release(self, who: Identity) -> None:
        with self._lock:
            claim = self._claims.pop(who.digest, None)
        if claim is not None:
            claim.release()

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

    def is_published(self, identity: Mapping[str, Any], *, deadline_s: float | None = None) -> bool:
        """Whether a live source publishes an identity: one call to the worker.

        Raises:
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not known within ``deadline_s``, by default ``config.deadline_s``.
            InvalidArgumentError: The identity cannot be hashed.
        """
        who = Identity.of(identity, op="is_published")
        deadline = Deadline(self.config.deadline_s if deadline_s is None else deadline_s, "is_published")
        try:
            self._worker("is_published", deadline.left()).catalogue.head(who, deadline, op="is_published")
        except NotPublishedError:
            return False
        return True

    def identities(self, *, deadline_s: float | None = None) -> list[dict[str, Any]]:
        """The identities that are published at the worker, as far as they are listed: see `yr-fastload ls`.

        Raises:
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not known within ``deadline_s``, by default ``config.deadline_s``.
        """
        deadline = Deadline(self.config.deadline_s if deadline_s is None else deadline_s, "identities")
        found = identities(self._worker("identities").catalogue, deadline, op="identities")
        return [each.fields for each in found]

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
        context = self._devices.of(table)
        return of_tensors(context, table, self._copy_threads, self.config.publish_deadline_s)

    # -- the files that weights were read from ------------------------------------------------------------------

    def files(
        self, identity: Mapping[str, Any], generation: str | None = None, *, deadline_s: float | None = None
    ) -> dict[str, str] | None:
        """SHA-256 sums, by name, of files that published weights were read from, as far as their publisher knows them.

        Args:
            identity: As in `load`.
            generation: Which version of the weights; by default the current one.
            deadline_s: Bound, seconds; by default ``config.deadline_s``.

        Returns:
            None if that is not published any more, or says nothing of files.

        Raises:
            IntegrityError: They are damaged.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not known in time.
            InvalidArgumentError: The identity cannot be hashed.
        """
        who = Identity.of(identity, op="files")
        deadline = Deadline(self.config.deadline_s if deadline_s is None else deadline_s, "files")
        catalogue = self._worker("files").catalogue
        if generation is None:
            try:
                generation = catalogue.head(who, deadline, op="files")[1].generation
            except NotPublishedError:
                return None
        return catalogue.files(who, generation, deadline, op="files")

    def tell_files(self, publication: Publication, files: Mapping[str, str], *, deadline_s: float = 60.0) -> None:
        """Tell sums of files that were not known when their weights were published.

        Args:
            publication: Of this process, made with ``files``.
            files: SHA-256 sums by name; what is known already stays.
            deadline_s: Bound, seconds.

        Raises:
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not done in time.
            InvalidArgumentError: A name or a sum is none.
        """
        who = Identity.of(publication.identity, op="tell_files")
        told = check_files(files, op="tell_files")
        deadline = Deadline(deadline_s, "tell_files")
        self._worker("tell_files").catalogue.tell_files(who, publication.generation, told, deadline)
        publication.files = {**told, **(publication.files or {})}

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
        worker = self._worker("load", deadline.left())
        if zero_copy is not None:
            worker = attrs.evolve(worker, config=attrs.evolve(self.config, zero_copy=zero_copy))
        who = Identity.of(identity, op="load")
        with timeline.stage("layout"):
            table = TensorTable(model, op="load", writable=True, max_tensors=self.config.max_tensors)
        self._usage.note("tensors", len(table.tensors))
        trusted = trusted_digests if trusted_digests is not None else self.config.trusted_digests or None
        pins = None if trusted is None else check_trusted(trusted, op="load")
        known = check_files(files or {}, op="load")
        puller = Puller(worker, who, table, self._devices.of(table), deadline, progress, pins, timeline, known)
        try:
            pulled = self._pull(puller)
        except FastLoadError as error:
            error.memory_written = puller.memory_written
            raise
        report = LoadReport(
            bytes=table.bytes,
            tensors=len(table.tensors),
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
        )
        with self._lock:
            self._loads += 1
            self._loaded_bytes += report.bytes
            self._retried_chunks += report.chunks_retried
        if self.config.hold:
            self._hold(worker, pulled, report, deadline, table)
        return report

    @staticmethod
    def _pull(puller: Puller) -> Pulled:
        for _ in range(ATTEMPTS):
            try:
                return puller.pull()
            except SupersededError:
                continue
        raise PartialTransferError(f"the publication was replaced {ATTEMPTS} times while it was read", op="load")

    def _hold(self, worker: Worker, pulled: Pulled, report: LoadReport, deadline: Deadline, table: TensorTable) -> None:
        """Become a source of what was loaded, if there is time. Not being one is no error: the weights are here."""
        who = pulled.generation.who
        with self._lock:
            held = self._held.get(who.digest)
        if held is not None and held.generation == report.generation and held.state == "live" and not pulled.peer:
            return
        try:
            publication = pulled.join(worker, deadline.at_most(LEAVE_S), report)
        except FastLoadError as error:
            _log.debug("did not become a source: %s", str(error))
            return
        publication.keep_origin(table, who, worker.config)
        self._keep(who, publication, deadline)

    # -- the rest -----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Every bound of this loader with what was used of it, and what it has done; plain types.

        ``bounds`` has for each the ``cap`` and the ``peak``: of this loader, and of any one transfer of the process for
        ``copy_threads`` and ``chunks_in_flight``. What the whole process shares has ``used``, what there is now.
        """
        with self._lock:
            held = list(self._held.values())
            counts = {
                "loads": self._loads,
                "loaded_bytes": self._loaded_bytes,
                "chunks_retried": self._retried_chunks,
            }
        return {
            "worker": self.worker,
            "transport": self.config.transport,
            "copy_threads": self._copy_threads,
            "deadline_s": self.config.deadline_s,
            "bounds": self._bounds(),
            "devices": self._devices.stats(),
            "sources": {publication.generation: publication.state for publication in held},
            "threads_left_behind": _core.threads_left_behind(),
            "connections_left_behind": _core.connections_left_behind(),
            "digest_backend": _core.digest_backend(),
            **counts,
        }

    def _bounds(self) -> dict[str, dict[str, int]]:
        config, transfers = self.config, _core.transfer_peaks()
        peaks = {
            "copy_threads": (self._copy_threads, transfers["copy_threads"]),
            "chunks_in_flight": (config.chunks_in_flight, transfers["chunks_in_flight"]),
            "tensors": (config.max_tensors, self._usage.most("tensors")),
            "manifest_bytes": (config.max_manifest_bytes, self._usage.most("manifest_bytes")),
            "staging_bytes": (config.staging_bytes, self._devices.peak_bytes("staging")),
            "landing_bytes": (config.staging_bytes, self._devices.peak_bytes("landing")),
        }
        used = {
            "threads_left_behind": (_core.MOST_THREADS_LEFT_BEHIND, _core.threads_left_behind()),
            "connections_left_behind": (_core.MOST_CONNECTIONS_LEFT_BEHIND, _core.connections_left_behind()),
            "descriptors": (resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.listdir("/proc/self/fd"))),
        }
        return {name: {"cap": cap, "peak": peak} for name, (cap, peak) in peaks.items()} | {
            name: {"cap": cap, "used": now} for name, (cap, now) in used.items()
        }

    def close(self) -> None:
        """Withdraw everything this loader publishes or holds, and disconnect. Idempotent and bounded.

        In a process that was forked since, it does nothing: all that is the parent's.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            held, self._held = list(self._held.values()), {}
            claims, self._claims = list(self._claims.values()), {}
            self._store, store = None, self._store
            self._closed = True
        if self._guard is not None:
            self._guard.stop()
            self._guard.join(LEAVE_S)
        for claim in claims:
            claim.release()
        for publication in {*held, *self._published}:
            publication.close()
        self._devices.close()
        del store
        self._leave_local_worker()

    def __enter__(self) -> FastLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
