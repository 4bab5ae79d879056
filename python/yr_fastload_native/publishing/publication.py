"""A generation that this process keeps published."""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Callable, Mapping, Set
from typing import Any

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Generation
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.process.at_exit import close_all, close_at_exit
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.process.poller import Poller
from yr_fastload_native.process.sigterm import before_sigterm
from yr_fastload_native.publishing.background_digests import BackgroundDigests
from yr_fastload_native.publishing.by_reference import PublishedByReference
from yr_fastload_native.publishing.origin import Origin, TensorOrigin
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.weights.tensor_table import TensorTable
from yr_fastload_native.worker import LocalWorker

__all__ = ["LEAVE_S", "Publication", "PublicationParts"]

_log = logging.getLogger(__name__)

LEAVE_S = 2.0
_CHECK_S = 60.0


@attrs.frozen(kw_only=True)
class PublicationParts:
    """What a publication is made of.

    Attributes:
        joined: Whether the generation was there already.
        size: Of its weights, bytes.
        seconds: Wall time of the publish, or of the load.
        lease_s: After which it counts as lost where the worker has not answered.
        store: Where it is published.
        peer: This process's part in serving it by reference, if it has one.
        served: What it serves then.
        digest: Of the content, if it is known by now.
    """

    generation: Generation
    lease: _core.Lease
    joined: bool
    size: int
    seconds: float
    lease_s: float
    store: _core.ObjectStore
    peer: Peer | None
    served: PublishedByReference | None
    digest: str | None


class Publication:
    """One identity's weights, published by this process until closed.

    One that is served device to device (`d2d`) is by reference: until it is closed it keeps its tensors, and they must
    not change. If torch's are written to all the same, or given other memory, that is noticed within a second or so,
    and it is withdrawn unless the bytes are what they were; a reader that is faster finds out by its digests.

    Attributes:
        generation: Name of this version of the weights; every publish of changed weights makes a new one.
        manifest: What readers were told of it.
        transports: By which readers can have it.
        joined: Whether the same bytes were published already, and this process only became one more source.
        seconds: Wall time of the publish.
        files: SHA-256 sums of files that it was read from, by name, as far as it told them; None if it told nothing.
        failure: Why, where the state is ``failed``; else empty.
    """

    def __init__(self, parts: PublicationParts) -> None:
        self._pid = os.getpid()
        self._closed = False
        self.tie(None)
        self.origin: Origin | None = None
        self._settling: BackgroundDigests | None = None
        self._guard: Poller | None = None
        self._changed_files: Callable[[], list[str]] | None = None
        self._begin(parts)
        close_at_exit(self)

    def _begin(self, parts: PublicationParts) -> None:
        generation, served = parts.generation, parts.served
        self.identity: Mapping[str, Any] = generation.who.fields
        self.manifest = generation.manifest
        self._digests = generation.digests
        self.files = generation.files
        self.generation = generation.manifest.generation
        self.transports = generation.transports
        self.joined = parts.joined
        self.bytes = parts.size
        self.tensors = len(generation.manifest.tensors)
        self.chunks = len(generation.manifest.chunks)
        self.seconds = parts.seconds
        self._lease = parts.lease
        self._lease_s = parts.lease_s
        self._store = parts.store
        self._peer = parts.peer
        self._served = served
        self._digest = parts.digest
        self.failure = ""
        self._seen = served.versions if served is not None else None
        if parts.peer is not None:
            before_sigterm(close_all)  # its readers need not find out that it is gone
        if self._seen is not None and self._guard is None:
            self._guard = Poller(self._look)

    def is_of_other(self, store: _core.ObjectStore) -> bool:
        """Whether it was published in another store than this one."""
        return self._store is not store and self.state != "left"

    def begin_again(self, parts: PublicationParts) -> None:
        """Go on as a publication of the same bytes, where that before was lost with its worker."""
        if self._settling is not None:
            self._settling.stop()
            self._settling = None
        if self._peer is not None:
            self._peer.leave(Deadline(LEAVE_S, "close"))
        self._begin(parts)
        if self._closed:  # meanwhile: what was left then is what was before
            self.close_by(Deadline(LEAVE_S, "close"))

    def chunk_digests(self) -> array[int] | None:
        """The digest of each chunk, None as long as they were not taken."""
        if self._settling is not None:
            return self._settling.chunks
        return None if self._digests is None else self._digests.chunks

    def keep_origin(self, table: TensorTable, who: Identity, config: Config) -> None:
        """Remember of what it was made, so that it can be made again."""
        self.origin = TensorOrigin.of(who, table, config)

    def settle(self, settling: Callable[[Callable[[str], None]], BackgroundDigests]) -> None:
        """Have digests taken in the background; the publication is withdrawn if they cannot be."""
        self._settling = settling(self._give_up)

    def wait_settled(self, timeout_s: float) -> bool:
        """Whether every chunk is served and its digest stored: as soon as that is known, and within ``timeout_s``.

        Readers need not wait for it, and get the same bytes before; they only wait for the digests themselves.
        """
        return self._settling is None or self._settling.wait(timeout_s)

    def _give_up(self, why: str) -> None:
        self.failure = why
        self.close()

    def withdraw_when(self, changed: Callable[[], list[str]]) -> None:
        """Withdraw it as soon as files that it was made from are not what they were: `changed` names them."""
        self._changed_files = changed
        self._guard = Poller(self._look_at_files)

    def _look_at_files(self) -> bool:
        changed = [] if self._changed_files is None else self._changed_files()
        if changed:
            why = f"{len(changed)} files that it was read from were written to or replaced, such as {changed[0]}"
            _log.warning("withdrawing generation %s: %s", self.generation, why)
            self._give_up(why)
        return not changed

    def _look(self) -> bool:
        """Withdraw it if its tensors are not what they were. False once there is nothing more to look for."""
        served = self._served
        if served is None:
            return False
        if self._settling is not None and not self._settling.wait(0):
            return not self.failure  # it looks by itself
        now = served.marks()
        if now == self._seen and not served.moved():
            return True
        started = time.monotonic()
        try:
            changed = served.changed(Deadline(_CHECK_S, "check"))
        except NotPublishedError:
            return False
        except FastLoadError as error:
            _log.debug("could not compare tensors that were written to: %s", str(error))
            return True
        finally:
            if self._guard is not None:
                self._guard.spend(time.monotonic() - started)
        self._seen = now
        if changed:
            why = f"{len(changed)} published tensors were written to or replaced, such as {', '.join(changed[:3])}"
            _log.warning("withdrawing generation %s: %s", self.generation, why)
            self._give_up(why)
        return not changed

    @property
    def digest(self) -> str | None:
        """What a reader passes as ``trusted_digests`` to load these weights and no others; see `content_digest`.

        None without ``publish_sha256``, and by `d2d` until it is settled; of what was loaded, None unless it was
        compared with such a digest.
        """
        return self._digest if self._settling is None else self._settling.digest

    @property
    def state(self) -> str:
        """``live``, ``superseded`` (a newer generation took over), ``lost`` (the worker forgot it, or has not answered
        for a lease; its loader publishes it again if it can), ``left``, or ``failed`` (the chunks could not be served,
        or changed).
        """
        if self.failure:
            return "failed"
        state, age_s = self._lease.status()[:2]
        return "lost" if state == "live" and (age_s > self._lease_s or self._is_cut_off()) else state

    def tie(self, local: LocalWorker | None) -> None:
        """Say that it is lost as soon as this local worker, which has it now, has gone."""
        self._local, self._process = local, None if local is None else local.process

    def _is_cut_off(self) -> bool:
        local = self._local
        return local is not None and (local.is_lost or local.process != self._process)

    @property
    def is_forgotten(self) -> bool:
        """Whether a worker that answers does not know it any more."""
        return not self.failure and self._lease.status()[0] == "lost"

    @property
    def trouble(self) -> str:
        """Why its lease was not renewed when that was tried last; empty if it was, or need not be any more."""
        state, _, error = self._lease.status()
        return error if state in ("live", "lost") else ""

    @property
    def lease_age_s(self) -> float:
        """Seconds since its lease was renewed last: three times in ``lease_s``, while the worker answers."""
        return self._lease.status()[1]

    @property
    def by_reference(self) -> bool:
        """Whether readers take the bytes from the tensors themselves."""
        return self._peer is not None

    def kept_beside(self, used: Set[int]) -> int:
        """Bytes that are published by reference and lie in none of the storages that are used otherwise.

        Args:
            used: Addresses of storages.
        """
        served = self._served
        return 0 if served is None else served.kept_beside(used)

    def changed(self, *, deadline_s: float = 60.0) -> list[str]:
        """Tensors that are no longer what was published: moved, or in a chunk whose bytes differ from its digest.

        A publication that copied its tensors has none, nor has one that was closed. One that has should be.

        Raises:
            NotPublishedError: A newer generation took over.
            TransferTimeoutError: Not done in time.
            UnavailableError: The worker does not answer.
        """
        served = self._served
        return [] if served is None else served.changed(Deadline(deadline_s, "check"))

    def sources(self) -> int:
        """How many live sources keep this generation published, this one included."""
        return self._lease.sources(deadline_s=LEAVE_S)

    def close(self) -> None:
        """Stop being a source; the last one to close withdraws everything. Idempotent, bounded, never raises."""
        self.close_by(Deadline(LEAVE_S, "close"))
        if self._settling is not None:
            self._settling.join()
        if self._guard is not None:
            self._guard.join(LEAVE_S)

    def close_by(self, deadline: Deadline) -> None:
        """Close within a deadline and a moment; what is not done by then goes on, or ends with the lease."""
        if os.getpid() != self._pid:  # a fork: it is the parent's
            return
        self._closed = True
        if self._settling is not None:
            self._settling.stop()
        if self._guard is not None:
            self._guard.stop()
        try:
            self._lease.leave(deadline_s=deadline.spare(LEAVE_S))
        except FastLoadError as error:
            # As text: a handler that keeps records would keep the traceback, and with it the connection.
            _log.warning("could not withdraw at once, the publication ends with its lease: %s", str(error))
        if self._peer is not None:
            self._peer.leave(deadline)
        if self._settling is not None:
            self._settling.join(deadline.spare(LEAVE_S))
        self._served = None  # lets go of the tensors, however long this object is kept

    def __enter__(self) -> Publication:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publication {self.generation} of {dict(self.identity)!r}: {self.state}, {self.bytes} bytes>"
