"""Own photos with a table as CSV: columns, separators, and the ids of the photos."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import SourceError
from celebahq_builder.outcome import Reason
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.photo import COLUMNS, Photo, PhotoSource
from tests.sources.tree import CSV_HEADER, NUMBERS, ROW, reasons

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


def test_one_photo(tmp_path: Path) -> None:
    """The table may list it as .jpg where it is shipped as PNG."""
    read_csv(tmp_path, f"a.jpg,{CSV_ROW}", f"b.jpg,{CSV_ROW}")
    photo = tmp_path / "photos" / "a.png"
    photo.touch()
    source = read_folder(photo, tmp_path / "landmarks.csv")
    assert (source.photos, source.rejected) == ((Photo("a", "a.jpg", NUMBERS),), ())
    photo.with_suffix(".jpg").touch()
    assert read_folder(photo.with_suffix(".jpg"), tmp_path / "landmarks.csv").photos == source.photos
    other = read_folder(photo, tmp_path / "landmarks.csv")
    assert (other.photos, reasons(other)) == ((), [("a.png", Reason.NOT_LISTED)])


def test_csv_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_csv(tmp_path, "x" * 200_000)
    with pytest.raises(SourceError, match=r"cannot be read: byte 0 is not UTF-8; save it as UTF-8"):
        read_csv(tmp_path, mark=b"\xff\xfe")
    with pytest.raises(SourceError, match="cannot be read"):
        read_folder(tmp_path, tmp_path / "nowhere.csv")
    with pytest.raises(SourceError, match=r"`photos` .*nowhere is not a folder"):
        read_folder(tmp_path / "nowhere", tmp_path / "landmarks.csv")
    with pytest.raises(SourceError, match=r"landmarks\.csv lists no photos"):
        read_csv(tmp_path)


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
