from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

import yr_fastload_native.cli as cli
import yr_fastload_native.process.scratch as scratch_module
from yr_fastload_native.cli import demo as demo_module
from yr_fastload_native.cli import output
from yr_fastload_native.errors import NotPublishedError
from yr_fastload_native.measuring import resources

RECORD = {
    "transport": "host",
    "bytes": 3 << 30,
    "tensors": 339,
    "chunks": 96,
    "cold_s": 6.0,
    "warm_s": 3.0,
    "publish_s": 2.0,
    "load_s": 1.5,
    "load_gib_per_s": 2.0,
    "rounds": 3,
    "memcpy_s": 0.25,
    "memcpy_gib_per_s": 12.0,
    "speedup_cold": 4.0,
    "speedup_warm": 2.0,
    "verified": True,
    "differing": 0,
    "cold_cached_bytes": 0,
    "copy_threads": 2,
    "model": "qwen2",
    "devices": "none",
}


@pytest.fixture
def ended(monkeypatch):
    """Returns a function that runs `yr-fastload demo` with an outcome in place of the real run."""

    def run(outcome, *arguments):
        def fake(*_):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(demo_module, "_run", fake)
        return CliRunner().invoke(cli.main, ["demo", *arguments])

    return run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_help_names_every_command_and_imports_none():
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from yr_fastload_native.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", code + "main(['--help'])"], capture_output=True, text=True, check=True, timeout=60
    )
    text, modules = done.stdout.rstrip().rsplit("\n", 1)
    assert all(f"\n  {name} " in text for name in ("bench", "demo", "worker"))
    ours = {name for name in modules.split() if name.startswith("yr_fastload_native.")}
    assert ours == {"yr_fastload_native.cli", "yr_fastload_native.errors"}
    assert not {"numpy", "rich", "torch"} & set(modules.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [("yr-fastload in", ["inspect"]), ("yr-fastload worker st", ["start", "status", "stop"])],
)
def test_a_shell_can_complete(words, offered):
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("yr-fastload"))],
        env={**os.environ, "_YR_FASTLOAD_COMPLETE": "bash_complete", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [line.split(",")[1] for line in done.stdout.splitlines()] == offered


def test_tables_are_drawn_for_people_and_plain_for_pipes(monkeypatch):
    def shown():
        table = output.table("of what", "", ">number")
        table.add_row("long " * 40, "7")
        output.emit({}, as_json=False, text=lambda: table)
        return sys.stdout.getvalue()

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert [line.split() for line in shown().splitlines()] == [["of", "what"], ["number"], ["long"] * 40 + ["7"]]
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert "┃" in shown()


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "yr_fastload_native", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"yr-fastload {metadata.version('yr-fastload-native')}\n"


def test_demo_help_says_what_it_does():
    done = CliRunner().invoke(cli.main, ["demo", "--help"])
    assert done.exit_code == 0
    for words in ("second process pull", "every byte", "--model", "--size-mb", "--transport", "--json", "1024"):
        assert words in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option"],
        ["no-such-command"],
        ["demo", "--no-such-option"],
        ["demo", "--size-mb", "0"],
        ["demo", "--transport", "pigeon"],
        ["demo", "--model", "/no/such/directory"],
        ["demo", "--model", "/", "--size-mb", "1"],
    ],
)
def test_wrong_usage_is_exit_status_2(arguments):
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_an_error_is_one_line_on_stderr(ended, arguments):
    done = ended(NotPublishedError("nobody\npublishes  it", op="load"), *arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == "error: NOT_PUBLISHED: load: nobody publishes it\n"


def test_an_interrupt_is_exit_status_130(ended):
    done = ended(KeyboardInterrupt())
    assert done.exit_code == 130
    assert len(done.stderr.splitlines()) == 1


def test_other_exceptions_are_not_hidden(ended):
    done = ended(ZeroDivisionError())
    assert isinstance(done.exception, ZeroDivisionError)


def test_a_command_that_cannot_be_imported_spares_the_others(monkeypatch):
    monkeypatch.setitem(cli._COMMANDS, "absent", "A command without a module.")
    done = CliRunner().invoke(cli.main, ["absent"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: INTERNAL: absent: No module named")
    assert CliRunner().invoke(cli.main, ["--help"]).exit_code == 0
    assert CliRunner().invoke(cli.main, ["worker", "--help"]).exit_code == 0


def test_json_is_one_line(ended):
    done = ended(RECORD, "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == RECORD


def rows_end(rows, word):
    (row,) = [row for row in rows if word in row]
    return row[row.index(word) + 1 :]


def test_table(ended):
    done = ended(RECORD)
    assert done.exit_code == 0
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    assert rows_end(rows, "dropped)") == ["6.000", "0.50", "4.00x", "as", "fast"]
    assert rows_end(rows, "warm)") == ["3.000", "1.00", "2.00x", "as", "fast"]
    assert rows_end(rows, "(host),") == ["every", "byte", "checked", "1.500", "2.00"]
    assert rows_end(rows, "nothing") == ["checked", "0.250", "12.00", "0.17x", "as", "fast"]
    assert "the first process published them in 2.000 s, once" in done.stdout
    assert "verified: yes" in done.stdout
    assert "note:" not in done.stdout


@pytest.mark.parametrize(
    ("cold", "warm", "words"),
    [(4.0, 2.0, "was the fastest"), (4.0, 0.9, "faster than the disk, but not than"), (0.9, 0.8, "not faster than")],
)
def test_the_table_says_whether_a_pull_won_here_and_where_pulls_do(ended, cold, warm, words):
    done = ended(RECORD | {"speedup_cold": cold, "speedup_warm": warm})
    (line,) = [line for line in done.stdout.splitlines() if words in line]
    assert "Pulls win where files are not cached" in line


def test_names_are_not_markup(ended):
    assert "[bold]model[/bold] :smile:" in ended(RECORD | {"model": "[bold]model[/bold] :smile:"}).stdout


def test_a_cold_load_that_was_not_is_said(ended):
    assert "note: 50% of the files stayed in the page cache" in ended(RECORD | {"cold_cached_bytes": 3 << 29}).stdout


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_bytes_that_differ_are_a_failure(ended, arguments):
    done = ended(RECORD | {"verified": False, "differing": 2}, *arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: INTEGRITY: demo: 2 tensors differ from the files")
    if arguments:
        assert json.loads(done.stdout)["verified"] is False
    else:
        assert "verified: no" in done.stdout


def test_too_little_memory_is_said_before_anything_starts(monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(resources, "private_worker", never)
    monkeypatch.setattr(scratch_module, "Scratch", never)
    done = CliRunner().invoke(cli.main, ["demo", "--size-mb", str(1 << 20)])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: RESOURCE_EXHAUSTED: demo: about 3146240 MiB of memory are needed")


def test_progress_is_silent_without_a_terminal(capsys):
    with output.progress_bar("loading", 10) as progress:
        progress(5, 10)
    output.note("said")
    assert capsys.readouterr() == ("", "")


def test_progress_shows_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with output.progress_bar("loading", 10) as progress:
        progress(10, 10)
    output.note("said")
    assert "loading" in terminal.getvalue()
    assert "said\n" in terminal.getvalue()
