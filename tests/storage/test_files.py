"""New files come together or not at all, and neither they nor temporary ones take the place of another file."""

import csv
import errno
import io
import os
import subprocess
from pathlib import Path

import pytest

from celebahq_builder.errors import DiskFull, FormatError, WorkspaceError
from celebahq_builder.storage import (
    HOST,
    NewFiles,
    check_free,
    csv_bytes,
    files,
    holds,
    new_files,
    open_log,
    partial_path,
    path_cell,
    write_atomic,
    write_json,
    write_partial,
)
from tests.disk import failing
from tests.hdf5.pyramids import tree


def test_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    failing(monkeypatch, errno.ENOSPC, lambda name: name.startswith(".c."))

    def together() -> None:
        with NewFiles() as new:
            for name in ("a", "deep/er/b", "deep/c"):
                new.write(tmp_path / name, b"ours")

    with pytest.raises(DiskFull):
        together()
    assert tree(tmp_path) == {"theirs": b"theirs"}
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    monkeypatch.undo()
    together()
    assert sorted(tree(tmp_path)) == ["a", "deep/c", "deep/er/b", "theirs"]


def test_a_name_that_is_taken_meanwhile(tmp_path: Path) -> None:
    def together() -> None:
        with NewFiles() as new:
            new.write(tmp_path / "a", b"ours")
            (tmp_path / "b").write_bytes(b"theirs")
            new.write(tmp_path / "b", b"ours")

    with pytest.raises(FormatError, match="b exists with other contents"):
        together()
    assert tree(tmp_path) == {"b": b"theirs"}


@pytest.mark.parametrize("links", [True, False])
def test_new_replaces_nothing(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(files, "os", _WithoutLinks())
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "link", b"ours", new=True)
    write_atomic(tmp_path / "free", b"ours", new=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "link"]


class _WithoutLinks:
    """The module `os` on a file system without hard links."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def link(self, *_: object) -> None:
        raise OSError(errno.EPERM, "no links")


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    def together() -> None:
        with NewFiles() as new:
            for name in "ab":
                new.write(tmp_path / "new" / name, b"ours")
            (tmp_path / "new" / "a").unlink()

    with pytest.raises(WorkspaceError, match=r"new/a was deleted while this command worked \(1 of 2 files\)"):
        together()
    assert list(tmp_path.iterdir()) == []


def test_errors_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"theirs")
    with pytest.raises(FormatError, match=r"file cannot be written: .*; choose another `out`$"), new_files() as new:
        new.write(tmp_path / "file" / "a", b"ours")
    assert tree(tmp_path) == {"file": b"theirs"}


def test_files_of_a_killed_command_are_completed(tmp_path: Path) -> None:
    """A file with the same content stays, also after an error; partial files of the dead command are deleted."""
    (tmp_path / "a").write_bytes(b"ours")
    with subprocess.Popen(["true"]) as ended:
        pass
    (tmp_path / f".b.{HOST}-{ended.pid}-0123abcd.partial").write_bytes(b"ou")
    (tmp_path / f".c.{HOST}-{os.getppid()}-0123abcd.partial").write_bytes(b"theirs")
    before = (tmp_path / "a").stat().st_ino
    with new_files() as new:
        for name in "ab":
            new.write(tmp_path / name, b"ours")
    assert (tmp_path / "a").stat().st_ino == before
    (tmp_path / "b").unlink()

    def refused() -> None:
        with new_files() as new:
            for name, content in (("a", b"ours"), ("b", b"ours"), ("a", b"theirs")):
                new.write(tmp_path / name, content)

    with pytest.raises(FormatError, match="a exists with other contents"):
        refused()
    assert {"a": b"ours", f".c.{HOST}-{os.getppid()}-0123abcd.partial": b"theirs"} == tree(tmp_path)


@pytest.mark.parametrize("kind", ["other", "longer", "link", "folder"])
def test_other_contents_are_not_completed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "equal").write_bytes(b"ours")
    taken = tmp_path / "taken"
    if kind == "link":
        taken.symlink_to("equal")
    elif kind == "folder":
        taken.mkdir()
    else:
        taken.write_bytes(b"ours and more" if kind == "longer" else b"them")
    before = tree(tmp_path)
    message = "taken exists with other contents; nothing is overwritten: delete it, or choose another `out`$"
    with pytest.raises(FormatError, match=message), new_files() as new:
        new.write(taken, b"ours")
    assert tree(tmp_path) == before


def test_a_free_path_loses_the_partial_files_of_dead_commands(tmp_path: Path) -> None:
    partial_path(tmp_path / "a.mp4", ending=".mp4").write_bytes(b"half")
    check_free(tmp_path / "a.mp4")
    check_free(tmp_path / "missing" / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_takes_its_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FormatError, match="a exists and is not overwritten; delete it, or choose another `out`"):
        check_free(tmp_path / "a")
    check_free(tmp_path / "a", replace_empty=True)


def test_partial_file_in_a_new_folder(tmp_path: Path) -> None:
    partial = write_partial(tmp_path / "deep" / "er" / "a", b"ours")
    assert tree(tmp_path) == {f"deep/er/{partial.name}": b"ours"}


def test_bytes_of_a_json_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "ü", "sizes": [1]})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n "name": "ü",\n "sizes": [\n  1\n ]\n}\n'


def test_a_link_with_the_name_of_the_partial_file(tmp_path: Path) -> None:
    """What a link of that name leads to is not written."""
    (tmp_path / "theirs").write_bytes(b"theirs")
    partial_path(tmp_path / "a").symlink_to("theirs")
    write_atomic(tmp_path / "a", b"ours")
    assert tree(tmp_path) == {"theirs": b"theirs", "a": b"ours"}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', "[" * 100_000])
def test_what_a_file_does_not_hold(text: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(text)
    assert not holds(tmp_path / "other", {"a", "b"})
    assert not holds(tmp_path / "none", set())
    (tmp_path / "ours").write_text('{"a": 1, "b": 2}')
    (tmp_path / "link").symlink_to("ours")
    assert holds(tmp_path / "ours", {"a", "b"})
    assert not holds(tmp_path / "link", {"a", "b"})


@pytest.mark.parametrize("formula", ["=1+1", "+a", "-a", "@a", " =1", "\t=1", "\uff1d1", "-1+1", "+1|x"])
def test_no_cell_is_a_formula(formula: str) -> None:
    assert csv_bytes([[formula]]).decode().lstrip('"').startswith("'")
    assert path_cell(formula) == f"./{formula}"


@pytest.mark.parametrize("value", ["-1", "+0.5", "-1e-06", ".5", "", "a=1", "./=1", "\u202f"])
def test_other_cells_are_written_as_they_are(value: str) -> None:
    assert csv_bytes([[value, "x"]]).decode() == f"{value},x\n"
    assert path_cell(value) == value


def test_every_text_is_read_back() -> None:
    rows: list[list[object]] = [["a\rb\nc\x1b", -1, 0.5], ['q"u,o', "\u202e", None], ["a\r\nb", "\r", "x"]]
    read = list(csv.reader(io.StringIO(csv_bytes(rows).decode(), newline="")))
    assert read == [["a\rb\nc\x1b", "-1", "0.5"], ['q"u,o', "\u202e", ""], ["a\r\nb", "\r", "x"]]
    assert csv_bytes([["\udcff\ud800"]]) == b"\\xff\\ud800\n"


def test_a_log_grows_at_its_end(tmp_path: Path) -> None:
    for line in (b"1\n", b"2\n"):
        with open_log(tmp_path / "log") as file:
            file.seek(0)
            file.write(line)
    assert (tmp_path / "log").read_bytes() == b"1\n2\n"


def test_a_log_that_is_not_ours(tmp_path: Path) -> None:
    """Nothing is written through a link, and a pipe without a reader does not stop the command."""
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to("theirs")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("link", "symbolic links"), ("pipe", "a named pipe, not a regular file")):
        with pytest.raises(OSError, match=message), open_log(tmp_path / name):
            pass
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
