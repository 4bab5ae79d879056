"""Sets of files: what goes in comes out, whole, in its place, and by nobody else."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import yr_fastload_native as fl
from yr_fastload_native.errors import (
    FastLoadError,
    IntegrityError,
    InvalidArgumentError,
    NotPublishedError,
    ResourceExhaustedError,
)
from yr_fastload_native.files import placing
from yr_fastload_native.files.exchange import publish_files, take_files
from yr_fastload_native.files.file_set import CONTENTS, INDEX, File, encode, read_files
from yr_fastload_native.files.makers import Makers, own_key, trusted_makers
from yr_fastload_native.files.placing import place

IDENTITY = {"kind": "files of a test"}
KEY = b"k" * 32
ANYBODY = Makers(True)
FILES = [
    File("cache/a/kernel.so", 0o755, b"\x7fELF of some kind"),
    File("cache/empty", 0o644, b""),
    File("cache/b", 0o600, b"b"),
]
WHOSE = "0" * 64


def take(loader: fl.FastLoader, makers: Makers = ANYBODY, most_bytes: int = 1 << 20) -> list[File]:
    return take_files(loader, IDENTITY, most_bytes=most_bytes, deadline_s=10, makers=makers)


def names_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def test_files_arrive_whole_with_their_modes(
    loader: fl.FastLoader, other_loader: fl.FastLoader, tmp_path: Path
) -> None:
    publish_files(loader, IDENTITY, FILES, key=KEY)
    placed = place(take(other_loader, Makers(False, KEY)), {"cache": tmp_path / "new" / "root"})
    assert placed.written == [each.name for each in FILES]
    assert not placed.kept
    for each in FILES:
        path = tmp_path / "new" / "root" / each.name.partition("/")[2]
        assert path.read_bytes() == each.data
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if each.mode & 0o100 else 0o600)
    assert names_below(tmp_path) == ["new/root/a/kernel.so", "new/root/b", "new/root/empty"]


def test_who_takes_keeps_them_published(
    open_loader: Callable[..., fl.FastLoader], other_loader: fl.FastLoader, guest: fl.FastLoader
) -> None:
    with open_loader() as first:
        publish_files(first, IDENTITY, FILES)
        take(other_loader)
    assert [each.name for each in take(guest)] == [each.name for each in FILES]


def test_nothing_is_taken_that_nobody_publishes(loader: fl.FastLoader) -> None:
    with pytest.raises(NotPublishedError):
        take(loader)


def test_a_pinned_set_is_the_only_one(open_loader: Callable[..., fl.FastLoader]) -> None:
    publication = publish_files(open_loader(publish_sha256=True), IDENTITY, FILES)
    assert publication.digest
    assert len(take(open_loader(trusted_digests=publication.digest))) == len(FILES)
    with pytest.raises(IntegrityError, match="none of the"):
        take(open_loader(trusted_digests="0" * 64))


@pytest.mark.parametrize("key", [None, b"x" * 32], ids=["unproven", "another user's"])
def test_files_of_others_are_refused_and_not_passed_on(
    loader: fl.FastLoader, other_loader: fl.FastLoader, key: bytes | None
) -> None:
    publish_files(loader, IDENTITY, FILES, key=key)
    for makers in (Makers(False, KEY), Makers(False, None)):
        with pytest.raises(IntegrityError, match="no process of this user"):
            take(other_loader, makers)
    publication = other_loader.publication(IDENTITY)
    assert publication is None or publication.state != "live"


def test_a_proof_is_of_one_identity(loader: fl.FastLoader, other_loader: fl.FastLoader) -> None:
    """Files of this user for something else are not those that were asked for."""
    publish_files(loader, {"kind": "another"}, FILES, key=KEY)
    loader.publish(encode(FILES, WHOSE, KEY), IDENTITY)
    with pytest.raises(IntegrityError, match="no process of this user"):
        take(other_loader, Makers(False, KEY))


def test_who_is_believed() -> None:
    assert not trusted_makers(fl.Config(), KEY, "auto").anybody
    assert trusted_makers(fl.Config(), KEY, "on").anybody
    for keys in ({"curve_key_dir": "/keys"}, {"access_key": "a", "secret_key": "b"}, {"trusted_digests": "0" * 64}):
        assert trusted_makers(fl.Config(**keys), KEY, "auto").anybody


def test_the_key_is_this_users(short_tmp: Path) -> None:
    config = fl.Config(worker_home=str(short_tmp / "home"))
    key = own_key(config)
    assert key is not None
    assert len(key) == 32
    assert own_key(config) == key
    path = short_tmp / "home" / "files.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert own_key(config) is None
    path.chmod(0o600)
    path.parent.chmod(0o755)
    assert own_key(config) is None
    assert names_below(short_tmp) == ["home/files.key"]


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "cache/../../x",
        "..",
        "cache//x",
        "cache/./x",
        "",
        "cache/x\0y",
        "cache/" + "x" * 300,
        "a/" * 40 + "x",
    ],
)
def test_names_that_lead_elsewhere(
    loader: fl.FastLoader, other_loader: fl.FastLoader, tmp_path: Path, name: str
) -> None:
    loader.publish(encode([File(name, 0o600, b"x")], WHOSE, None), IDENTITY)
    with pytest.raises(IntegrityError):
        take(other_loader)
    with pytest.raises(IntegrityError):
        place([File("cache/good", 0o600, b""), File(name, 0o600, b"x")], {"cache": tmp_path})
    assert names_below(tmp_path) == []


@pytest.mark.parametrize("name", ["cache", "other/x"])
def test_names_that_belong_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="does not belong"):
        place([File(name, 0o600, b"x")], {"cache": tmp_path})


def test_two_files_in_one_place(loader: fl.FastLoader, other_loader: fl.FastLoader) -> None:
    for names in (["cache/x", "cache/x"], ["cache/x", "cache/x/y"]):
        loader.publish(encode([File(name, 0o600, b"") for name in names], WHOSE, None), IDENTITY)
        with pytest.raises(IntegrityError, match="one place"):
            take(other_loader)


def _changed(what: str) -> dict[str, bytes]:
    tensors = encode(FILES, WHOSE, None)
    index = json.loads(tensors[INDEX])
    if what == "format":
        index["format"] = 2
    elif what == "mode":
        index["files"][0][1] = 0o4755
    elif what == "negative":
        index["files"][0][2] = -1
    elif what == "larger":
        index["files"][0][2] += 1
    elif what == "sum":
        index["files"][0][3] = "0" * 64
    elif what == "field":
        index["more"] = 1
    tensors[INDEX] = b"[" * 5000 if what == "deep" else json.dumps(index).encode()
    if what == "truncated":
        tensors[CONTENTS] = tensors[CONTENTS][:-1]
    elif what == "flipped":
        tensors[CONTENTS] = bytes([tensors[CONTENTS][0] ^ 1]) + tensors[CONTENTS][1:]
    return tensors


@pytest.mark.parametrize(
    "what", ["format", "mode", "negative", "larger", "sum", "field", "deep", "truncated", "flipped"]
)
def test_a_damaged_set_is_refused(loader: fl.FastLoader, other_loader: fl.FastLoader, what: str) -> None:
    loader.publish(_changed(what), IDENTITY)
    with pytest.raises(IntegrityError):
        take(other_loader)


def test_weights_are_no_files(loader: fl.FastLoader, other_loader: fl.FastLoader) -> None:
    loader.publish({"weight": bytearray(64)}, IDENTITY)
    with pytest.raises(IntegrityError, match="no set of files"):
        take(other_loader)


def test_too_many_bytes_are_not_asked_for(loader: fl.FastLoader, other_loader: fl.FastLoader) -> None:
    publish_files(loader, IDENTITY, [File("cache/bomb", 0o600, bytes(5000))])
    with pytest.raises(ResourceExhaustedError, match="5000 bytes"):
        take(other_loader, most_bytes=4999)
    assert other_loader.stats()["loads"] == 0


# -- where they are put --------------------------------------------------------------------------------------------


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"mine, of another size")
    (tmp_path / "empty").symlink_to("nowhere")
    placed = place(FILES, {"cache": tmp_path})
    assert placed.written == ["cache/a/kernel.so"]
    assert placed.kept == ["cache/empty", "cache/b"]
    assert placed.differing == ["cache/empty", "cache/b"]
    assert (tmp_path / "b").read_bytes() == b"mine, of another size"
    assert not (tmp_path / "nowhere").exists()


def test_what_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = placing._size_of

    def then_it_appears(name: str, directory: int) -> int | None:
        found = look(name, directory)
        if found is None:
            (tmp_path / name).write_bytes(b"!")
        return found

    monkeypatch.setattr(placing, "_size_of", then_it_appears)
    placed = place([File("cache/b", 0o600, b"b")], {"cache": tmp_path})
    assert (placed.written, placed.kept) == ([], ["cache/b"])
    assert (tmp_path / "b").read_bytes() == b"!"
    assert names_below(tmp_path) == ["b"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_no_link_is_followed(tmp_path: Path, kind: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "a").symlink_to(elsewhere) if kind == "link" else (root / "a").write_bytes(b"")
    with pytest.raises(IntegrityError, match="no links are followed"):
        place(FILES, {"cache": root})
    assert names_below(elsewhere) == []


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of more than 10 bytes are refused by the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ResourceExhaustedError, match="kernel"):
        place(FILES, {"cache": tmp_path})
    assert names_below(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_directory_that_cannot_be_written_to() -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be put into /proc"):
        place(FILES, {"cache": Path("/proc/cache")})


# -- what goes in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "as_placed"), [(0o755, 0o700), (0o644, 0o600), (0o600, 0o600)])
def test_files_are_read_with_the_modes_that_they_get_elsewhere(tmp_path: Path, mode: int, as_placed: int) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "x").chmod(mode)
    (found,) = read_files({"cache/x": tmp_path / "x"}, most_bytes=1, op="test")
    assert (found.name, found.mode, found.data) == ("cache/x", as_placed, b"x")


def _link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def _no_file(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (_link, InvalidArgumentError),
        (_no_file, InvalidArgumentError),
        (os.mkfifo, InvalidArgumentError),
        (os.mkdir, InvalidArgumentError),
        (lambda path: path.write_bytes(bytes(9)), ResourceExhaustedError),
    ],
    ids=["link", "missing", "fifo", "directory", "too large"],
)
def test_what_is_not_published(tmp_path: Path, make: Callable[[Path], Any], error: type[FastLoadError]) -> None:
    make(tmp_path / "x")
    with pytest.raises(error):
        read_files({"cache/x": tmp_path / "x"}, most_bytes=8, op="test")
