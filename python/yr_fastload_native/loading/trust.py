"""What the bytes of a load have to be, by the content digests that its caller trusts."""

from __future__ import annotations

import attrs

from yr_fastload_native.catalogue.catalogue import Catalogue, Generation
from yr_fastload_native.errors import IntegrityError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.transports.jobs import LoadJob
from yr_fastload_native.weights.sha256 import sums

__all__ = ["Trust"]

_PUBLISHER_CHARS = 80


@attrs.frozen
class Trust:
    """What a trusted digest says of a generation.

    Attributes:
        digest: Of the content.
        sha256: Of each tensor, in the manifest's order.
        publisher: For messages.
    """

    digest: str
    sha256: list[str]
    publisher: str

    @classmethod
    def of(
        cls,
        generation: Generation,
        trusted: frozenset[str],
        catalogue: Catalogue,
        deadline: Deadline,
        *,
        op: str = "load",
    ) -> Trust:
        """Before the first byte is asked for.

        Raises:
            IntegrityError: The generation is none of the trusted ones, or does not say what it is.
            SupersededError: It was replaced or withdrawn.
            TransferTimeoutError: Its publisher did not say in time.
        """
        manifest, who = generation.manifest, generation.who
        publisher = f"publisher {manifest.publisher[:_PUBLISHER_CHARS]!r} (as it calls itself)"
        sha256 = catalogue.wait_for_digests(generation, deadline, op=op).sha256
        if sha256 is None:
            raise IntegrityError(
                f"{publisher} does not tell the SHA-256 of its tensors, which trusted_digests are compared with; "
                "set publish_sha256 where these weights are published",
                op=op,
                failed_keys=[who.head_key],
            )
        digest = manifest.content_digest(who, sha256)
        if digest not in trusted:
            raise IntegrityError(
                f"{publisher} has published weights of content digest {digest}, which is none of the "
                f"{len(trusted)} in trusted_digests; nothing was written",
                op=op,
                failed_keys=[who.head_key],
            )
        return cls(digest, sha256, publisher)

    def compare(self, job: LoadJob) -> None:
        """Compare every byte that came with what was trusted, by SHA-256.

        Raises:
            IntegrityError: Some tensors are not the trusted ones.
            TransferTimeoutError: Not done in time.
        """
        table, manifest = job.table, job.generation.manifest
        with job.timeline.stage("sha256", table.bytes):
            mine = sums(table, job.worker.copy_threads, job.deadline.left)
        wrong = [
            tensor.name
            for tensor, wanted in zip(manifest.tensors, self.sha256, strict=True)
            if mine[table.index[tensor.name]] != wanted
        ]
        if wrong:
            raise IntegrityError(
                f"{len(wrong)} of {len(manifest.tensors)} tensors are not the trusted ones by SHA-256, such as "
                f"{wrong[0]!r}: {self.publisher}, or a source that it left them to, served other bytes",
                op="load",
                failed_keys=wrong,
            )
