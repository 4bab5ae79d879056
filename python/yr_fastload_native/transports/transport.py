"""What a transport has to be able to do."""

from __future__ import annotations

from array import array
from typing import Protocol

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.kind import DeviceContext, DeviceKind
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.transports.jobs import PublishJob, StoreSession
from yr_fastload_native.transports.wanted import Attempt, Failure, WantedChunks

__all__ = ["Transport"]


class Transport(Protocol):
    """One way for chunks from a publisher to its readers; without state.

    Attributes:
        name: In settings, manifests and reports.
        by_reference: Whether readers take the bytes from the publisher's own tensors.
    """

    name: str
    by_reference: bool

    def reaches(self, kind: DeviceKind) -> bool:
        """Whether it moves tensors on devices of this kind."""

    def why_not(self, context: DeviceContext, addresses: array[int]) -> str | None:
        """Why it cannot publish tensors at these addresses of a device that it reaches; None if it can."""

    def largest_chunk(self, setting: int, uncut: int) -> int:
        """Size of the largest chunk, bytes.

        Args:
            setting: What the settings ask for; 0 if they leave it to the transport.
            uncut: Size of a tensor that is better not cut; 0 if there is none.
        """

    def data_keys(self, who: Identity, generation: str, chunks: int) -> list[str]:
        """What it keeps of a generation in the store."""

    def peer(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> Peer | None:
        """This process's part in serving and reading a generation by reference; None where nothing is."""

    def publish(self, job: PublishJob) -> memoryview | None:
        """Copy all tensors to where readers find them; the digest of each chunk, if they were taken on the way.

        Raises:
            FastLoadError: Chunks may be there all the same, under `data_keys`.
        """

    def load(self, wanted: WantedChunks, attempt: Attempt) -> list[Failure]:
        """Bring the chunks that are still wanted; returns what failed by all that it had to offer.

        Raises:
            SupersededError: The generation was replaced or withdrawn meanwhile.
            FastLoadError: Nothing more can be had by this transport.
        """
