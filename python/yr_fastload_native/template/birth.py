"""How a server comes to be: a template forks its keeper, which forks the server and then becomes a small program.

    template -> (a process that ends at once) -> keeper -> server

So the keeper is nobody's child but that of the template's own keeper, which outlives the template.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from yr_fastload_native.process import keeper
from yr_fastload_native.template import lines, spawning
from yr_fastload_native.template.environment import ImportedWith
from yr_fastload_native.template.fresh import be_fresh, only_open

__all__ = ["Birth", "fork_keeper", "run"]

_GO_S = 10.0  # for whoever asked to say that it still wants the server
_NAME = "python3"
_NOT_STARTED = 127  # as a shell has it


@attrs.frozen
class Birth:
    """A server that is to be.

    Attributes:
        arguments: Of Python.
        environment: Of it.
        keeper: The command that the keeper becomes, without the server's pid.
        log: Descriptor of what it writes.
        kept: Descriptors that are open as long as its keeper lives.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    keeper: Sequence[str]
    log: int
    kept: Sequence[int]


def fork_keeper(line: socket.socket, birth: Birth) -> bool:
    """Fork a keeper, which forks the server once the other end of `line` says so.

    Returns:
        False in the template; true in the server, which is yet to `become` what it is.

    Raises:
        OSError: The first process cannot be forked; what fails after that is said on `line`.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return False
    try:
        keeper.take_name(keeper.NAME)  # before it may be taken for one that nobody keeps
        if os.fork():
            os._exit(0)
        os.setsid()  # Ctrl-C in the terminal is for the service, which ends them in order
        keeper.become_keeper()
        lines.send(line, {"pid": os.getpid()})
        line.settimeout(_GO_S)
        if line.recv(1) != lines.GO:
            os._exit(0)
        mine = os.getpid()
        server = os.fork()
        if not server:
            _leave_for_itself(mine, birth)
            return True
        lines.send(line, {"started": server})
        _become_program(line, birth, server)
    except OSError as error:
        with contextlib.suppress(OSError):
            lines.send(line, {"error": f"cannot be forked: {error}"})
    os._exit(_NOT_STARTED)  # what it has forked dies with it


def _become_program(line: socket.socket, birth: Birth, server: int) -> None:
    os.dup2(line.fileno(), 0)
    only_open({0: None, 1: birth.log, 2: birth.log, **dict.fromkeys(birth.kept)})
    for descriptor in birth.kept:
        os.set_inheritable(descriptor, True)
    os.set_blocking(0, True)
    os.execve(birth.keeper[0], [*birth.keeper, str(server)], dict(birth.environment))


def _leave_for_itself(parent: int, birth: Birth) -> None:
    """A session, standard streams and nothing else open; dies with its keeper."""
    keeper.take_name(_NAME)
    keeper.die_with_parent()
    if os.getppid() != parent:
        os._exit(0)
    os.setsid()
    only_open({0: os.open(os.devnull, os.O_RDONLY), 1: birth.log, 2: birth.log})


def run(
    birth: Birth, imported: ImportedWith, report: Callable[[dict[str, Any]], None], begin: Callable[[], None]
) -> None:
    """Be the server: what `python ARGUMENTS` would be now.

    Args:
        birth: What it is.
        imported: With what the modules that it has already were imported.
        report: As in `spawning.install`.
        begin: Called at the beginning of each process that it forks.
    """
    os.environ.clear()
    os.environ.update(imported.as_imported(birth.environment))
    be_fresh()
    spawning.install(imported, report, begin)
    what, *rest = birth.arguments
    if what == "-m":
        name, *rest = rest
        sys.argv = [name, *rest]
        sys.modules.pop(name, None)  # it runs anew, as the main module
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [what, *rest]
        sys.path.insert(0, os.path.dirname(what))
        runpy.run_path(what, run_name="__main__")
