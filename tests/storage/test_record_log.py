import os
from pathlib import Path

import pytest

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.storage import RecordLog, partial_path

RULES = {"version": 1}


@pytest.fixture
def status(tmp_path: Path) -> os.stat_result:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    return (tmp_path / "a.jpg").stat()


def test_records_survive_and_a_changed_file_has_none(tmp_path, status):
    with RecordLog(tmp_path / "log", "test", RULES) as log:
        log.add("a.jpg", status, {"n": 1})
        log.add("a.jpg", status, {"n": 2})
        log.add("b\udcff.jpg", status, {"n": 3})
    assert not (tmp_path / "log").stat().st_mode & 0o111, "a log is no program"
    with RecordLog(tmp_path / "log", "test", RULES) as log:
        assert log.is_valid("a.jpg", status)
        assert log.latest("a.jpg") == {"n": 2}
        assert log.latest("b\udcff.jpg") == {"n": 3}
        os.utime(tmp_path / "a.jpg", ns=(0, 5))
        assert not log.is_valid("a.jpg", (tmp_path / "a.jpg").stat())
        assert not log.is_valid("c.jpg", status)


def test_cut_at_every_byte(tmp_path, status):
    """After a kill at any moment, whole records are read, and new ones can be added."""
    with RecordLog(tmp_path / "log", "test", RULES) as log:
        log.add("a.jpg", status, {"n": 1})
        log.add("b.jpg", status, {"n": 2})
    data = (tmp_path / "log").read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in range(len(data) + 1):
        path = tmp_path / f"cut{length}"
        path.write_bytes(data[:length])
        with RecordLog(path, "test", RULES) as log:
            log.add("c.jpg", status, {"n": 3})
        with RecordLog(path, "test", RULES) as log:
            # A line without its line end is whole if only that is missing.
            assert log.is_valid("a.jpg", status) == (length >= ends[1] - 1), length
            assert log.is_valid("b.jpg", status) == (length >= ends[2] - 1), length
            assert log.latest("c.jpg") == {"n": 3}


def test_lines_that_are_no_records(tmp_path, status):
    path = tmp_path / "log"
    with RecordLog(path, "test", RULES) as log:
        log.add("a.jpg", status, {"n": 1})
    bad = [b"{}", b"[]", b"3", b'"written"', b"[" * 100_000, b'{"written":["t"]}', b'{"written":[[],[]]}']
    bad += [b'{"file":"b.jpg","size_bytes":3,"mtime_ns":%d}' % status.st_mtime_ns, b"\xff\0"]
    path.write_bytes(path.read_bytes() + b"\n".join(bad) + b"\n")
    with RecordLog(path, "test", RULES) as log:
        assert log.latest("a.jpg") == {"n": 1}
        assert not log.is_valid("b.jpg", status)


def test_other_rules_start_anew(tmp_path, status):
    """A result of the log before is replaced all the same."""
    with RecordLog(tmp_path / "log", "test", RULES) as log:
        log.add("a.jpg", status, {"n": 1})
        log.write(tmp_path / "t.csv", b"1")
    for _ in range(2):
        with RecordLog(tmp_path / "log", "test", {"version": 2}) as log:
            assert not log.is_valid("a.jpg", status)
    with RecordLog(tmp_path / "log", "test", {"version": 2}) as log:
        log.write(tmp_path / "t.csv", b"2")


def test_other_files_are_kept(tmp_path):
    path = tmp_path / "log"
    others = [
        b"a table of the user",
        b'{"kind":"other","rules":{}}',
        b"\0" * 10,
        b"[]",
        b"3",
        b"{}",
        b"[" * 100_000,
        b"\xff",
    ]
    for content in others:
        path.write_bytes(content + b"\n")
        with pytest.raises(WorkspaceError, match="is not a log of test; move it"), RecordLog(path, "test", RULES):
            pass
        assert path.read_bytes() == content + b"\n"


def test_links_pipes_and_folders(tmp_path):
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    faults = {
        "link": "Too many levels of symbolic links",
        "folder": "Is a directory",
        "pipe": "is a named pipe, not a log",
    }
    for name, fault in faults.items():
        with (
            pytest.raises(WorkspaceError if name == "pipe" else OSError, match=fault),
            RecordLog(tmp_path / name, "test", RULES),
        ):
            pass
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_one_process_at_a_time(tmp_path):
    with (
        RecordLog(tmp_path / "log", "test", RULES),
        pytest.raises(WorkspaceError, match="is being written by another process"),
        RecordLog(tmp_path / "log", "test", RULES),
    ):
        pass


def test_partial_files_of_a_killed_command_are_deleted(tmp_path):
    others = partial_path(tmp_path / "other.csv", token="0f")
    for path in (others, partial_path(tmp_path / "t-2.html", token="0f")):
        path.touch()
    with RecordLog(tmp_path / "log", "test", RULES) as log:
        log.write(tmp_path / "t-2.html", b"1")
    assert {path.name for path in tmp_path.iterdir()} == {"log", "t-2.html", others.name}


def test_results_that_were_changed_or_are_not_ours_are_kept(tmp_path):
    table, page = tmp_path / "t.csv", tmp_path / "t.html"
    page.write_bytes(b"of the user")
    with RecordLog(tmp_path / "log", "test", RULES) as log:
        log.write(table, b"1")
        log.write(table, b"2")
        with pytest.raises(WorkspaceError, match=r"t.html exists, and was not written by test or was changed since"):
            log.write(page, b"3")
    with RecordLog(tmp_path / "log", "test", RULES) as log:
        log.write(table, b"3")
        table.write_bytes(b"3, corrected by hand")
        with pytest.raises(WorkspaceError, match="changed since"):
            log.write(table, b"4")
        log.write(table, b"3, corrected by hand")
    assert table.read_bytes() == b"3, corrected by hand"
    assert page.read_bytes() == b"of the user"
