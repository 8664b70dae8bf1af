"""Sources: all layouts of CelebA, folders with a table, and rows and files that cannot be used."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import photo_path
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.photo import COLUMNS, Photo, PhotoSource, subset
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
    ],
)
def test_table_that_is_none(path: str, data: str | bytes, said: str, tree: Tree) -> None:
    if "landmarks" not in path:
        tree.table(f"a.jpg {ROW}")
    tree.write(path, data)
    with pytest.raises(SourceError, match=said):
        tree.read()


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
    other = CSV_ROW.replace("19", "20")
    rows = [f"a.jpg,{CSV_ROW}", f"a.jpg,{CSV_ROW}", f"b.jpg,{CSV_ROW}", f"b.jpg,{other}"]
    source = read_csv(tmp_path, *rows)
    assert [photo.file for photo in source.photos] == ["a.jpg"]
    assert reasons(source) == [("a.jpg", Reason.DUPLICATE_ROW), *[("b.jpg", Reason.DUPLICATE_ROW)] * 2]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (CSV_HEADER.replace("nose_x", "nose"), r"column nose_x is missing; .* it has file, lefteye_x"),
        (CSV_HEADER.replace("file", "name"), "column file is missing"),
        (CSV_HEADER.replace(",", ";"), "column file is missing"),
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
