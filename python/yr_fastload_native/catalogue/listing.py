"""What a cluster has published: found, and looked at.

openYuanrong cannot list its keys. So every source of an identity also maintains one of `entry_keys`, which holds its
digest. With many hundreds of identities, some may find no free one; they are not listed, but served anyway.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

import attrs

from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.keys import Keys, entry_keys
from yr_fastload_native.catalogue.manifest import Head, Manifest
from yr_fastload_native.catalogue.manifest_codec import decode_head, decode_manifest, identity_in
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError, NotPublishedError, ResourceExhaustedError
from yr_fastload_native.process.deadline import Deadline

__all__ = ["Listed", "digests", "find", "identities", "look"]

_DIGEST = re.compile(r"[0-9a-f]{64}")


@attrs.frozen
class Listed:
    """The current generation of an identity.

    Attributes:
        who: The identity.
        head: The stored head, which names the generation.
        manifest: The generation's manifest.
        transports: The transports that it offers.
        sources: ``host:pid`` of each process that keeps it published.
    """

    who: Identity
    head: bytes
    manifest: Manifest
    transports: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of its weights, counting tied ones once."""
        return sum(tensor.bytes for tensor in self.manifest.tensors if tensor.alias is None)

    @property
    def age_s(self) -> float:
        """Time since it was published, by the wall clocks of its publisher and of this machine."""
        return max(0.0, time.time() - self.manifest.published_unix_s)


def digests(catalogue: Catalogue, deadline: Deadline) -> list[str]:
    """Digests of identities that are published, or were within the last lease."""
    store = catalogue.store
    keys = entry_keys()
    there = store.exist(keys, deadline_s=deadline.left())
    taken = [key for key, is_there in zip(keys, there, strict=True) if is_there]
    values = store.get_many(taken, deadline_s=deadline.left()) if taken else []
    texts = {value.decode("ascii", "replace") for value in values if value is not None}
    return sorted(text for text in texts if _DIGEST.fullmatch(text))


def look(catalogue: Catalogue, digest: str, deadline: Deadline, *, op: str) -> Listed:
    """The published generation of the identity with this digest.

    Raises:
        NotPublishedError: Nothing is published.
        IntegrityError: It is damaged, or has another format.
        ResourceExhaustedError: It exceeds a limit.
    """
    store, keys = catalogue.store, Keys(digest)
    head = store.get(keys.head_key, deadline_s=deadline.left())
    if head is not None:
        names = decode_head(head, op=op)
        wanted = [keys.manifest_key(names.generation), *keys.slot_keys(names.generation)]
        body, *owners = store.get_many(wanted, deadline_s=deadline.left())
        if body is not None:
            most = catalogue.config.max_manifest_bytes
            who = identity_in(body, names, digest, max_bytes=most, op=op)
            manifest = decode_manifest(
                body, names, who, max_bytes=most, max_tensors=catalogue.config.max_tensors, op=op
            )
            sources = tuple(owner.decode(errors="replace") for owner in owners if owner is not None)
            return Listed(who, head, manifest, tuple(names.transports), sources)
    raise NotPublishedError(f"nothing is published for identity {digest[:12]}", op=op, failed_keys=[keys.head_key])


def identities(catalogue: Catalogue, deadline: Deadline, *, op: str) -> list[Identity]:
    """All published identities, in four calls; those that are damaged or withdrawn meanwhile are left out.

    Raises:
        UnavailableError: The worker does not answer.
        TransferTimeoutError: It took too long.
    """
    store, most = catalogue.store, catalogue.config.max_manifest_bytes
    found = [Keys(digest) for digest in digests(catalogue, deadline)]
    heads: list[tuple[Keys, Head]] = []
    for each, body in zip(found, _values(store, [each.head_key for each in found], deadline), strict=True):
        with contextlib.suppress(IntegrityError):
            heads += [(each, decode_head(body, op=op))] if body is not None else []
    whole = []
    keys = [each.manifest_key(head.generation) for each, head in heads]
    for (each, head), body in zip(heads, _values(store, keys, deadline), strict=True):
        with contextlib.suppress(IntegrityError, ResourceExhaustedError):
            whole += [identity_in(body, head, each.digest, max_bytes=most, op=op)] if body is not None else []
    return whole


def _values(store: Any, keys: list[str], deadline: Deadline) -> list[bytes | None]:
    return store.get_many(keys, deadline_s=deadline.left()) if keys else []


def find(catalogue: Catalogue, beginning: str, deadline: Deadline, *, op: str) -> str:
    """The digest of the published identity with this prefix.

    Raises:
        NotPublishedError: There is none.
        InvalidArgumentError: There are several.
    """
    found = [digest for digest in digests(catalogue, deadline) if digest.startswith(beginning.lower())]
    if not found:
        raise NotPublishedError(f"no published identity begins with {beginning!r}; see `yr-fastload ls`", op=op)
    if len(found) > 1:
        raise InvalidArgumentError(
            f"{len(found)} identities begin with {beginning!r}, such as {found[0][:16]} and {found[1][:16]}; give more "
            "digits",
            op=op,
        )
    return found[0]
