"""If many processes want weights that nobody publishes, one reads them from disk and the others wait for it."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
import weakref

from yr_fastload_native.catalogue.catalogue import Catalogue, set_own
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.process.deadline import Deadline

__all__ = ["Claim", "Claims", "await_publisher"]

_log = logging.getLogger(__name__)

_POLL_S = 0.1
_RELEASE_S = 1.0


class Claim:
    """This process's claim to publish an identity, for which others wait.

    It is renewed three times per lease until it is released or garbage-collected, so a process that dies or forgets it
    hands over within its lease.
    """

    def __init__(self, catalogue: Catalogue, who: Identity, token: bytes) -> None:
        self._catalogue = catalogue
        self._key = who.claim_key
        self._token = token
        self._released = threading.Event()
        weakref.finalize(self, self._released.set).atexit = False
        self._renewing = threading.Thread(
            target=_renew, args=(catalogue, self._key, self._released), name="yrfl-claim", daemon=True
        )
        self._renewing.start()

    @classmethod
    def take(cls, catalogue: Catalogue, who: Identity, deadline: Deadline) -> Claim | None:
        """Take the claim; None if another process has it.

        Raises:
            UnavailableError: The worker does not answer.
        """
        token = secrets.token_hex(16).encode()
        key, lease_s = who.claim_key, catalogue.config.lease_s
        taken = set_own(catalogue.store, {key: token}, witness=key, ttl_s=lease_s, deadline=deadline)
        return cls(catalogue, who, token) if taken else None

    def release(self) -> None:
        """Give up the claim. Idempotent, bounded, never raises."""
        if self._released.is_set():
            return
        self._released.set()
        store, deadline = self._catalogue.store, Deadline(_RELEASE_S, "release")
        try:
            # It may have expired and belong to another process by now.
            if store.get(self._key, deadline_s=deadline.left()) == self._token:
                store.erase([self._key], deadline_s=deadline.left())
        except FastLoadError as error:
            _log.debug("a claim will end with its lease: %s", str(error))
        self._renewing.join(_RELEASE_S)


def _renew(catalogue: Catalogue, key: str, released: threading.Event) -> None:
    lease_s = catalogue.config.lease_s
    while not released.wait(lease_s / 3):
        try:
            catalogue.store.expire([key], ttl_s=lease_s, deadline_s=lease_s / 3)
        except FastLoadError as error:
            _log.debug("a claim was not renewed: %s", str(error))


class Claims:
    """The claims of one loader, one an identity. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Claim] = {}

    def has(self, who: Identity) -> bool:
        with self._lock:
            return who.digest in self._held

    def keep(self, who: Identity, claim: Claim) -> None:
        with self._lock:
            self._held[who.digest] = claim

    def release(self, who: Identity) -> None:
        """Let another process have it. Idempotent, bounded, never raises."""
        with self._lock:
            claim = self._held.pop(who.digest, None)
        if claim is not None:
            claim.release()

    def release_all(self) -> None:
        """Likewise, of every identity."""
        with self._lock:
            claims, self._held = list(self._held.values()), {}
        for claim in claims:
            claim.release()


def await_publisher(catalogue: Catalogue, who: Identity, wait_s: float, *, op: str) -> Claim | None:
    """Wait until somebody publishes, or until it is this process's turn.

    Args:
        catalogue: The worker's catalogue.
        who: The wanted identity.
        wait_s: Longest wait for another process, seconds.
        op: For errors.

    Returns:
        The claim if this process should read the disk; None if somebody publishes.

    Raises:
        NotPublishedError: Another process has the claim, but has not published in time.
        UnavailableError: The worker does not answer.
        TransferTimeoutError: It did not answer within ``rpc_timeout_s``.
    """
    store, rpc_s = catalogue.store, catalogue.config.rpc_timeout_s
    end = time.monotonic() + wait_s
    told = False
    while True:
        head, claim = store.get_many([who.head_key, who.claim_key], deadline_s=rpc_s)
        if head is not None:
            return None
        if claim is None:
            mine = Claim.take(catalogue, who, Deadline(rpc_s, op))
            if mine is not None:
                with contextlib.ExitStack() as unless_returned:
                    unless_returned.callback(mine.release)
                    if store.get(who.head_key, deadline_s=rpc_s) is None:
                        unless_returned.pop_all()
                        return mine
                return None  # published, and the claim released, between the two checks
        if time.monotonic() >= end:
            raise NotPublishedError(
                f"no live source publishes {who.fields}, nor did the process that reads it within {wait_s:g} s; load "
                "from disk",
                op=op,
                failed_keys=[who.head_key],
            )
        if not told:
            _log.info("another process is reading these weights from disk; waiting at most %g s for it", wait_s)
            told = True
        time.sleep(min(_POLL_S, max(0.0, end - time.monotonic())))
