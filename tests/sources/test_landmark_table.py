"""Landmark tables: rows and files that cannot be used, other orders of the numbers, tables that cannot be read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from celebahq_builder.errors import SourceError
from celebahq_builder.limits import MAX_TABLE_ROWS, MAX_TEXT_BYTES
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.celeba import CelebA, read_celeba
from celebahq_builder.sources.folder import PhotoFolder, read_folder
from celebahq_builder.sources.photo import LandmarkOrder
from tests.sources.tree import CSV_HEADER, FACE, ROW, Tree, line, reasons

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


EXCHANGED: dict[LandmarkOrder, tuple[float, ...]] = {
    "subject": (*FACE[2:4], *FACE[0:2], *FACE[4:6], *FACE[8:10], *FACE[6:8]),
    "yx": tuple(FACE[i + 1 - 2 * (i % 2)] for i in range(10)),
}


@pytest.mark.parametrize("order", EXCHANGED)
def test_tables_in_another_order_are_refused_and_read_with_an_option(order: LandmarkOrder, tree: Tree) -> None:
    tree.photos("a.jpg", "b.jpg").table(line("a.jpg", EXCHANGED[order]), line("b.jpg", EXCHANGED[order]))
    said = f"in 2 of 2 rows the face is mirrored; expected lefteye .* `landmark_order` {order} reads such a table"
    with pytest.raises(SourceError, match=said):
        tree.read()
    source = CelebA(tree.root, landmark_order=order)
    assert [photo.landmarks for photo in source.photos] == [FACE, FACE]
    (tree.root / "t.csv").write_text(f"{CSV_HEADER}\n{line('a.jpg', EXCHANGED[order]).replace(' ', ',')}\n")
    assert PhotoFolder(tree.images, tree.root / "t.csv", order).photos[0].landmarks == FACE


def test_y_from_the_bottom_is_named(tree: Tree) -> None:
    flipped = tuple(100 - value if i % 2 else value for i, value in enumerate(FACE))
    with pytest.raises(SourceError, match="y seems to be counted from the bottom of the image"):
        tree.table(line("a.jpg", flipped)).read()


def test_half_of_the_rows_is_no_majority(tree: Tree) -> None:
    """Single mirrored rows are left to the stage that rejects them."""
    wrong = EXCHANGED["subject"]
    tree.photos("a.jpg", "b.jpg", "c.jpg")
    assert len(tree.table(line("a.jpg", FACE), line("b.jpg", wrong)).read().photos) == 2
    with pytest.raises(SourceError, match="in 2 of 3 rows"):
        tree.table(line("a.jpg", FACE), line("b.jpg", wrong), line("c.jpg", wrong)).read()


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


def test_pipes_and_folders_in_place_of_a_table(tree: Tree) -> None:
    table = tree.root / "Anno" / "list_landmarks_celeba.txt"
    table.parent.mkdir()
    os.mkfifo(table)
    with pytest.raises(SourceError, match="cannot be read: a named pipe, not a regular file"):
        tree.read()
    with pytest.raises(SourceError, match=r"is a folder without \.pts files; expected a CSV table"):
        read_folder(tree.images, tree.root)


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
    tree.photos("a.jpg").table(line("a.jpg", FACE))
    for folder, said in ((tree.root, "`celeba_root`"), (tree.images, "folder of photos")):
        folder.chmod(0)
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        folder.chmod(0o755)
        last = ended.stderr.splitlines()[-1]
        assert "SourceError" in last
        assert f"{said} {folder} cannot be read: Permission denied" in last
