"""Publish the weights of a model, and load those that another process published."""

from __future__ import annotations

import logging
import math
import os
import secrets
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from yr_fastload_native import _core
from yr_fastload_native.catalogue import Catalogue, Generation, SupersededError
from yr_fastload_native.config import Config, parse_address
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.errors import (
    FastLoadError,
    IntegrityError,
    InvalidArgumentError,
    LayoutMismatchError,
    NotPublishedError,
    PartialTransferError,
    UnavailableError,
)
from yr_fastload_native.identity import Identity
from yr_fastload_native.manifest import Manifest, build_manifest, mapped_addresses
from yr_fastload_native.publication import LEAVE_S, Publication, close_at_exit
from yr_fastload_native.report import LoadReport
from yr_fastload_native.tensors import TensorTable
from yr_fastload_native.worker import LocalWorker

__all__ = ["FastLoader", "Progress"]

Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)

_ATTEMPTS = 3


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
            InvalidArgumentError: ``DS_WORKER_ADDR`` is no address.
        """
        self.config = Config.from_env() if config is None else config
        self._leave_local_worker: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._held: dict[str, Publication] = {}
        self._published: weakref.WeakSet[Publication] = weakref.WeakSet()
        self._loads = 0
        self._loaded_bytes = 0
        self._retried_chunks = 0
        self.worker = self._worker_address()
        self._copy_threads = self.config.copy_threads or min(8, len(os.sched_getaffinity(0)))
        self._device = _core.cpu_device()
        self._pool = _core.PinnedPool(self._device, self.config.staging_bytes)
        try:
            store = self._connect()
        except BaseException:
            self._leave_local_worker()
            raise
        self._store: _core.ObjectStore | None = store
        self.transport = store.transport
        close_at_exit(self)

    def _worker_address(self) -> str:
        address = self.config.worker
        if address == "auto":
            address = Config.worker_from_env() or "auto"
        if address == "auto":
            local = LocalWorker(
                memory_mb=self.config.worker_memory_mb, start_timeout_s=self.config.worker_start_timeout_s
            )
            address = local.start().address
            leave = weakref.finalize(self, local.stop)
            leave.atexit = False  # `_close_all` comes first, and publications are withdrawn from a live worker
            self._leave_local_worker = leave
        return address

    def _connect(self) -> _core.ObjectStore:
        host, port = parse_address(self.worker, op="connect")
        return _core.connect_host_store(
            host,
            port,
            connect_timeout_s=self.config.connect_timeout_s,
            rpc_timeout_s=self.config.rpc_timeout_s,
        )

    def _catalogue(self, op: str) -> Catalogue:
        if self._store is None:
            raise InvalidArgumentError("this FastLoader is closed", op=op)
        return Catalogue(self._store, self.config)

    # -- publish ------------------------------------------------------------------------------------------------

    def publish(self, model: Any, identity: Mapping[str, Any], *, progress: Progress | None = None) -> Publication:
        """Publish every parameter and buffer; returns when another process can load them.

        The bytes are copied into the worker's shared memory, so the tensors may change afterwards. Publishing the same
        bytes again joins the generation that is there; other bytes make a new generation, and readers of the old one
        finish on it or get a typed error.

        Args:
            model: ``torch.nn.Module``, or mapping of names to anything with DLPack or the buffer protocol. Dense
                tensors in CPU memory; tied tensors and views of others move once, empty ones never.
            identity: What makes these weights these weights: model, revision, checkpoint fingerprint, dtype,
                quantisation, ranks and sizes, stage, ... Plain JSON types.
            progress: Called with bytes done and in total, from this thread, at most 20 times a second.

        Raises:
            InvalidArgumentError: A tensor cannot be moved, or the identity cannot be hashed.
            ResourceExhaustedError: The worker's shared memory has no room; nothing was published.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not done within ``publish_deadline_s``.
        """
        started = time.perf_counter()
        catalogue = self._catalogue("publish")
        who = Identity.of(identity, op="publish")
        deadline = Deadline(self.config.publish_deadline_s, "publish")
        table = TensorTable(model, op="publish", writable=False, max_tensors=self.config.max_tensors)

        for attempt in range(_ATTEMPTS):
            generation = self._twin(catalogue, who, table, deadline) if attempt == 0 else None
            joined = generation is not None
            if generation is None:
                generation, joined = self._publish_new(catalogue, who, table, deadline, progress)
            try:
                lease = catalogue.take_lease(generation, deadline)
                break
            except NotPublishedError as error:  # withdrawn or replaced since; what was joined is not joined again
                _log.debug("publishing anew: %s", error)
        else:
            raise UnavailableError(f"others replaced the publication {_ATTEMPTS} times meanwhile", op="publish")
        publication = Publication(
            generation, lease, joined=joined, size=table.bytes, seconds=time.perf_counter() - started
        )
        self._published.add(publication)
        self._keep(who, publication)
        return publication

    def _keep(self, who: Identity, publication: Publication) -> None:
        """One publication of an identity at a time: the newer one takes over."""
        with self._lock:
            before = self._held.get(who.digest)
            self._held[who.digest] = publication
        if before is not None:
            before.close()

    def _twin(self, catalogue: Catalogue, who: Identity, table: TensorTable, deadline: Deadline) -> Generation | None:
        """The current generation, if it holds exactly these bytes."""
        try:
            current = catalogue.current(who, deadline, op="publish")
            current.manifest.check_layout(table, op="publish")
        except (NotPublishedError, LayoutMismatchError, IntegrityError, SupersededError):
            return None
        digests = _core.digest_chunks(
            current.manifest.plan(),
            mapped_addresses(current.manifest, table),
            copy_threads=self._copy_threads,
            deadline_s=deadline.left(),
        )
        return current if list(digests) == list(current.manifest.digests()) else None

    def _publish_new(
        self,
        catalogue: Catalogue,
        who: Identity,
        table: TensorTable,
        deadline: Deadline,
        progress: Progress | None,
    ) -> tuple[Generation, bool]:
        """Store a new generation and let the head name it; or join an equal one that came first (then True)."""
        name = f"{time.time_ns():016x}{secrets.token_hex(4)}"
        limits = (self.config.chunk_bytes, self.config.max_blobs)
        sizes = array("Q", [t.bytes if table.owner[i] == i else 0 for i, t in enumerate(table.tensors)])
        plan = _core.make_plan(sizes, chunk_bytes=limits[0], max_blobs=limits[1])
        # Until the lease renews it, the first chunk must live as long as the last one takes.
        ttl_s = math.ceil(self.config.publish_deadline_s) + catalogue.data_ttl_s
        digests, seconds = _core.publish_chunks(
            catalogue.store,
            plan,
            table.addresses,
            key_prefix=who.chunk_prefix(name),
            ttl_s=ttl_s,
            copy_threads=self._copy_threads,
            chunks_in_flight=self.config.chunks_in_flight,
            verify=True,
            deadline_s=deadline.left(),
            progress=progress,
        )
        _log.debug("published %d chunks: %s", plan.chunks, seconds)
        try:
            manifest = build_manifest(who, name, table, plan, digests, limits)
            made = catalogue.describe(who, manifest, ttl_s=ttl_s, deadline=deadline)
            if catalogue.announce(made, deadline, replace=False):
                return made, False
            # Somebody published while we copied. The same bytes: theirs will do. Other bytes: the later one counts.
            twin = self._twin(catalogue, who, table, deadline)
            if twin is None:
                catalogue.announce(made, deadline, replace=True)
                return made, False
        except BaseException:
            catalogue.erase_data(who, name, plan.chunks)
            raise
        catalogue.erase_data(who, name, plan.chunks)
        return twin, True

    # -- load ---------------------------------------------------------------------------------------------------

    def load(
        self,
        model: Any,
        identity: Mapping[str, Any],
        *,
        deadline_s: float | None = None,
        progress: Progress | None = None,
    ) -> LoadReport:
        """Fill every parameter and buffer in place with what is published under ``identity``.

        Nothing is written before names, dtypes, shapes, strides, sizes and sharing of all tensors agree, and nothing
        after the call has returned or raised. If it raises later than that, some tensors may have been written: load
        from disk.

        Args:
            model: As in `publish`; every tensor must be writable.
            identity: As it was published.
            deadline_s: Bound of the whole call, seconds; by default ``config.deadline_s``.
            progress: As in `publish`.

        Raises:
            NotPublishedError: No live source publishes this identity.
            LayoutMismatchError: The tensors are not those that were published; nothing was written.
            IntegrityError: Manifest or bytes are damaged, and stayed so when asked for again.
            PartialTransferError: Chunks are missing, and stayed so; ``failed_keys`` names them.
            TransferTimeoutError: Not done within the deadline.
            UnavailableError: The worker does not answer.
            ResourceExhaustedError: A bound of the config was hit.
            InvalidArgumentError: A tensor cannot be loaded into, or the identity cannot be hashed.
        """
        started = time.perf_counter()
        catalogue = self._catalogue("load")
        who = Identity.of(identity, op="load")
        deadline = Deadline(self.config.deadline_s if deadline_s is None else deadline_s, "load")
        table = TensorTable(model, op="load", writable=True, max_tensors=self.config.max_tensors)
        stages = {"layout": time.perf_counter() - started, "manifest": 0.0, "fetch": 0.0, "copy": 0.0}
        for _ in range(_ATTEMPTS):
            try:
                generation, retried = self._load_current(catalogue, who, table, deadline, stages, progress)
                break
            except SupersededError:
                continue
        else:
            raise PartialTransferError(f"the publication was replaced {_ATTEMPTS} times while it was read", op="load")
        report = LoadReport(
            bytes=table.bytes,
            tensors=len(table.tensors),
            chunks=len(generation.manifest.chunks),
            seconds=time.perf_counter() - started,
            transport=self.transport,
            generation=generation.manifest.generation,
            verified=self.config.verify == "digest",
            chunks_retried=retried,
            stages=stages,
        )
        with self._lock:
            self._loads += 1
            self._loaded_bytes += report.bytes
            self._retried_chunks += retried
        if self.config.hold:
            self._hold(catalogue, generation, report)
        return report

    def _load_current(
        self,
        catalogue: Catalogue,
        who: Identity,
        table: TensorTable,
        deadline: Deadline,
        stages: dict[str, float],
        progress: Progress | None,
    ) -> tuple[Generation, int]:
        """Load the current generation; what failed is asked for once more, and nothing else."""
        started = time.perf_counter()
        generation = catalogue.current(who, deadline, op="load")
        manifest = generation.manifest
        manifest.check_layout(table, op="load")
        plan = manifest.plan()
        addresses = mapped_addresses(manifest, table)
        stages["manifest"] += time.perf_counter() - started
        wanted = array("Q", range(plan.chunks))
        retried = 0
        while True:
            _, seconds, failures = _core.load_chunks(
                catalogue.store,
                self._device,
                self._pool,
                plan,
                addresses,
                wanted,
                key_prefix=generation.chunk_prefix,
                digests=manifest.digests(),
                copy_threads=self._copy_threads,
                chunks_in_flight=self.config.chunks_in_flight,
                verify=self.config.verify == "digest",
                stage=self.config.staging == "always",
                deadline_s=deadline.left(),
                progress=progress,
            )
            stages["fetch"] += seconds["fetch"]
            stages["copy"] += seconds["copy"]
            if not failures:
                return generation, retried
            if not catalogue.is_current(generation, deadline):
                raise SupersededError
            if retried:
                raise self._failed(manifest, plan, failures)
            wanted = array("Q", [chunk for chunk, _, _ in failures])
            retried = len(wanted)

    def _failed(self, manifest: Manifest, plan: _core.Plan, failures: list[tuple[int, str, str]]) -> FastLoadError:
        """The error for chunks that failed twice: damaged bytes weigh more than missing ones."""
        damaged = [failure for failure in failures if failure[1] == IntegrityError.code]
        kind: type[FastLoadError] = IntegrityError if damaged else PartialTransferError
        chunk, code, detail = (damaged or failures)[0]
        tensors = manifest.chunk_tensors(plan, chunk)
        names = ", ".join(tensors[:2]) + (f", +{len(tensors) - 2}" if len(tensors) > 2 else "")
        return kind(
            f"{len(failures)}/{plan.chunks} chunks failed twice: {code}: chunk {chunk} of {manifest.publisher} "
            f"{detail} [{names}]",
            op="load",
            failed_keys=[manifest.chunks[chunk].key for chunk, _, _ in failures],
        )

    def _hold(self, catalogue: Catalogue, generation: Generation, report: LoadReport) -> None:
        """Become a source of what was loaded. Not being one is no error: the weights are here."""
        who = generation.who
        with self._lock:
            held = self._held.get(who.digest)
        if held is not None and held.generation == report.generation and held.state == "live":
            return
        try:
            lease = catalogue.take_lease(generation, Deadline(LEAVE_S, "load"))
        except FastLoadError as error:
            _log.debug("did not become a source: %s", error)
            return
        self._keep(who, Publication(generation, lease, joined=True, size=report.bytes, seconds=report.seconds))

    # -- the rest -----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Every bound of this loader with what is used of it, and what it has done; plain types."""
        with self._lock:
            held = list(self._held.values())
            counts = {
                "loads": self._loads,
                "loaded_bytes": self._loaded_bytes,
                "chunks_retried": self._retried_chunks,
            }
        return {
            "worker": self.worker,
            "transport": self.transport,
            "copy_threads": self._copy_threads,
            "chunks_in_flight": self.config.chunks_in_flight,
            "deadline_s": self.config.deadline_s,
            "staging": self._pool.stats(),
            "sources": {publication.generation: publication.state for publication in held},
            "threads_left_behind": _core.threads_left_behind(),
            "digest_backend": _core.digest_backend(),
            **counts,
        }

    def close(self) -> None:
        """Withdraw everything this loader publishes or holds, and disconnect. Idempotent and bounded."""
        with self._lock:
            held, self._held = list(self._held.values()), {}
            self._store, store = None, self._store
        for publication in {*held, *self._published}:
            publication.close()
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
