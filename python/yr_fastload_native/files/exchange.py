"""Sets of files, published and taken by a loader like weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import IntegrityError, ResourceExhaustedError
from yr_fastload_native.files.file_set import CONTENTS, INDEX, MOST_INDEX_BYTES, File, decode, encode
from yr_fastload_native.files.makers import Makers
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.publication import Publication

__all__ = ["publish_files", "take_files"]

_OP = "take files"


def publish_files(
    loader: FastLoader, identity: Mapping[str, Any], files: Sequence[File], *, key: bytes | None = None
) -> Publication:
    """Publish a set of files; it is kept published by this loader.

    Args:
        loader: Its settings count, as for weights.
        identity: What makes these files these files.
        files: Of the set.
        key: That proves who made it, from `own_key`.

    Raises:
        FastLoadError: As from `FastLoader.publish`.
    """
    who = Identity.of(identity, op="publish files")
    return loader.publish(encode(files, who.digest, key), identity, publish_as="host")


def take_files(
    loader: FastLoader, identity: Mapping[str, Any], *, most_bytes: int, deadline_s: float, makers: Makers
) -> list[File]:
    """The files of a published set, verified, in memory.

    Args:
        loader: Its settings count; with ``trusted_digests`` the set has to be one of these.
        identity: As it was published.
        most_bytes: Bound for all files; a larger set is not asked for.
        deadline_s: Bound of the call, seconds.
        makers: Whose files are taken.

    Raises:
        NotPublishedError: Nobody publishes it.
        IntegrityError: It is damaged, is no set of files, or its maker is none of these.
        ResourceExhaustedError: It is beyond the bound.
        FastLoadError: As from `FastLoader.load`.
    """
    deadline = Deadline(deadline_s, _OP)
    sizes = loader.sizes(identity, deadline_s=deadline.left())
    if sizes.keys() != {INDEX, CONTENTS}:
        raise IntegrityError("what is published is no set of files", op=_OP)
    if sizes[INDEX] > MOST_INDEX_BYTES or sizes[CONTENTS] > most_bytes:
        raise ResourceExhaustedError(
            f"the files are {sizes[CONTENTS]} bytes with an index of {sizes[INDEX]}; the bounds are {most_bytes} and "
            f"{MOST_INDEX_BYTES}",
            op=_OP,
        )
    tensors = {name: bytearray(size) for name, size in sizes.items()}
    loader.load(tensors, identity, deadline_s=deadline.left())
    try:
        return decode(tensors, Identity.of(identity, op=_OP).digest, makers, op=_OP)
    except BaseException:
        publication = loader.publication(identity)
        if publication is not None:  # this loader is no source of what it would not take
            publication.close()
        raise
