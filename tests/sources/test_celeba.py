"""CelebA: all layouts of its folder, its tables as text and as Kaggle's CSV, and folders that are none."""

import subprocess
import sys
from pathlib import Path

import pytest

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import photo_path
from celebahq_builder.sources.celeba import AlignedImagesOnly, read_attributes, read_celeba, read_partition
from celebahq_builder.sources.photo import Photo
from tests.conftest import SAMPLE
from tests.sources.tree import HEADER, NUMBERS, ROW, Tree


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
