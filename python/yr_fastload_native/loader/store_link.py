"""The store behind a loader: one that it was given, or that of an openYuanrong worker."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.devices.registry import copy_threads
from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.process.peaks import Peaks
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.device_contexts import DeviceContexts
from yr_fastload_native.transports.jobs import StoreSession
from yr_fastload_native.worker import LocalWorker
from yr_fastload_native.worker.credentials import Credentials

__all__ = ["StoreLink"]

_log = logging.getLogger(__name__)

_OF_ANY_STORE = ("auto", "host")  # other transports use openYuanrong's own connection beside the store


class StoreLink:
    """What a loader stores in and reads from; another worker's store where the local worker has gone.

    Attributes:
        address: Of the worker, ``HOST:PORT``; empty with a store that was given.
        local: The local worker, if it is one.
        devices: Those that the loader uses.
        copy_threads: That copy and digest.
    """

    def __init__(
        self,
        config: Config,
        usage: Peaks,
        store: _core.ObjectStore | None,
        *,
        moved: Callable[[], None],
    ) -> None:
        """Connect, unless a store is given.

        Args:
            config: Of the loader.
            usage: Takes note of what is used of the settings' bounds.
            store: Used as it is, and nothing beside it.
            moved: Called once another worker has taken the place of the one before.

        Raises:
            UnavailableError: No worker answers, or none could be started.
            InvalidArgumentError: ``DS_WORKER_ADDR`` is no address, a file with a key or secret cannot be used, or a
                transport was asked for that a store which is given has not.
        """
        self._config = config
        self._usage = usage
        self._moved = moved
        self._lock = threading.Lock()
        self._rejoining = threading.Lock()
        self._closed = False
        self._store: _core.ObjectStore | None = None
        self._connection: _core.Connection | None = None
        self._leave: Callable[[], object] = lambda: None
        self.address = ""
        self.local: LocalWorker | None = None
        self.copy_threads = config.copy_threads or min(copy_threads(), len(os.sched_getaffinity(0)))
        if store is None:
            self._credentials = Credentials.of(config)
            self._find_worker()
            try:
                self._connect()
            except BaseException:
                self._leave()
                raise
        else:
            _check_transports(config)
            self._store = store
            self.devices = DeviceContexts(config, None)

    def _find_worker(self) -> None:
        config = self._config
        self.address = config.worker_address()
        if self.address != "auto":
            return
        self.local = LocalWorker(
            home=config.worker_home or None,
            memory_mb=config.worker_memory_mb,
            start_timeout_s=config.worker_start_timeout_s,
            curve_key_dir=config.curve_key_dir or None,
        )
        self.address = self.local.start().address
        leave = weakref.finalize(self, self.local.stop)
        leave.atexit = False  # `close_all` comes first, and publications are withdrawn from a live worker
        self._leave = leave

    def _connect(self) -> None:
        self._connection = self._credentials.connection(self.address, self._config)
        self._store = _core.connect_host_store(self._connection)
        self.devices = DeviceContexts(self._config, self._connection)
        self.devices.prepare()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def worker(self, op: str, timeout_s: float | None = None) -> StoreSession:
        """What transports are given.

        Args:
            op: For errors.
            timeout_s: To find or start another local worker where it has gone; None: that is not looked at.

        Raises:
            InvalidArgumentError: It was closed.
            UnavailableError: No worker could be started.
            ResourceExhaustedError: Nor is there memory for one.
        """
        if timeout_s is not None:
            self.rejoin(timeout_s)
        store = self._store
        if store is None:
            raise InvalidArgumentError("this FastLoader is closed", op=op)
        catalogue = Catalogue(store, self._config, self._usage)
        return StoreSession(catalogue, self._config, self._connection, self.copy_threads, self.address)

    def rejoin(self, timeout_s: float, *, unasked: bool = False) -> bool:
        """Connect to another local worker where the one before has gone. Whether there is a store now.

        Args:
            timeout_s: Bound of the call, seconds.
            unasked: Start none where the one before was stopped on purpose.

        Raises:
            UnavailableError: None could be started.
            ResourceExhaustedError: Nor is there memory for one.
        """
        local = self.local
        if local is None or not local.is_lost:
            return not self._closed
        with self._rejoining:
            if self._closed or not local.is_lost:
                return not self._closed
            before, process = self.address, local.process
            if not local.rejoin(timeout_s, may_launch=not (unasked and local.was_stopped)):
                return False
            if local.process == process:  # only who watches it is another
                return True
            self.address = local.address
            self._connect()
            with self._lock:
                if self._closed:
                    self._store = None
                    return False
        _log.warning("the local worker %s has gone: connected to %s", before, self.address)
        self._moved()
        return True

    def end(self) -> None:
        """Let nobody use it any more; what is under way, or still to be withdrawn, has its own hold of the store."""
        with self._lock:
            self._store = None
            self._closed = True

    def leave(self) -> None:
        """Let go of the connections, and of the local worker; a store that was given stays as it is."""
        self.devices.close()
        self._leave()


def _check_transports(config: Config) -> None:
    for name, asked in (("transport", config.transport), ("publish_as", config.publish_as)):
        if asked not in _OF_ANY_STORE:
            raise InvalidArgumentError(
                f"{name}={asked!r} needs a connection to an openYuanrong worker, which a store that is given has not; "
                "use 'auto' or 'host', or give no store",
                op="connect",
            )
