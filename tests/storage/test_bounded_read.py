"""Files that are no regular files, or too large, are refused before anything of them is read."""

import os
import socket
from pathlib import Path

import pytest

from celebahq_builder.limits import MAX_JSON_BYTES
from celebahq_builder.storage import parse_json, read_file, read_text


def test_reads_a_file_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes; at most 4 are read"):
        read_file(file, 4)
    (tmp_path / "link").symlink_to(file)
    assert read_file(tmp_path / "link") == b"12345"


def test_a_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(30 << 30)
    with pytest.raises(OSError, match=f"{30 << 30} bytes; at most"):
        read_file(tmp_path / "sparse")


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, kind in (
            ("pipe", "a named pipe"),
            ("zero", "a device"),
            (".", "a folder"),
            ("socket", "such device"),
        ):
            with pytest.raises(OSError, match=kind):
                read_file(tmp_path / name)


def test_a_file_of_proc_announces_no_size() -> None:
    """Its content is read nevertheless, up to the limit."""
    assert b"Name:" in read_file(Path("/proc/self/status"))
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_file(Path("/proc/self/status"), 10)


def test_text_without_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffäb".encode())
    assert read_text(tmp_path / "a.txt") == "äb"
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{" * 9, "property name"), ('{"a":' * 99_999, "deeply"), (b"1" * (MAX_JSON_BYTES + 1), "a document of 67108865")],
    ids=["no JSON", "deep", "long"],
)
def test_json_that_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
