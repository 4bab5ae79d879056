"""What the documents name exists: files, make targets, commands, options, keys, patches."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import click
import pytest

from yr_fastload_native.cli import main
from yr_fastload_native.vllm.compat import TESTED

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("patches/*.md"), *ROOT.glob("deploy/**/*.md")])


def test_there_are_pages() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "settings.md", "errors.md", "design.md"} <= {
        page.name for page in PAGES
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z -]+?)(?:\s+#.*)?$|`make ([a-z-]+)`", page.read_text(), re.MULTILINE))
    for block, inline in named:
        for target in (block or inline).split():
            assert target in targets, target


def test_commands_and_options_exist() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "commands.md").read_text()
    lines = re.findall(r"^yr-fastload (.*)$", text, re.MULTILINE)
    assert len(lines) == 14
    context = click.Context(main)
    for line in lines:
        line, _, _ = line.partition(" -- ")
        name, *rest = line.split()
        command = main.get_command(context, name)
        assert command is not None, name
        options = {option for parameter in command.params for option in parameter.opts}
        if isinstance(command, click.Group):
            subcommands = rest[0].split("|")
            assert set(subcommands) == set(command.commands)
            options = {o for sub in command.commands.values() for parameter in sub.params for o in parameter.opts}
        for option in re.findall(r"--[a-z-]+", line):
            assert option in options, option


def test_every_command_speaks_json() -> None:
    context = click.Context(main)
    for name in set(main.list_commands(context)) - {"sim"}:  # which prints what another program does
        command = main.get_command(context, name)
        assert command is not None
        for each in command.commands.values() if isinstance(command, click.Group) else [command]:
            assert "--json" in {option for parameter in each.params for option in parameter.opts}, each.name


def test_every_patch_is_in_the_registry() -> None:
    registry = (ROOT / "patches" / "README.md").read_text()
    for patch in (ROOT / "patches").glob("*/*.patch"):
        assert str(patch.relative_to(ROOT / "patches")) in registry


def test_versions_of_vllm_are_those_that_are_installed() -> None:
    older = re.findall(r"^VLLM_OLDER := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    locked = {path.name.split("-")[1].removesuffix(".lock.txt") for path in ROOT.glob("requirements/vllm-*.lock.txt")}
    page = (ROOT / "docs" / "compatibility.md").read_text()
    assert set(re.findall(r"^\| (\d+\.\d+\.\d+) \|", page, re.MULTILINE)) == locked == {TESTED[1], *older}
    assert TESTED[0] in older


def test_where_things_are_is_where_they_are() -> None:
    """Each table's heading names the folder that its rows are in, or none; the last one answers questions."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for heading, rows in re.findall(r"^\| (.*?) \| what it holds \|\n\|---\|---\|\n((?:\|.*\n)+)", page, re.MULTILINE):
        folder = ROOT / heading.strip("`") if heading.startswith("`") else ROOT
        rooms = [room for row in rows.splitlines() for room in re.findall(r"`([^`]+)`", row.split("|")[1])]
        assert rooms
        assert all((folder / room).exists() for room in rooms), rooms
        inside = ROOT / "tests" if folder == ROOT else folder
        there = {path for path in inside.iterdir() if path.is_dir() and path.name != "__pycache__"}
        assert not there - {folder / room for room in rooms}
    questions = page[page.index("| question | answer |") :].partition("\n\n")[0]
    files = re.findall(r"`([\w/]+\.(?:py|cpp))`", questions)
    assert len(files) >= 6
    assert all((ROOT / file).exists() or (ROOT / "python/yr_fastload_native" / file).exists() for file in files), files


def test_classes_of_the_map_exist() -> None:
    sources = [*(ROOT / "python").rglob("*.py"), *(ROOT / "csrc").rglob("*.[ch]pp")]
    found = {
        name for path in sources for name in re.findall(r"^(?:class|struct) (\w+)", path.read_text(), re.MULTILINE)
    }
    shown = re.findall(r"^(\w+): ", (ROOT / "docs/class-map.txt").read_text(), re.MULTILINE)
    assert len(shown) > 10
    assert set(shown) <= found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


@pytest.mark.parametrize(
    ("section", "source", "least"),
    [
        ("Faults of the campaign", "chaos/faults/__init__.py", 26),
        ("The campaign on hosts", "chaos/hosts/faults.py", 13),
    ],
)
def test_all_kinds_of_faults_are_documented(section: str, source: str, least: int) -> None:
    page = (ROOT / "docs/reliability.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z.]+`(?:, `[a-z.]+`)*) \|", page, re.MULTILINE)
    documented = [kind for row in rows for kind in re.findall(r"`([a-z.]+)`", row)]
    kinds = re.findall(r'^    "([a-z.]+)": \w+,$', (ROOT / source).read_text(), re.MULTILINE)
    assert len(kinds) >= least
    assert sorted(documented) == sorted(kinds)


def is_long(test: str) -> bool:
    """Whether only `make test-all` runs a test, whatever its parameters."""
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    marks = [each.value for each in tree.body if isinstance(each, ast.Assign) and "pytestmark" in ast.unparse(each)]
    for each in tree.body:
        if isinstance(each, ast.FunctionDef) and each.name == name:
            marks += [mark for mark in each.decorator_list if "parametrize" not in ast.unparse(mark)]
    return any("mark.long" in ast.unparse(mark) for mark in marks)


def test_each_promise_has_a_test_that_is_not_long() -> None:
    page = (ROOT / "docs/reliability.md").read_text().partition("\n## Promises\n")[2].partition("\n## ")[0]
    rows = [line for line in page.splitlines() if "`tests/" in line]
    assert len(rows) > 20
    for row in rows:
        assert not all(is_long(test) for test in re.findall(r"`(tests/\S+::\w+)`", row)), row


def test_tables_say_what_committed_results_say() -> None:
    """That `make docs` would change nothing, and that the README has the table of targets."""
    from benchmarks import tables

    assert tables.main(["--check"]) == 0
    results = json.loads((ROOT / "benchmarks" / "results" / "targets.json").read_text())
    readme = (ROOT / "README.md").read_text()
    measured = [target for target in results["targets"] if target["value"] is not None]
    assert len(measured) >= 10
    for target in measured:
        assert f"| {target['name']} | {target['value']:.3g} | {target['target']} |" in readme
