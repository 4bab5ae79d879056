"""Loads the weights of a new inference instance from a running one, through openYuanrong's datasystem."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yr_fastload_native._core import __version__
    from yr_fastload_native.catalogue.content_digest import content_digest
    from yr_fastload_native.errors import (
        DeviceError,
        FastLoadError,
        IntegrityError,
        InvalidArgumentError,
        LayoutMismatchError,
        NotPublishedError,
        PartialTransferError,
        ResourceExhaustedError,
        TransferTimeoutError,
        UnavailableError,
    )
    from yr_fastload_native.loader.fast_loader import FastLoader
    from yr_fastload_native.loading.published_checkpoint import PublishedCheckpoint
    from yr_fastload_native.publishing.publication import Publication
    from yr_fastload_native.reporting.load_report import LoadReport
    from yr_fastload_native.reporting.timeline import write_trace
    from yr_fastload_native.settings import Config
    from yr_fastload_native.settings.secret import Secret
    from yr_fastload_native.worker import LocalWorker

__all__ = [
    "Config",
    "DeviceError",
    "FastLoadError",
    "FastLoader",
    "IntegrityError",
    "InvalidArgumentError",
    "LayoutMismatchError",
    "LoadReport",
    "LocalWorker",
    "NotPublishedError",
    "PartialTransferError",
    "Publication",
    "PublishedCheckpoint",
    "ResourceExhaustedError",
    "Secret",
    "TransferTimeoutError",
    "UnavailableError",
    "__version__",
    "content_digest",
    "write_trace",
]

# Names are imported on first use, so that importing the package stays cheap in processes that never load weights.
_HOME = {
    "Config": "settings",
    "FastLoader": "loader.fast_loader",
    "LoadReport": "reporting.load_report",
    "LocalWorker": "worker",
    "Publication": "publishing.publication",
    "PublishedCheckpoint": "loading.published_checkpoint",
    "Secret": "settings.secret",
    "__version__": "_core",
    "content_digest": "catalogue.content_digest",
    "write_trace": "reporting.timeline",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
