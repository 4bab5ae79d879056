"""In a server that was forked: what multiprocessing would spawn is forked, and then does what a spawned one would.

A spawned process is a new interpreter that runs `multiprocessing.spawn.spawn_main`, with the descriptors that it was
given and no others. A forked one runs that too. Where its imports would come out otherwise by now, or threads run that
a fork would lose, it is spawned as ever.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from multiprocessing import spawn
from typing import Any

from yr_fastload_native.process import at_exit
from yr_fastload_native.template import fitness
from yr_fastload_native.template.environment import ImportedWith
from yr_fastload_native.template.fresh import be_fresh, only_open

__all__ = ["install"]

_log = logging.getLogger(__name__)
_SPAWNED = re.compile(r"from multiprocessing\.spawn import spawn_main; spawn_main\((.*)\)")
_HANDLE = re.compile(r"(\w+)=(\d+)")
Report = Callable[[dict[str, Any]], None]


def install(imported: ImportedWith, report: Report, begin: Callable[[], None]) -> None:
    """Have this process, and those that it forks, fork what they would spawn.

    Args:
        imported: With what their modules were imported.
        report: Is told of the ``variables`` that differ by now, where a process has to be spawned because of them.
        begin: Called in each process that was forked so, at its beginning.
    """
    plain = multiprocessing.util.spawnv_passfds

    def spawnv_passfds(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        handles = _handles(args)
        if handles is None or os.fsdecode(path) != sys.executable:  # which binds it to cores, for example
            return plain(path, args, passfds)
        differing = imported.differing(os.environ)
        if differing:
            report({"variables": {name: os.environ.get(name) for name in differing}})
            return plain(path, args, passfds)
        if threads := fitness.threads():
            _log.warning("a process is spawned, since threads run that a fork would lose: %s", ", ".join(threads))
            return plain(path, args, passfds)
        try:
            pid = os.fork()
        except OSError as error:
            _log.warning("a process is spawned, since it cannot be forked: %s", error)
            return plain(path, args, passfds)
        if not pid:
            _be_spawned(handles, passfds, begin)
        return pid

    multiprocessing.util.spawnv_passfds = spawnv_passfds


def _handles(args: Sequence[Any]) -> dict[str, int] | None:
    """What `spawn_main` would be called with; None: it is none of multiprocessing's workers that is started."""
    for each in args:
        found = _SPAWNED.fullmatch(each) if isinstance(each, str) else None
        if found:
            return {name: int(value) for name, value in _HANDLE.findall(found[1])}
    return None


def _be_spawned(handles: dict[str, int], passfds: Sequence[int], begin: Callable[[], None]) -> None:
    """Never returns: what is further up the stack is the parent's."""
    status = 1
    try:
        atexit._clear()  # of the parent, as multiprocessing does
        atexit.register(at_exit.leave)
        only_open(dict.fromkeys([0, 1, 2, *passfds]))
        be_fresh()
        asyncio._set_running_loop(None)
        asyncio.set_event_loop(None)
        begin()
        sys.argv = ["-c", "--multiprocessing-fork"]  # by which it knows what it is
        spawn.spawn_main(**handles)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
