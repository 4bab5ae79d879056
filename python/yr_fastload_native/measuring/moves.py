"""What processes of a measurement move between devices."""

from __future__ import annotations

import attrs

from yr_fastload_native.settings import Config

__all__ = ["Move"]


@attrs.frozen(kw_only=True)
class Move:
    """How all of them move it.

    Attributes:
        worker: Its address.
        transport: By which bytes move.
        deadline_s: Of each publish and each load, seconds.
        chunk_bytes: As in the settings.
    """

    worker: str
    transport: str
    deadline_s: float
    chunk_bytes: int = 0

    def config(self, *, hold: bool, device: int) -> Config:
        return Config(
            device_index=device,
            worker=self.worker,
            transport=self.transport,
            deadline_s=self.deadline_s,
            publish_deadline_s=self.deadline_s,
            chunk_bytes=self.chunk_bytes,
            hold=hold,
        )
