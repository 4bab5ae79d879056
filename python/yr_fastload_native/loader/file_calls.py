"""What a loader knows of the files that weights were read from: part of `FastLoader`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yr_fastload_native.catalogue.file_sums import check_files
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import NotPublishedError
from yr_fastload_native.loader.store_link import StoreLink
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.publication import Publication
from yr_fastload_native.settings import Config

__all__ = ["FileCalls"]


class FileCalls:
    """The calls about sums of files."""

    config: Config
    _link: StoreLink

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
        catalogue = self._link.worker("files").catalogue
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
        self._link.worker("tell_files").catalogue.tell_files(who, publication.generation, told, deadline)
        publication.files = {**told, **(publication.files or {})}
