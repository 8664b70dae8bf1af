"""Record of delivered files: it survives a kill, names only files below the destination, and is never another file."""

import json
import shutil
from pathlib import Path

import pytest

from celebahq_builder.errors import DeliveryError
from celebahq_builder.filter.deliver import (
    RECORD_HEAD,
    RECORD_NAME,
    DeliveredFile,
    DeliveryMode,
    DeliveryRecord,
    plan_delivery,
)
from tests.filter.folders import NAMES, carry_out, make_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_files(tmp_path / "in")


def test_a_cut_off_record_keeps_its_lines(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(folder, out, DeliveryMode.COPY, NAMES[:2])
    record = out / RECORD_NAME
    record.write_bytes(record.read_bytes() + b'{"file": "sub/')
    carry_out(folder, out, DeliveryMode.COPY)
    assert set(DeliveryRecord(out).files) == set(NAMES)
    record.write_bytes(RECORD_HEAD[:9])  # killed in its first write
    DeliveryRecord(out).add(DeliveredFile("a.jpg", 5, "sha256:0"))
    assert set(DeliveryRecord(out).files) == {"a.jpg"}


def test_a_record_leads_nowhere_else(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(folder, out, DeliveryMode.COPY, NAMES[:1])
    with (out / RECORD_NAME).open("a") as file:
        for path in ("../in/a.jpg", str(folder / "a.jpg")):
            content = DeliveredFile.at(path, folder / "a.jpg")
            line = {"file": path, "bytes": content.size_bytes, "content": content.content}
            file.write(f"{json.dumps(line)}\n")
        file.write(f"{json.dumps({'partial': '../in/a.jpg'})}\n")
    carry_out(folder, out, DeliveryMode.COPY, ("sub/a.jpg",), prune=True)
    assert (folder / "a.jpg").exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_the_user_in_the_place_of_the_record(folder: Path, tmp_path: Path, link: bool) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.write_text("mine")
    if link:
        (out / RECORD_NAME).symlink_to(mine)
    else:
        shutil.copy(mine, out / RECORD_NAME)
    with pytest.raises(DeliveryError, match=r"record of celebahq filter.*choose another `out`"):
        plan_delivery(folder, out, DeliveryMode.COPY, NAMES)
    assert (out / RECORD_NAME).read_text() == mine.read_text() == "mine"


def test_a_record_holds_any_name(tmp_path: Path) -> None:
    odd = b"\xff\n.jpg".decode("utf-8", "surrogateescape")
    file = DeliveredFile(odd, 5, "sha256:0")
    DeliveryRecord(tmp_path).add(file)
    assert DeliveryRecord(tmp_path).files == {odd: file}
