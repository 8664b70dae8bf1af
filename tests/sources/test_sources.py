"""Sources: all layouts of CelebA, folders with a table, and rows and files that cannot be used."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import photo_path
from celebahq_builder.landmarks.check import DoubtfulPhoto, reject_doubtful
from celebahq_builder.limits import MAX_TABLE_ROWS, MAX_TEXT_BYTES
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.celeba import AlignedImagesOnly, CelebA, read_attributes, read_celeba, read_partition
from celebahq_builder.sources.folder import PhotoFolder, read_folder
from celebahq_builder.sources.photo import (
    COLUMNS,
    LandmarkOrder,
    Photo,
    PhotoSource,
    in_column_order,
    is_mirrored,
    subset,
)
from tests.conftest import SAMPLE

NUMBERS = tuple(float(i) for i in range(10, 20))
ROW = "10 11 12 13 14 15 16 17 18 19"
HEADER = " ".join(COLUMNS)


class Tree:
    """A folder in CelebA's layout."""

    def __init__(self, root: Path, images: str = "img_celeba") -> None:
        self.root, self.images = root, root / images
        self.images.mkdir(parents=True)

    def photos(self, *names: str) -> "Tree":
        for name in names:
            path = self.images / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return self

    def write(self, path: str, data: bytes | str) -> "Tree":
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data.encode() if isinstance(data, str) else data)
        return self

    def table(self, *rows: str, count: object = None, where: str = "Anno/list_landmarks_celeba.txt") -> "Tree":
        lines = [str(len(rows) if count is None else count), HEADER, *rows]
        return self.write(where, "".join(f"{line}\n" for line in lines))

    def read(self) -> PhotoSource:
        return read_celeba(self.root)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "celeba")


def reasons(source: PhotoSource) -> list[tuple[str, Reason]]:
    return [(one.photo, one.reason) for one in source.rejected]


# --- CelebA's layouts -----------------------------------------------------------------------------------------


def test_the_sample() -> None:
    source = read_celeba(SAMPLE)
    assert len(source.photos) == 15
    assert (source.rejected, source.warnings) == ((), ())
    first = source.photos[0]
    assert first.landmarks == (314, 213, 416, 212, 363, 275, 308, 320, 422, 318)
    assert (first.id, first.file, first.split) == ("000001", "000001.jpg", "train")
    assert dict(zip(source.attribute_names, first.attributes, strict=True))["Male"] == 1
    assert {photo.split for photo in source.photos} <= {"train", "val", "test"}


def test_a_source_with_other_photos() -> None:
    """The classes whose constructors read a folder are sources like any other."""
    for source in (CelebA(SAMPLE), replace(read_celeba(SAMPLE), is_own=True)):
        some = subset(source, limit=2)
        assert some.photos == source.photos[:2]
        assert (some.folder, some.attribute_names, some.is_own) == (
            source.folder,
            source.attribute_names,
            source.is_own,
        )
        one = source.photos[0]
        doubtful = DoubtfulPhoto(one.id, one.file, one.face, (9, 9), None, one.landmarks, ())
        left = reject_doubtful(source, (doubtful,))
        assert left.photos == source.photos[1:]
        assert reasons(left) == [(one.file, Reason.DOUBTFUL_LANDMARKS)]


@pytest.mark.parametrize("images", ["img_celeba", "Img/img_celeba"])
@pytest.mark.parametrize("where", ["Anno/list_landmarks_celeba.txt", "list_landmarks_celeba.txt"])
def test_layouts(images: str, where: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path, images).photos("a.jpg", "b.jpg").table(f"a.jpg {ROW}", f"b.jpg {ROW}", where=where)
    source = tree.read()
    assert source.folder == tmp_path / images
    assert source.photos == (Photo("a", "a.jpg", NUMBERS), Photo("b", "b.jpg", NUMBERS))
    assert (source.rejected, source.warnings, source.attribute_names) == ((), (), ())


def test_shipped_as_png(tree: Tree) -> None:
    """The table says .jpg, the folder has .png."""
    source = tree.photos("000001.png").table(f"000001.jpg {ROW}").read()
    assert source.rejected == ()
    assert photo_path(source.folder, "000001.jpg") == source.folder / "000001.png"
    tree.photos("000001.jpg")
    assert photo_path(source.folder, "000001.jpg") == source.folder / "000001.jpg"
    assert photo_path(source.folder, "000009.jpg") == source.folder / "000009.jpg"


def test_partition_and_attributes(tree: Tree) -> None:
    tree.photos("a.jpg", "b.jpg", "c.jpg", "d.jpg").table(*(f"{name}.jpg {ROW}" for name in "abcd"))
    tree.write("Eval/list_eval_partition.txt", "a.jpg 0\nb.jpg 1\n\nc.jpg 2\n")
    tree.write("Anno/list_attr_celeba.txt", "2\nBald  Young\na.jpg  1 -1\nb.jpg -1  1\n")
    source = tree.read()
    assert [photo.split for photo in source.photos] == ["train", "val", "test", ""]
    assert source.attribute_names == ("Bald", "Young")
    assert [photo.attributes for photo in source.photos] == [(1, -1), (-1, 1), (0, 0), (0, 0)]
    assert source.warnings == (
        "list_eval_partition.txt lacks 1 of 4 rows of list_landmarks_celeba.txt, such as d.jpg",
        "list_attr_celeba.txt lacks 2 of 4 rows of list_landmarks_celeba.txt, such as c.jpg",
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_byte_order_marks_and_blanks(end: str, mark: bytes, tree: Tree) -> None:
    lines = ["2", HEADER, "a.jpg   10  11 12\t13 14 15 16 17 18 19  ", "", f" b.jpg {ROW}", ""]
    tree.photos("a.jpg", "b.jpg").write("Anno/list_landmarks_celeba.txt", mark + end.join(lines).encode())
    tree.write("Eval/list_eval_partition.txt", mark + end.join(["a.jpg 2", "b.jpg 1"]).encode())
    tree.write("Anno/list_attr_celeba.txt", mark + end.join(["2", "Bald", "a.jpg 1", "b.jpg -1"]).encode())
    source = tree.read()
    assert source.photos == (Photo("a", "a.jpg", NUMBERS, "test", (1,)), Photo("b", "b.jpg", NUMBERS, "val", (-1,)))
    assert (source.rejected, source.warnings) == ((), ())


def test_count_that_disagrees_is_a_warning(tree: Tree) -> None:
    source = tree.photos("a.jpg").table(f"a.jpg {ROW}", count=202599).read()
    assert len(source.photos) == 1
    assert source.warnings == ("list_landmarks_celeba.txt:1 says 202599 rows, the table has 1; all of them are used",)


def test_photos_keep_the_order_of_the_table(tree: Tree) -> None:
    names = ["c.jpg", "a.jpg", "b.jpg"]
    source = tree.photos(*names).table(*(f"{name} {ROW}" for name in names)).read()
    assert [photo.file for photo in source.photos] == names


# --- Rows and files that cannot be used -------------------------------------------------------------------------

BAD_ROWS = {
    "too few": ("a.jpg 1 2 3", "expected 10 landmark numbers, got 3"),
    "none": ("a.jpg", "expected 10 landmark numbers, got 0"),
    "too many": (f"a.jpg {ROW} 20", "expected 10 landmark numbers, got 11"),
    "words": ("a.jpg x 11 12 13 14 15 16 17 18 19", "lefteye_x is x, not a number"),
    "last is a word": ("a.jpg 10 11 12 13 14 15 16 17 18 y", "rightmouth_y is y, not a number"),
    "not a number": ("a.jpg 10 nan 12 13 14 15 16 17 18 19", "lefteye_y is nan, not a number"),
    "infinite": ("a.jpg 10 11 12 13 14 15 16 17 -inf 19", "rightmouth_x is -inf, not a number"),
    "too large a number": ("a.jpg 10 11 1e999 13 14 15 16 17 18 19", "righteye_x is 1e999, not a number"),
    "too far": ("a.jpg 10 11 12 13 14 15 16 17 18 100000001", "rightmouth_y is 100000001, not a position in px"),
    "outside": (f"../a.jpg {ROW}", "../a.jpg is outside the folder of photos"),
    "outside by a detour": (f"x/../../a.jpg {ROW}", "x/../../a.jpg is outside the folder of photos"),
    "absolute": (f"/etc/a.jpg {ROW}", "/etc/a.jpg is outside the folder of photos"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_row(kind: str, tree: Tree) -> None:
    row, said = BAD_ROWS[kind]
    source = tree.photos("good.jpg", "a.jpg").table(f"good.jpg {ROW}", row).read()
    assert [photo.file for photo in source.photos] == ["good.jpg"]
    bad = Rejected(row.split()[0], Reason.BAD_ROW, f"list_landmarks_celeba.txt:4: {said}")
    assert bad in source.rejected
    assert all(one == bad or one.reason is Reason.NOT_LISTED for one in source.rejected)


def test_row_of_the_folder_itself(tree: Tree) -> None:
    """No file has this name; the other rows must be read."""
    source = tree.photos("good.jpg").table(f"good.jpg {ROW}", f". {ROW}").read()
    assert [photo.file for photo in source.photos] == ["good.jpg"]
    assert reasons(source) == [(".", Reason.BAD_ROW)]


def test_fractions_and_negative_numbers_are_landmarks(tree: Tree) -> None:
    source = tree.photos("a.jpg").table("a.jpg -1 2.5 1e2 +3 4 5 6 7 8 9").read()
    assert source.photos[0].landmarks == (-1, 2.5, 100, 3, 4, 5, 6, 7, 8, 9)


def test_equal_duplicates_are_used_once(tree: Tree) -> None:
    source = tree.photos("a.jpg", "b.jpg").table(f"a.jpg {ROW}", f"b.jpg {ROW}", f"a.jpg  {ROW}").read()
    assert [photo.file for photo in source.photos] == ["a.jpg", "b.jpg"]
    assert reasons(source) == [("a.jpg", Reason.DUPLICATE_ROW)]
    said = "list_landmarks_celeba.txt:5: lines 3, 5 list it, with equal values; the first is used"
    assert source.rejected[0].detail == said


def test_duplicates_that_differ_are_not_used(tree: Tree) -> None:
    other = ROW.replace("19", "20")
    source = tree.photos("a.jpg", "b.jpg").table(f"a.jpg {ROW}", f"b.jpg {ROW}", f"a.jpg {other}").read()
    assert [photo.file for photo in source.photos] == ["b.jpg"]
    assert reasons(source) == [("a.jpg", Reason.DUPLICATE_ROW)] * 2
    assert source.rejected[1].detail.endswith(":5: lines 3, 5 list it, with different values; none is used")


def test_unlisted_files(tree: Tree) -> None:
    tree.photos("a.jpg", "z.jpg", "sub/y.PNG", "notes.txt", "list.csv", "bad.jpg")
    source = tree.table(f"a.jpg {ROW}", "bad.jpg 1 2").read()
    assert reasons(source) == [
        ("bad.jpg", Reason.BAD_ROW),
        ("sub/y.PNG", Reason.NOT_LISTED),
        ("z.jpg", Reason.NOT_LISTED),
    ]


def test_missing_files_are_photos_still(tree: Tree) -> None:
    """A missing file is found when it is read, so that a resumed run has the same source."""
    assert [photo.file for photo in tree.table(f"gone.jpg {ROW}").read().photos] == ["gone.jpg"]


# --- Folders and tables that are none ---------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"`celeba_root` .*nowhere is not a folder"):
        read_celeba(tmp_path / "nowhere")


def test_wrong_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba").mkdir()
    with pytest.raises(SourceError, match=r"looked for img_celeba, Img/img_celeba; the folder has img_align_celeba"):
        read_celeba(tmp_path)
    (tmp_path / "img_celeba").mkdir()
    with pytest.raises(
        SourceError,
        match=r"looked for Anno/list_landmarks_celeba\.txt, list_landmarks_celeba\.txt; the folder has img_",
    ):
        read_celeba(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the folder has nothing"):
        read_celeba(tmp_path)


PLACES = (
    "img_align_celeba",
    "img_align_celeba_png",
    "Img/img_align_celeba",
    "celeba/img_align_celeba",
    "img_align_celeba/img_align_celeba",
)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_aligned_images_alone(place: str, inside: bool, tmp_path: Path) -> None:
    """The message says what is missing, where it is, and what can be made of the aligned images."""
    Tree(tmp_path, place).photos("000001.jpg")
    outer = tmp_path / place.removesuffix("/img_align_celeba") if place == PLACES[-1] else tmp_path / place
    root = outer if inside else tmp_path
    with pytest.raises(AlignedImagesOnly) as raised:
        read_celeba(root)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"`celeba_root` {root} has only CelebA's aligned images (")
    for text in (
        "img_celeba.7z and Anno/list_landmarks_celeba.txt",
        "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ):
        assert text in message
    assert "aligned images make CelebA at 128x128" in message
    assert list(raised.value.aligned.rglob("*.jpg")) == [tmp_path / place / "000001.jpg"]


def test_aligned_images_beside_the_landmark_table(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "img_align_celeba").photos("a.jpg").table(f"a.jpg {ROW}")
    with pytest.raises(AlignedImagesOnly, match=r"get img_celeba\.7z from http"):
        tree.read()


def test_aligned_images_beside_the_photos(tree: Tree) -> None:
    tree.photos("a.jpg").table(f"a.jpg {ROW}").write("img_align_celeba/a.jpg", "x")
    assert tree.read().folder == tree.images


def test_the_command_says_what_aligned_images_are_good_for(tmp_path: Path) -> None:
    Tree(tmp_path / "my celeba", "img_align_celeba").photos("000001.jpg")
    command = [sys.executable, "-m", "celebahq_builder", "build", "--celeba-root", "my celeba", "--out", "work"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --celeba-root my celeba has only CelebA's aligned images")
    assert line.endswith(": celebahq import 'my celeba/img_align_celeba' --out celeba-128.h5 --crop celeba")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("Anno/list_landmarks_celeba.txt", "", r":1: expected the number of photos, got ''"),
        ("Anno/list_landmarks_celeba.txt", f"a.jpg {ROW}\n", r":1: expected the number of photos, got 'a.jpg"),
        ("Anno/list_landmarks_celeba.txt", f"1\na.jpg {ROW}\n", r":2: expected the column names lefteye_x"),
        ("Anno/list_landmarks_celeba.txt", "1\n", r":2: expected the column names .* got 'nothing'"),
        ("Anno/list_landmarks_celeba.txt", b"1\n\xff\n", "cannot be read"),
        ("Anno/list_landmarks_celeba.txt", f"0\n{HEADER}\n", "lists no photos"),
        (
            "Eval/list_eval_partition.txt",
            "a.jpg 0\nb.jpg 3\n",
            r":2: expected a file name and 0, 1 or 2, got 'b.jpg 3'",
        ),
        ("Eval/list_eval_partition.txt", "a.jpg\n", r":1: expected a file name and 0, 1 or 2"),
        ("Anno/list_attr_celeba.txt", "1\nBald Young\na.jpg 1\n", r":3: expected a file name and 2 values"),
        ("Anno/list_attr_celeba.txt", "1\nBald Young\na.jpg 1 2\n", r":3: expected a file name and 2 values"),
        ("Anno/list_attr_celeba.txt", "Bald Young\na.jpg 1 2\n", r":1: expected the number of photos"),
        ("Anno/list_attr_celeba.txt", "", r":1: expected the number of photos"),
        ("Eval/list_eval_partition.txt", "a.jpg 0\n\na.jpg 0\n", r":3: 'a.jpg' is listed twice; remove one"),
        ("Anno/list_attr_celeba.txt", "2\nBald\na.jpg 1\n./a.jpg 1\n", r":4: 'a.jpg' is listed twice; remove one"),
    ],
)
def test_table_that_is_none(path: str, data: str | bytes, said: str, tree: Tree) -> None:
    if "landmarks" not in path:
        tree.table(f"a.jpg {ROW}")
    tree.write(path, data)
    with pytest.raises(SourceError, match=said):
        tree.read()


@pytest.mark.parametrize("path", ["Eval/list_eval_partition.txt", "Anno/list_attr_celeba.txt"])
def test_table_that_is_a_broken_link(path: str, tree: Tree) -> None:
    """It is not taken for a table that does not exist."""
    tree.photos("a.jpg").table(f"a.jpg {ROW}")
    (tree.root / path).parent.mkdir(exist_ok=True)
    (tree.root / path).symlink_to("gone.txt")
    with pytest.raises(SourceError, match=rf"{path} cannot be read: No such file"):
        tree.read()


# --- Tables of splits and attributes, as text and as Kaggle's CSV ----------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_tables_of_kaggle(separator: str, end: str, mark: bytes, tmp_path: Path) -> None:
    def table(name: str, *rows: str) -> Path:
        path = tmp_path / name
        path.write_bytes(mark + end.join(row.replace(" ", separator) for row in (*rows, "")).encode())
        return path

    splits = table("list_eval_partition.csv", "image_id partition", "a.jpg 0", "b.jpg 1", "", "c.jpg 2")
    assert read_partition(splits) == {"a.jpg": "train", "b.jpg": "val", "c.jpg": "test"}
    attributes = table("list_attr_celeba.csv", "image_id Bald Young", "a.jpg -1 1", "", "./b.jpg 1 0")
    assert read_attributes(attributes) == (("Bald", "Young"), {"a.jpg": (-1, 1), "b.jpg": (1, 0)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: expected the column names image_id, ..., got ''"),
        ("a.jpg,0\n", ":1: expected the column names image_id, ..., got 'a.jpg 0'"),
        ("image_id,partition\na.jpg,3\n", ":2: expected a file name and 0, 1 or 2, got 'a.jpg 3'"),
        ("image_id,partition\na.jpg\n", ":2: expected a file name and 0, 1 or 2, got 'a.jpg'"),
        ("image_id,partition\n,0\n", ":2: expected a file name and 0, 1 or 2, got ' 0'"),
        ("image_id,partition\na.jpg,0\na.jpg,0\n", ":3: 'a.jpg' is listed twice; remove one of the lines"),
        ("image_id,partition\na.jpg," + "0" * 200_000, "cannot be read as CSV: field larger than field limit"),
    ],
)
def test_csv_partition_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(SourceError) as raised:
        read_partition(tmp_path / "table.csv")
    assert said in str(raised.value)


@pytest.mark.parametrize("row", ["a.jpg,1", "a.jpg,1,1,1", "a.jpg,1,2", "a.jpg,1,", ",1,1"])
def test_csv_attributes_that_are_none(row: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(f"image_id,Bald,Young\n{row}\n")
    with pytest.raises(SourceError, match=r":2: expected a file name and 2 values 1 or -1"):
        read_attributes(tmp_path / "table.csv")


# --- Own photos and a CSV table ---------------------------------------------------------------------------------

CSV_HEADER = ",".join(("file", *COLUMNS))
CSV_ROW = ROW.replace(" ", ",")


def read_csv(folder: Path, *rows: str, header: str = CSV_HEADER, end: str = "\n", mark: bytes = b"") -> PhotoSource:
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    table = folder / "landmarks.csv"
    table.write_bytes(mark + end.join((header, *rows, "")).encode())
    return read_folder(photos, table)


def test_csv(tmp_path: Path) -> None:
    source = read_csv(tmp_path, f"a.jpg,{CSV_ROW}", f"sub/b.png, {CSV_ROW}")
    assert source.photos == (Photo("a", "a.jpg", NUMBERS), Photo("b", "sub/b.png", NUMBERS))
    assert source.rejected == ()


def test_csv_columns_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    header = " split ," + ",".join(reversed(COLUMNS)) + ",comment, file"
    row = "val," + ",".join(reversed(CSV_ROW.split(","))) + ",nice,a b.jpg"
    assert read_csv(tmp_path, row, header=header).photos == (Photo("a b", "a b.jpg", NUMBERS, "val"),)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_line_ends_byte_order_marks_and_quotes(end: str, mark: bytes, tmp_path: Path) -> None:
    source = read_csv(tmp_path, f'"a, b.jpg",{CSV_ROW}', "", f"c.jpg,{CSV_ROW}", end=end, mark=mark)
    assert [photo.file for photo in source.photos] == ["a, b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.jpg,1,2", "expected 10 landmark numbers, got 2"),
        (f"a.jpg,{CSV_ROW.replace('12', '')}", "righteye_x is empty, not a number"),
        (f"a.jpg,{CSV_ROW.replace('12', 'nan')}", "righteye_x is nan, not a number"),
        (f"../a.jpg,{CSV_ROW}", "../a.jpg is outside the folder"),
        (f",{CSV_ROW}", "no file name"),
    ],
)
def test_csv_bad_row(row: str, said: str, tmp_path: Path) -> None:
    source = read_csv(tmp_path, f"good.jpg,{CSV_ROW}", row)
    assert [photo.file for photo in source.photos] == ["good.jpg"]
    assert len(source.rejected) == 1
    assert source.rejected[0].reason is Reason.BAD_ROW
    assert source.rejected[0].photo
    assert source.rejected[0].detail.startswith("landmarks.csv:3: ")
    assert said in source.rejected[0].detail


def test_csv_decimal_commas_are_no_landmarks(tmp_path: Path) -> None:
    """More cells than columns: a number such as 10,5 would be read as two numbers."""
    row = "a.jpg," + ",".join(f"{i},5" for i in range(10, 20))
    source = read_csv(tmp_path, f"good.jpg,{CSV_ROW}", row)
    assert [photo.file for photo in source.photos] == ["good.jpg"]
    assert reasons(source) == [("a.jpg", Reason.BAD_ROW)]


def test_csv_split_is_one_of_three(tmp_path: Path) -> None:
    rows = [f"{name}.jpg,{CSV_ROW},{name}" for name in ("train", "val", "test")]
    source = read_csv(tmp_path, *rows, f"none.jpg,{CSV_ROW},", header=f"{CSV_HEADER},split")
    assert [photo.split for photo in source.photos] == ["train", "val", "test", ""]
    with pytest.raises(SourceError, match="vall"):
        read_csv(tmp_path, f"a.jpg,{CSV_ROW},vall", header=f"{CSV_HEADER},split")


def test_csv_duplicates(tmp_path: Path) -> None:
    rows = [f"a.jpg,{CSV_ROW}", f"b.jpg,{CSV_ROW}", f"a.jpg,{CSV_ROW}"]
    source = read_csv(tmp_path, *rows)
    assert [(photo.file, photo.id) for photo in source.photos] == [("a.jpg", "a"), ("b.jpg", "b")]
    assert reasons(source) == [("a.jpg", Reason.DUPLICATE_ROW)]
    assert source.rejected[0].detail == "landmarks.csv:4: lines 2, 4 list it, with equal values; the first is used"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (CSV_HEADER.replace("nose_x", "nose"), r"column nose_x is missing; .* it has file, lefteye_x"),
        (CSV_HEADER.replace("file", "name"), "column file is missing"),
        (CSV_HEADER.replace(",", "|"), "column file is missing"),
        (f"{CSV_HEADER},nose_x", "column nose_x is there 2 times; keep one"),
        ("3", "column file is missing; .* this looks like CelebA's own table, which `celeba_root` reads"),
        ("", "it has nothing"),
        ("x" * 200_000, "is missing|cannot be read"),
    ],
)
def test_csv_without_its_columns(header: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=said):
        read_csv(tmp_path, header=header)


def test_csv_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_csv(tmp_path, "x" * 200_000)
    with pytest.raises(SourceError, match="cannot be read"):
        read_csv(tmp_path, mark=b"\xff\xfe")
    with pytest.raises(SourceError, match="cannot be read"):
        read_folder(tmp_path, tmp_path / "nowhere.csv")
    with pytest.raises(SourceError, match=r"`photos` .*nowhere is not a folder"):
        read_folder(tmp_path / "nowhere", tmp_path / "landmarks.csv")
    with pytest.raises(SourceError, match=r"landmarks\.csv lists no photos"):
        read_csv(tmp_path)


# --- Ids ------------------------------------------------------------------------------------------------------


def ids(folder: Path, *files: str) -> list[str]:
    return [photo.id for photo in read_csv(folder, *(f'"{file}",{CSV_ROW}' for file in files)).photos]


def test_ids_are_stems_where_those_are_unique(tmp_path: Path) -> None:
    assert ids(tmp_path, "a.jpg", "sub/b.png", "c.d.jpg") == ["a", "b", "c.d"]
    assert ids(tmp_path, "x/a.jpg", "y/a.jpg", "b.jpg") == ["x__a.jpg", "y__a.jpg", "b"]
    assert ids(tmp_path, "a.jpg", "a.png") == ["a.jpg", "a.png"]


names = st.lists(st.sampled_from(["a", "b", "a__b", "a.jpg"]), min_size=1, max_size=3).map("/".join)
files = st.lists(st.tuples(names, st.sampled_from([".jpg", ".png"])).map("".join), min_size=1, max_size=6, unique=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(files)
def test_ids_are_unique_or_refused(tmp_path_factory: pytest.TempPathFactory, files: Sequence[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "ids"
    folder.mkdir(exist_ok=True)
    try:
        found = ids(folder, *files)
    except SourceError as error:
        assert "same id" in str(error)  # noqa: PT017 (either is right)
        return
    assert len(set(found)) == len(files)
    assert not any("/" in name for name in found)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_with_other_separators_and_decimal_commas(separator: str, tmp_path: Path) -> None:
    row = separator.join(["a, b.jpg", "9,5", *ROW.split()[1:]])
    source = read_csv(tmp_path, row, header=CSV_HEADER.replace(",", separator))
    assert source.photos == (Photo("a, b", "a, b.jpg", (9.5, *NUMBERS[1:])),)


def test_csv_decimal_commas_in_quotes_are_no_numbers_between_commas(tmp_path: Path) -> None:
    """There, "1,234" may also be a thousand and more."""
    source = read_csv(tmp_path, f"good.jpg,{CSV_ROW}", 'a.jpg,"1,234"' + CSV_ROW[2:])
    assert [photo.file for photo in source.photos] == ["good.jpg"]
    assert "lefteye_x is 1,234, not a number" in source.rejected[0].detail


def test_csv_of_kaggle(tmp_path: Path) -> None:
    header = CSV_HEADER.replace("file", "image_id")
    assert read_csv(tmp_path, f"a.jpg,{CSV_ROW}", header=header).photos == (Photo("a", "a.jpg", NUMBERS),)
    both = read_csv(tmp_path, f"a.jpg,{CSV_ROW},7", header=f"{CSV_HEADER},image_id")
    assert both.photos == (Photo("a", "a.jpg", NUMBERS),)


def test_csv_line_ends_of_old_macs_and_separators_in_names(tmp_path: Path) -> None:
    source = read_csv(tmp_path, f"a\u2028b.jpg,{CSV_ROW}", f"c\x85.jpg,{CSV_ROW}", end="\r")
    assert [photo.file for photo in source.photos] == ["a\u2028b.jpg", "c\x85.jpg"]


def test_names_in_another_unicode_normalization(tmp_path: Path) -> None:
    """Decomposed on disk, as macOS writes it, and composed in the table; split and attributes follow."""
    tree = Tree(tmp_path / "celeba").photos("jose\u0301.jpg", "Zoe\u0308.jpg", "Zo\u00eb.jpg")
    tree.table(f"jos\u00e9.jpg {ROW}", f"Zo\u00eb.jpg {ROW}").write("list_eval_partition.txt", "jos\u00e9.jpg 1")
    source = tree.write("list_attr_celeba.txt", "1\nBald\njos\u00e9.jpg 1").read()
    assert [(photo.file, photo.split, photo.attributes) for photo in source.photos] == [
        ("jose\u0301.jpg", "val", (1,)),
        ("Zo\u00eb.jpg", "", (0,)),
    ]
    assert reasons(source) == [("Zoe\u0308.jpg", Reason.NOT_LISTED)]


# --- Tables with another order of numbers -----------------------------------------------------------------------

TRUE = (30.0, 40.0, 70.0, 42.0, 50.0, 60.0, 35.0, 80.0, 65.0, 82.0)
"""An upright face as the viewer sees it."""

EXCHANGED: dict[LandmarkOrder, tuple[float, ...]] = {
    "subject": (*TRUE[2:4], *TRUE[0:2], *TRUE[4:6], *TRUE[8:10], *TRUE[6:8]),
    "yx": tuple(TRUE[i + 1 - 2 * (i % 2)] for i in range(10)),
}


def line(name: str, numbers: tuple[float, ...]) -> str:
    return f"{name} {' '.join(map(str, numbers))}"


@pytest.mark.parametrize("order", EXCHANGED)
def test_tables_in_another_order_are_refused_and_read_with_an_option(order: LandmarkOrder, tree: Tree) -> None:
    tree.photos("a.jpg", "b.jpg").table(line("a.jpg", EXCHANGED[order]), line("b.jpg", EXCHANGED[order]))
    said = f"in 2 of 2 rows the face is mirrored; expected lefteye .* `landmark_order` {order} reads such a table"
    with pytest.raises(SourceError, match=said):
        tree.read()
    source = CelebA(tree.root, landmark_order=order)
    assert [photo.landmarks for photo in source.photos] == [TRUE, TRUE]
    (tree.root / "t.csv").write_text(f"{CSV_HEADER}\n{line('a.jpg', EXCHANGED[order]).replace(' ', ',')}\n")
    assert PhotoFolder(tree.images, tree.root / "t.csv", order).photos[0].landmarks == TRUE


def test_y_from_the_bottom_is_named(tree: Tree) -> None:
    flipped = tuple(100 - value if i % 2 else value for i, value in enumerate(TRUE))
    with pytest.raises(SourceError, match="y seems to be counted from the bottom of the image"):
        tree.table(line("a.jpg", flipped)).read()


def test_half_of_the_rows_is_no_majority(tree: Tree) -> None:
    """Single mirrored rows are left to the stage that rejects them."""
    wrong = EXCHANGED["subject"]
    tree.photos("a.jpg", "b.jpg", "c.jpg")
    assert len(tree.table(line("a.jpg", TRUE), line("b.jpg", wrong)).read().photos) == 2
    with pytest.raises(SourceError, match="in 2 of 3 rows"):
        tree.table(line("a.jpg", TRUE), line("b.jpg", wrong), line("c.jpg", wrong)).read()


@given(st.floats(0, 360), st.floats(0.1, 30), st.floats(-500, 500), st.floats(-500, 500))
def test_mirrored_faces_are_recognized_in_any_rotation(degrees: float, scale: float, x: float, y: float) -> None:
    turned = scale * np.exp(1j * np.radians(degrees)) * (np.array(TRUE[0::2]) + 1j * np.array(TRUE[1::2])) + x + 1j * y
    row = tuple(np.stack([turned.real, turned.imag], axis=1).ravel())
    assert not is_mirrored(row)
    assert is_mirrored(in_column_order(row, "subject"))
    assert is_mirrored(in_column_order(row, "yx"))


def test_a_straight_line_is_not_mirrored() -> None:
    assert not is_mirrored(NUMBERS)


def test_sample_is_not_mirrored() -> None:
    assert not any(is_mirrored(photo.landmarks) for photo in read_celeba(SAMPLE).photos)


ALIGNED = (69.0, 111.0, 108.0, 111.0, 88.0, 135.0, 72.0, 152.0, 105.0, 152.0)


@pytest.mark.parametrize(("size", "refused"), [((178, 218), False), ((178, 219), True), ((600, 400), True)])
def test_landmarks_of_the_aligned_images(size: tuple[int, int], refused: bool, tree: Tree) -> None:
    Image.new("RGB", size).save(tree.images / "b.jpg")
    tree.photos("broken.jpg").table(*(line(name, ALIGNED) for name in ("gone.jpg", "broken.jpg", "b.jpg")))
    if refused:
        with pytest.raises(SourceError, match=r"178x218 px, but b\.jpg has .* list_landmarks_celeba"):
            tree.read()
    else:
        assert len(tree.read().photos) == 3


# --- Files that cannot be read ----------------------------------------------------------------------------------


def test_pipes_and_folders_in_place_of_a_table(tree: Tree) -> None:
    table = tree.root / "Anno" / "list_landmarks_celeba.txt"
    table.parent.mkdir()
    os.mkfifo(table)
    with pytest.raises(SourceError, match="cannot be read: a named pipe, not a regular file"):
        tree.read()
    with pytest.raises(SourceError, match=r"is a folder without \.pts files; expected a CSV table"):
        read_folder(tree.images, tree.root)
    with pytest.raises(SourceError, match=r"cannot be read: byte 0 is not UTF-8; save it as UTF-8"):
        read_csv(tree.root, mark=b"\xff\xfe")


def test_a_table_that_is_too_large(tree: Tree, tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)
    with pytest.raises(SourceError, match="cannot be read: 67108865 bytes; at most"):
        read_folder(tree.images, tmp_path / "table.csv")


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_table_of_too_many_rows(end: str, tree: Tree) -> None:
    tree.write("Anno/list_landmarks_celeba.txt", end * (MAX_TABLE_ROWS + 1))
    with pytest.raises(SourceError, match="has 1000001 rows; at most 1000000 are read: divide it"):
        tree.read()


def test_a_file_name_that_no_disk_can_hold(tree: Tree) -> None:
    source = tree.table(f"a.jpg {ROW}", f"{'x' * 4096} {ROW}", f"{'x' * 4097} {ROW}").read()
    assert [len(photo.file) for photo in source.photos] == [5, 4096]
    place = "list_landmarks_celeba.txt:5"
    assert source.rejected == (Rejected(place, Reason.BAD_ROW, f"{place}: a file name of 4097 characters"),)


def test_paths_that_are_too_long(tmp_path: Path) -> None:
    long = Path("x" * 5000)
    with pytest.raises(SourceError, match="cannot be read: File name too long"):
        read_folder(long, tmp_path)
    with pytest.raises(SourceError, match="cannot be read: File name too long"):
        read_celeba(long)
    with pytest.raises(SourceError, match="cannot be read: File name too long"):
        read_folder(tmp_path, long)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="root needs setpriv to lose its rights over files")
def test_folders_without_permission(tree: Tree) -> None:
    drop = "-dac_override,-dac_read_search,-fowner"
    code = "import sys; from celebahq_builder import CelebA; CelebA(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tree.root)]
    if os.geteuid() == 0:
        command = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", *command]
    tree.photos("a.jpg").table(line("a.jpg", TRUE))
    for folder, said in ((tree.root, "`celeba_root`"), (tree.images, "folder of photos")):
        folder.chmod(0)
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        folder.chmod(0o755)
        last = ended.stderr.splitlines()[-1]
        assert "SourceError" in last
        assert f"{said} {folder} cannot be read: Permission denied" in last


# --- Subsets and hashes -----------------------------------------------------------------------------------------


@pytest.fixture
def source(tree: Tree) -> PhotoSource:
    rows = [f"{name}.jpg {ROW}" for name in "abcd"]
    return tree.photos("a.jpg", "b.jpg", "c.jpg", "d.jpg", "new.jpg").table(*rows, "bad.jpg 1").read()


def test_subset_by_ids(source: PhotoSource) -> None:
    part = subset(source, ids=["c", "a.jpg", "bad"])
    assert [photo.id for photo in part.photos] == ["a", "c"]
    assert reasons(part) == [("bad.jpg", Reason.BAD_ROW)]
    assert (part.folder, part.warnings) == (source.folder, source.warnings)


def test_subset_by_limit(source: PhotoSource) -> None:
    assert [photo.id for photo in subset(source, limit=2).photos] == ["a", "b"]
    assert [photo.id for photo in subset(source, ids=["d", "b", "c"], limit=2).photos] == ["b", "c"]
    assert subset(source, limit=99).photos == source.photos
    assert subset(source) == source


def test_subset_names_unknown_ids(source: PhotoSource) -> None:
    with pytest.raises(SourceError, match=r"2 of 3 names in `ids` are not in the source, first: x"):
        subset(source, ids=["a", "z", "x"])


def test_hash_depends_on_all_tables(tree: Tree) -> None:
    base = tree.photos("a.jpg").table(f"a.jpg {ROW}").read().sha256()
    assert tree.read().sha256() == base
    seen = {base, tree.table(f"a.jpg {ROW.replace('19', '19.5')}").read().sha256()}
    seen.add(tree.table(f"b.jpg {ROW}").read().sha256())
    seen.add(tree.table(f"a.jpg {ROW}").write("Eval/list_eval_partition.txt", "a.jpg 1").read().sha256())
    seen.add(tree.write("Anno/list_attr_celeba.txt", "1\nBald\na.jpg 1").read().sha256())
    seen.add(tree.write("Anno/list_attr_celeba.txt", "1\nBald\na.jpg -1").read().sha256())
    seen.add(tree.write("Anno/list_attr_celeba.txt", "1\nYoung\na.jpg -1").read().sha256())
    assert len(seen) == 7
