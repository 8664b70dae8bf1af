"""The official image list: read strictly, in the order of the data set."""

from pathlib import Path

import pytest

from celebahq_builder.errors import SourceError
from celebahq_builder.outcome import Reason
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.official import COLUMNS, ImageListRow, read_image_list
from celebahq_builder.sources.photo import listed_photos
from tests.conftest import SAMPLE

HEAD = "   ".join(COLUMNS)
A, B = "0123456789abcdef" * 2, "f" * 32


def write(folder: Path, *lines: str) -> Path:
    path = folder / "image_list.txt"
    path.write_bytes("\r\n".join(lines).encode())
    return path


def test_rows_come_in_official_order(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD, f"3   7  000008.jpg  {A}  {B}", "", f"0   1   000002.jpg {B} {A}", "")
    assert read_image_list(path) == (ImageListRow(0, "000002.jpg", B, A), ImageListRow(3, "000008.jpg", A, B))


def test_the_real_list(shared: Path) -> None:
    rows = read_image_list(shared / "data" / "celeba_hq_official" / "image_list.txt")
    assert [row.index for row in rows] == list(range(30_000))
    assert rows[0].file == "119614.jpg"
    assert len({row.file for row in rows}) == 30_000


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], r":1: expected the column names idx orig_idx orig_file proc_md5 final_md5, got ''"),
        (["idx file md5"], r":1: expected the column names idx .*, got 'idx file md5'"),
        ([HEAD], r":2: expected a row for each image, got none"),
        ([HEAD, f"0 1 a.jpg {A}"], r":2: expected 5 values .*, got 4: '0 1 a\.jpg 0123"),
        ([HEAD, f"x 1 a.jpg {A} {B}"], r":2: expected idx to be a number from 0 to 99999, got 'x'"),
        ([HEAD, f"100000 1 a.jpg {A} {B}"], r":2: expected idx to be a number from 0 to 99999, got '100000'"),
        ([HEAD, f"0 1 ../a.jpg {A} {B}"], r":2: expected orig_file to be a plain file name, got '\.\./a\.jpg'"),
        ([HEAD, f"0 1 caf\u00e9.jpg {A} {B}"], r":2: expected orig_file to be a plain file name"),
        ([HEAD, f"0 1 a.jpg {A[1:]} {B}"], r":2: expected proc_md5 to be 32 lower-case hex digits, got '1234"),
        ([HEAD, f"0 1 a.jpg {'0123' * 30_000} {B}"], r":2: expected proc_md5 to be .*, got '(0123){20}'"),
        ([HEAD, f"0 1 a.jpg {A} {B.upper()}"], r":2: expected final_md5 to be 32 lower-case hex digits, got 'FFF"),
        ([HEAD, f"0 1 a.jpg {A} {B}", f"0 2 b.jpg {A} {B}"], r":3: idx 0 is in line 2 already"),
        ([HEAD, f"0 1 a.jpg {A} {B}", f"1 1 a.jpg {A} {B}"], r":3: orig_file a\.jpg is in line 2 already"),
    ],
)
def test_a_bad_list_names_its_line_and_a_remedy(lines: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=rf"image_list\.txt{says}.*; take image_list\.txt as it comes with the deltas"
    ):
        read_image_list(write(tmp_path, *lines))


def test_an_unreadable_list(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"image list .*none\.txt cannot be read: .*No such file"):
        read_image_list(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match=r"b\.txt cannot be read"):
        read_image_list(tmp_path / "b.txt")


def test_source_in_the_lists_order(tmp_path: Path) -> None:
    source = read_celeba(SAMPLE)
    rows = (
        ImageListRow(2, "000004.jpg", A, B),
        ImageListRow(3, "999999.jpg", A, B),
        ImageListRow(9, "000001.jpg", B, A),
    )
    listed = listed_photos(source, rows)
    assert [(photo.file, photo.listed) for photo in listed.photos] == [(rows[0].file, rows[0]), (rows[2].file, rows[2])]
    assert [(one.photo, one.reason, one.detail) for one in listed.rejected] == [
        ("999999.jpg", Reason.NOT_IN_TABLE, "idx 3 of the image list")
    ]
    assert listed.sha256() != listed_photos(source, (rows[2], rows[0])).sha256()
    other = ImageListRow(2, "000004.jpg", B, B)
    assert listed.sha256() != listed_photos(source, (other, *rows[1:])).sha256()
    with pytest.raises(SourceError, match=r"no photo in common .*999999\.jpg in the list, 000001\.jpg in the table"):
        listed_photos(source, rows[1:2])
