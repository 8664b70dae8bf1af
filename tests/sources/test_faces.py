"""Several faces of one photo: their order, their ids, and rows that are equal."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from celebahq_builder.errors import SourceError
from celebahq_builder.outcome import Reason
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.face_ids import ID_BYTES_MAX, unique_ids
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.official import ImageListRow
from celebahq_builder.sources.photo import COLUMNS, PhotoSource, listed_photos, subset

FACE = (30, 40, 70, 40, 50, 60, 35, 80, 65, 80)


def face(x: float = 0, y: float = 0) -> list[float]:
    """Return the landmarks of an upright face that is moved by x and y."""
    return [value + (y if i % 2 else x) for i, value in enumerate(FACE)]


def read(folder: Path, *rows: Sequence[object], columns: Sequence[str] = ("file",)) -> PhotoSource:
    lines = [(*columns, *COLUMNS), *rows]
    (folder / "t.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return read_folder(folder, folder / "t.csv")


def ids(source: PhotoSource) -> list[tuple[str, str]]:
    return [(photo.file, photo.id) for photo in source.photos]


# --- Order and numbers ------------------------------------------------------------------------------------------


def test_faces_are_numbered_from_left_to_right(tmp_path: Path) -> None:
    source = read(tmp_path, ("b.jpg", *face(300)), ("a.jpg", *face(5)), ("b.jpg", *face(100)), ("b.jpg", *face(200)))
    assert ids(source) == [("b.jpg", "b_0"), ("b.jpg", "b_1"), ("b.jpg", "b_2"), ("a.jpg", "a")]
    assert [photo.landmarks[0] for photo in source.photos] == [130, 230, 330, 35]
    assert [photo.key for photo in source.photos] == [
        ("b.jpg", "b_0"),
        ("b.jpg", "b_1"),
        ("b.jpg", "b_2"),
        ("a.jpg", ""),
    ]
    assert source.rejected == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_left_is_that_of_the_upright_image(orientation: int, tmp_path: Path) -> None:
    """A grey level marks the eyes of each face in the stored image; Pillow turns the image upright."""
    stored = np.zeros((300, 400), np.uint8)
    corners = [(50, 40), (300, 60), (70, 200), (310, 220)]
    for number, (x, y) in enumerate(corners, start=1):
        stored[y, x] = number
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    columns = [int(np.nonzero(upright == number)[1][0]) for number in (1, 2, 3, 4)]
    source = read(tmp_path, *(("a.png", *face(x - 50, y - 40)) for x, y in corners))
    found = [corners.index((int(photo.landmarks[0]) + 20, int(photo.landmarks[1]))) for photo in source.photos]
    assert found == sorted(range(4), key=columns.__getitem__)


@pytest.mark.parametrize("kind", ["missing", "no image", "pipe"])
def test_photos_that_cannot_be_read_count_as_upright(kind: str, tmp_path: Path) -> None:
    if kind == "no image":
        (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe1 no image")
    elif kind == "pipe":
        os.mkfifo(tmp_path / "a.jpg")
    assert [photo.landmarks[0] for photo in read(tmp_path, ("a.jpg", *face(90)), ("a.jpg", *face())).photos] == [
        30,
        120,
    ]


def test_equal_rows_are_one_face(tmp_path: Path) -> None:
    rows = [("a.jpg", *face(100)), ("a.jpg", *face()), ("a.jpg", *map(float, face(100))), ("a.jpg", *face()[:9], "x")]
    source = read(tmp_path, *rows)
    assert ids(source) == [("a.jpg", "a_0"), ("a.jpg", "a_1")]
    assert [(one.photo, one.reason) for one in source.rejected] == [
        ("a.jpg", Reason.BAD_ROW),
        ("a.jpg", Reason.DUPLICATE_ROW),
    ]
    assert source.rejected[1].detail == "t.csv:4: lines 2, 4 list it, with equal values; the first is used"


def test_many_equal_rows_have_short_messages(tmp_path: Path) -> None:
    source = read(tmp_path, *[("a.jpg", *face())] * 3000)
    assert len(source.rejected) == 2999
    said = "t.csv:3001: lines 2, 3, 4, 5, 6, 7, 8, 9 and 2992 more list it, with equal values; the first is used"
    assert source.rejected[-1].detail == said


def test_a_file_of_one_usable_row_is_not_numbered(tmp_path: Path) -> None:
    source = read(tmp_path, ("a.jpg", *face()), ("a.jpg", *face()[:9], ""), ("a.jpg", *face()))
    assert ids(source) == [("a.jpg", "a")]
    assert source.photos[0].key == ("a.jpg", "")


def test_each_face_has_its_split(tmp_path: Path) -> None:
    rows = [("a.jpg", "test", *face(50)), ("a.jpg", "train", *face())]
    assert [photo.split for photo in read(tmp_path, *rows, columns=("file", "split")).photos] == ["train", "test"]


def test_a_png_that_stands_in_for_several_faces(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    source = read(tmp_path, ("a.jpg", *face()), ("a.jpg", *face(9)))
    assert (len(source.photos), source.rejected) == (2, ())
    source = read(tmp_path, ("a.jpg", *face()), ("a.jpg", *face(9)), ("a.png", *face()))
    assert ids(source) == [("a.png", "a")]
    assert [(one.photo, one.reason) for one in source.rejected] == [("a.jpg", Reason.FILE_MISSING)] * 2


def test_celeba_has_one_face_of_a_photo(tmp_path: Path) -> None:
    (tmp_path / "img_celeba").mkdir()
    lines = ["2", " ".join(COLUMNS), *(" ".join(map(str, ("a.jpg", *face(x)))) for x in (0, 100))]
    (tmp_path / "list_landmarks_celeba.txt").write_text("\n".join(lines))
    source = read_celeba(tmp_path)
    assert source.photos == ()
    assert [one.reason for one in source.rejected] == [Reason.DUPLICATE_ROW] * 2


# --- Ids --------------------------------------------------------------------------------------------------------


def test_the_table_may_give_ids(tmp_path: Path) -> None:
    rows = [
        ("a.jpg", "bride", *face(100)),
        ("a.jpg", "", *face(200)),
        ("a.jpg", "", *face()),
        ("b.jpg", "groom", *face()),
    ]
    source = read(tmp_path, *rows, columns=("file", "id"))
    assert ids(source) == [("a.jpg", "a_0"), ("a.jpg", "bride"), ("a.jpg", "a_2"), ("b.jpg", "groom")]
    assert source.photos[3].key == ("b.jpg", "")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a.jpg", "x"), ("b.jpg", "x")], r"t\.csv: the id x is given to a face of a\.jpg and to one of b\.jpg"),
        ([("a.jpg", "x"), ("a.jpg", "x")], r"the id x is given to a face of a\.jpg and to one of a\.jpg; give each"),
        ([("a.jpg", "b"), ("b.jpg", "")], r"the id b is given to a face of a\.jpg, and b\.jpg has it by its name"),
    ],
)
def test_ids_that_are_given_twice(rows: list[tuple[str, str]], said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=said):
        read(tmp_path, *((*row, *face(9 * i)) for i, row in enumerate(rows)), columns=("file", "id"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../a", "id ../a begins with|id ../a has the character '/'"),
        ("a\\b", r"has the character '\\'; give letters"),
        ("a\x07b", r"has the character '\\x07'"),
        (".hidden", "begins with '.'"),
        ("a.", "ends with '.'"),
        ("é" * (ID_BYTES_MAX // 2 + 1), "is longer than 200 bytes"),
    ],
)
def test_ids_that_are_no_file_names(name: str, said: str, tmp_path: Path) -> None:
    source = read(tmp_path, ("a.jpg", name, *face()), ("b.jpg", "good", *face()), columns=("file", "id"))
    assert ids(source) == [("b.jpg", "good")]
    [one] = source.rejected
    assert (one.photo, one.reason) == ("a.jpg", Reason.BAD_ROW)
    assert re.search(said, one.detail)


def test_numbers_pass_over_names_of_other_photos(tmp_path: Path) -> None:
    rows = [("a.jpg", *face()), ("a.jpg", *face(50)), ("a_1.jpg", *face())]
    assert ids(read(tmp_path, *rows)) == [("a.jpg", "a__0"), ("a.jpg", "a__1"), ("a_1.jpg", "a_1")]


NAMES = st.sampled_from(["a.jpg", "a_.jpg", "a_0.jpg", "a__0.jpg", "x/a.jpg", "x__a.jpg"])
GIVEN = st.lists(st.sampled_from(["", "a", "a_0", "a_1", "b"]), min_size=1, max_size=3)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(NAMES, GIVEN, min_size=1, max_size=4))
def test_ids_are_unique_or_refused(given: Mapping[str, Sequence[str]]) -> None:
    try:
        found = unique_ids("t.csv", given)
    except SourceError as error:
        assert "the id" in str(error) or "the same id" in str(error)  # noqa: PT017 (either is right)
        return
    names = [name for own in found.values() for name in own]
    assert len(set(names)) == len(names) == sum(map(len, given.values()))
    assert all(name in ("", own) for file in given for name, own in zip(given[file], found[file], strict=True))


# --- Parts of a source ------------------------------------------------------------------------------------------


def test_parts_of_a_source(tmp_path: Path) -> None:
    source = read(tmp_path, ("a.jpg", *face()), ("a.jpg", *face(50)), ("b.jpg", *face()))
    assert ids(subset(source, ids=["a.jpg"])) == [("a.jpg", "a_0"), ("a.jpg", "a_1")]
    one = subset(source, ids=["a_1", "b"])
    assert ids(one) == [("a.jpg", "a_1"), ("b.jpg", "b")]
    assert one.photos[0].key == ("a.jpg", "a_1")
    assert ids(subset(source, limit=1)) == [("a.jpg", "a_0")]


def test_the_image_list_names_files_of_one_face(tmp_path: Path) -> None:
    source = read(tmp_path, ("a.jpg", *face()), ("a.jpg", *face(50)), ("b.jpg", *face()))
    rows = {name: ImageListRow(i, name, "0" * 32, "0" * 32) for i, name in enumerate(("a.jpg", "b.jpg"))}
    assert ids(listed_photos(source, [rows["b.jpg"]])) == [("b.jpg", "b")]
    with pytest.raises(SourceError, match=r"has several faces of a\.jpg, which the image list names"):
        listed_photos(source, list(rows.values()))
