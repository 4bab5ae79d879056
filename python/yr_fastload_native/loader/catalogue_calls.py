"""What a loader asks of what is published, and whose turn it is to publish: part of `FastLoader`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yr_fastload_native.catalogue.catalogue import SupersededError
from yr_fastload_native.catalogue.election import Claims, await_publisher
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.listing import identities
from yr_fastload_native.errors import NotPublishedError
from yr_fastload_native.loader.store_link import StoreLink
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.settings import Config

__all__ = ["CatalogueCalls"]


class CatalogueCalls:
    """The calls that move no weights."""

    config: Config
    _link: StoreLink
    _claims: Claims

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
            self._link.worker("is_published", deadline.left()).catalogue.head(who, deadline, op="is_published")
        except NotPublishedError:
            return False
        return True

    def sizes(self, identity: Mapping[str, Any], *, deadline_s: float | None = None) -> dict[str, int]:
        """Bytes of each tensor that is published under an identity, by name, for a reader that does not know them.

        Raises:
            NotPublishedError: No live source publishes it.
            IntegrityError: Its manifest is damaged.
            ResourceExhaustedError: The manifest is beyond a bound of the config.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not known within ``deadline_s``, by default ``config.deadline_s``.
            InvalidArgumentError: The identity cannot be hashed.
        """
        op = "sizes"
        who = Identity.of(identity, op=op)
        deadline = Deadline(self.config.deadline_s if deadline_s is None else deadline_s, op)
        catalogue = self._link.worker(op, deadline.left()).catalogue
        head, names = catalogue.head(who, deadline, op=op)
        try:
            generation, _ = catalogue.read(who, head, names, deadline, op=op, mine=None)
        except SupersededError:
            raise NotPublishedError("it was withdrawn meanwhile", op=op, failed_keys=[who.head_key]) from None
        return {each.name: each.bytes for each in generation.manifest.tensors}

    def identities(self, *, deadline_s: float | None = None) -> list[dict[str, Any]]:
        """The identities that are published at the worker, as far as they are listed: see `yr-fastload ls`.

        Raises:
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not known within ``deadline_s``, by default ``config.deadline_s``.
        """
        deadline = Deadline(self.config.deadline_s if deadline_s is None else deadline_s, "identities")
        found = identities(self._link.worker("identities").catalogue, deadline, op="identities")
        return [each.fields for each in found]

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
        if not self._claims.has(who):
            catalogue = self._link.worker(op, self.config.worker_start_timeout_s).catalogue
            claim = await_publisher(catalogue, who, timeout_s, op=op)
            if claim is None:
                return
            self._claims.keep(who, claim)
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
        self._claims.release(Identity.of(identity, op="release"))
