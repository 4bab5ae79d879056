"""What loads cost beside their bytes, as benchmarks measured it: for ``yr-fastload estimate``."""

from __future__ import annotations

import importlib.resources
from typing import Any

import msgspec

__all__ = ["Costs"]


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The measured costs of a load besides its bytes, and the share of a link that it uses.

    Attributes:
        link_share: Rate of fetching chunks, relative to a raw copy.
        manifest_s: Seconds to find and read a manifest.
        tensor_us: Microseconds per tensor for names, layouts and plan.
        digest_share: Time that verifying adds, relative to the transfer.
        sent_ratio: How many times a publisher sent the model to eight readers that started together.
        command: The command that measured it.
        machine: The machine that it was measured on.
    """

    link_share: float
    manifest_s: float
    tensor_us: float
    digest_share: float
    sent_ratio: float
    command: str
    machine: dict[str, Any]

    @classmethod
    def measured(cls) -> Costs:
        """The costs from the committed benchmark run."""
        text = (importlib.resources.files("yr_fastload_native.cli") / "measured.json").read_bytes()
        return msgspec.json.decode(text, type=cls)
