"""What a loader keeps published, and publishes again where it was lost with its worker."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

import attrs

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import FastLoadError, IntegrityError, InvalidArgumentError, LayoutMismatchError
from yr_fastload_native.loader.store_link import StoreLink
from yr_fastload_native.loading.puller import Pulled
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.process.poller import Poller
from yr_fastload_native.publishing.origin import Origin
from yr_fastload_native.publishing.publication import LEAVE_S, Publication
from yr_fastload_native.publishing.publisher import Publisher
from yr_fastload_native.reporting.load_report import LoadReport
from yr_fastload_native.reporting.prometheus import count
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.jobs import Request, StoreSession
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["Kept"]

_log = logging.getLogger(__name__)


class Kept:
    """The publications of one loader, one an identity; a thread looks after them from the first one on."""

    def __init__(self, link: StoreLink, config: Config) -> None:
        self._link = link
        self._config = config
        self._lock = threading.Lock()
        self._held: dict[str, Publication] = {}
        self._made: weakref.WeakSet[Publication] = weakref.WeakSet()
        self._troubled: weakref.WeakSet[Publication] = weakref.WeakSet()
        self._attempts: list[Callable[[], bool]] = []
        self._guard: Poller | None = None

    def get(self, who: Identity) -> Publication | None:
        with self._lock:
            return self._held.get(who.digest)

    def all(self) -> list[Publication]:
        with self._lock:
            return list(self._held.values())

    def trouble(self) -> dict[str, str]:
        """By generation, why a lease was not renewed when that was tried last, or that it was lost."""
        found = {}
        for publication in self.all():
            state, why = publication.state, publication.trouble
            if why or state == "lost":
                found[publication.generation] = f"{state}: {why or 'its worker has gone'}"
        return found

    def keep(self, who: Identity, publication: Publication, deadline: Deadline) -> None:
        """Keep it; the one before of this identity is closed."""
        with self._lock:
            self._made.add(publication)
            before = self._held.get(who.digest)
            self._held[who.digest] = publication
            self._begin()
        if before is not None:
            before.close_by(deadline)
        publication.tie(self._link.local)
        count(lambda metrics: metrics.kept(publication))

    def soon(self, attempt: Callable[[], bool]) -> None:
        """Try this again and again until it says that it is over."""
        with self._lock:
            self._attempts.append(attempt)
            self._begin()

    def _begin(self) -> None:
        if self._guard is None:
            self._guard = Poller(self._look, share=1, clock=time.monotonic)

    def join(
        self, worker: StoreSession, pulled: Pulled, report: LoadReport, deadline: Deadline, table: TensorTable
    ) -> None:
        """Become a source of what was loaded, if there is time. Not being one is no error: the weights are here."""
        who = pulled.generation.who
        held = self.get(who)
        if held is not None and held.generation == report.generation and held.state == "live" and not pulled.peer:
            return
        try:
            publication = pulled.join(worker, deadline.at_most(LEAVE_S), report)
        except FastLoadError as error:
            _log.debug("did not become a source: %s", str(error))
            return
        publication.keep_origin(table, who, worker.config)
        self.keep(who, publication, deadline)

    def stop(self) -> None:
        """Publish nothing again from now on. Bounded."""
        if self._guard is not None:
            self._guard.stop()
            self._guard.join(LEAVE_S)

    def close(self) -> None:
        """Withdraw everything. Idempotent, bounded, never raises."""
        with self._lock:
            held, self._held = list(self._held.values()), {}
            self._attempts = []
        for publication in {*held, *self._made}:
            publication.close()

    def _look(self) -> bool:
        """Publish again what was lost. False once there is nothing more to look after."""
        if self._link.is_closed:
            return False
        with self._lock:
            attempts = list(self._attempts)
        over = [attempt for attempt in attempts if attempt()]
        with self._lock:
            self._attempts = [attempt for attempt in self._attempts if attempt not in over]
        for publication in self.all():
            self._tell_trouble(publication)
        try:
            if self._link.rejoin(self._config.worker_start_timeout_s, unasked=True):
                worker = self._link.worker("publish")
                for publication in self.all():
                    if publication.is_forgotten or publication.is_of_other(worker.catalogue.store):
                        self._publish_again(publication, worker)
        except FastLoadError as error:
            _log.debug("what was lost with its worker is not published again yet: %s", str(error))
        return True

    def _tell_trouble(self, publication: Publication) -> None:
        """Say once why a lease is not renewed, and once that it is again."""
        why, told = publication.trouble, publication in self._troubled
        if why and not told:
            self._troubled.add(publication)
            _log.warning("the lease of generation %s was not renewed, trying again: %s", publication.generation, why)
        elif told and not why:
            self._troubled.discard(publication)
            _log.warning("generation %s is %s again", publication.generation, publication.state)

    def _publish_again(self, publication: Publication, worker: StoreSession) -> None:
        origin = publication.origin
        if origin is None:
            return
        why = self._why_not_again(publication, origin, worker)
        if why is None:
            publication.tie(self._link.local)
            self._troubled.discard(publication)
            _log.warning("published again what was lost with its worker: generation %s", publication.generation)
        else:
            publication.origin = None
            _log.warning("generation %s was lost and is not published again: %s", publication.generation, why)

    def _why_not_again(self, publication: Publication, origin: Origin, worker: StoreSession) -> str | None:
        """Publish again what a publication was made of: None if it is published, else why it never will be."""
        who, deadline = origin.who(), Deadline(self._config.publish_deadline_s, "publish")
        if worker.catalogue.was_evicted(who, publication.generation, deadline):
            return "it was evicted"
        worker = attrs.evolve(worker, config=origin.config)
        try:
            model = origin.model()
            if model is None:
                return "its tensors are gone"
            table = TensorTable(model, op="publish", writable=False, max_tensors=self._config.max_tensors)
            context = self._link.devices.of(table)
            request = Request(worker, who, table, context, deadline, None)
            publisher = Publisher(request, publication.files, again=publication, growing=origin.growing())
            publisher.publish(time.perf_counter())
        except (IntegrityError, InvalidArgumentError, LayoutMismatchError) as error:
            return str(error)
        return None
