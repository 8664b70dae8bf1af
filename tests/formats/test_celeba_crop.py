"""CelebA's aligned images: the crop of the ProGAN authors, attributes and splits, layouts, and unsuitable folders."""

import json
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError, RecipeError
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.formats.image_file import CROPS, decode
from celebahq_builder.formats.images import read as read_folder
from celebahq_builder.hdf5.reader import open_pyramid

NAMES = ("000001.jpg", "000002.jpg", "000003.jpg", "000010.jpg")

ATTRIBUTES = {"000001.jpg": (1, -1), "000002.jpg": (-1, 1), "000003.jpg": (-1, -1), "000010.jpg": (1, 1)}

SPLITS = {"000001.jpg": 0, "000002.jpg": 0, "000003.jpg": 1, "000010.jpg": 2}


def aligned(width: int = 178, height: int = 218, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a smooth random image."""
    values = np.random.default_rng(seed).integers(0, 256, (14, 12, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))


def folder_of(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Write aligned images in another order than that of their names."""
    for number, name in enumerate(reversed(names)):
        save(folder / name, aligned(seed=number))
    return folder


def write(path: Path, lines: list[str], end: str = "\n", mark: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mark + "".join(line + end for line in lines).encode())


def attribute_lines(rows: dict[str, tuple[int, ...]], csv: bool = False) -> list[str]:
    """Return the lines of list_attr_celeba with two attributes."""
    if csv:
        return ["image_id,Bald,Young", *(",".join(map(str, (name, *row))) for name, row in rows.items())]
    return [
        str(len(rows)),
        "Bald Young ",
        *(f"{name} " + " ".join(f"{value:2d}" for value in row) for name, row in rows.items()),
    ]


def partition_lines(rows: dict[str, int], csv: bool = False) -> list[str]:
    header = ["image_id,partition"] if csv else []
    return header + [f"{name}{',' if csv else ' '}{split}" for name, split in rows.items()]


def made(path: Path, out: Path, **asked: Any) -> Path:
    import_images(path, out, crop="celeba", **asked)
    return out


def refused(path: Path, **asked: Any) -> str:
    """Import a folder that is refused, and return the message."""
    target = path.parent / "made" / "out.h5"
    target.parent.mkdir(exist_ok=True)
    with pytest.raises(CelebAHQError) as raised:
        import_images(path, target, **{"crop": "celeba", **asked})
    assert list(target.parent.iterdir()) == []
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- Pixels


def plain_crop(path: Path) -> np.ndarray:
    """Cut an image as create_celeba of the ProGAN authors' dataset_tool.py does."""
    cx, cy = 89, 121
    image = np.asarray(Image.open(path).convert("RGB"))
    return image[cy - 64 : cy + 64, cx - 64 : cx + 64].transpose(2, 0, 1)


def test_pixels_are_those_of_the_plain_definition(tmp_path: Path) -> None:
    """Also of grey images, of PNG, and whatever EXIF says about the orientation."""
    folder = folder_of(tmp_path / "in", tuple(f"{number:06d}.jpg" for number in range(1, 40)))
    save(folder / "000040.jpg", aligned(mode="L"))
    save(folder / "000041.png", aligned(seed=9))
    save(folder / "000042.png", aligned(mode="L", seed=10))
    exif = Image.Exif()
    exif[0x0112] = 6
    aligned(seed=11).save(folder / "000043.jpg", exif=exif)
    expected, names = [], []
    for path in sorted(folder.iterdir()):
        expected.append(plain_crop(path))
        names.append(path.name)
    out = made(folder, tmp_path / "out.h5", workers=2)
    with open_pyramid(out) as file:
        assert (file.resolution, file.channels, file.count) == (128, 3, 43)
        assert list(file.problems()) == []
        np.testing.assert_array_equal(file.images(128)[:], np.stack(expected))
        assert file.photos["file"] == names
    with h5py.File(out) as file:
        assert file.attrs["crop"] == "celeba"
        assert json.loads(file.attrs["imported_from"]) == ["images", "in"]
    assert made(folder, tmp_path / "again.h5", workers=1).read_bytes() == out.read_bytes()


def test_grey_images_alone_become_rgb(tmp_path: Path) -> None:
    save(tmp_path / "in" / "000001.jpg", aligned(mode="L"))
    with open_pyramid(made(tmp_path / "in", tmp_path / "out.h5")) as file:
        np.testing.assert_array_equal(file.images(128)[0], plain_crop(tmp_path / "in" / "000001.jpg"))


def test_resized_after_the_crop(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in")
    with open_pyramid(made(folder, tmp_path / "out.h5", resize=64)) as file:
        assert file.resolution == 64
        for name, image in zip(NAMES, file.images(64)[:], strict=True):
            cut = Image.fromarray(np.ascontiguousarray(plain_crop(folder / name).transpose(1, 2, 0)))
            np.testing.assert_array_equal(
                image, np.asarray(cut.resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
            )


def test_limit(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in")
    write(tmp_path / "list_attr_celeba.txt", attribute_lines(ATTRIBUTES))
    write(tmp_path / "list_eval_partition.txt", partition_lines(SPLITS))
    out = made(folder, tmp_path / "out.h5", limit=3)
    with open_pyramid(out) as file:
        assert (file.photos["file"], file.photos["split"]) == ([*NAMES[:3]], ["train", "train", "val"])
    assert np.load(tmp_path / "out-labels.npy").tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("resize", [None, 64])
def test_file_that_changes_its_size_while_it_is_read(resize: int | None, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in")
    images = read_folder(folder, resize, "celeba")
    save(folder / NAMES[1], aligned(200, 200))
    with pytest.raises(CelebAHQError, match=r"000002\.jpg was changed while it was read"):
        list(images.images())


def test_decode_without_a_crop_refuses_aligned_images(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "in") / NAMES[0]
    encoded = (str(path), path.read_bytes())
    np.testing.assert_array_equal(decode(encoded, 128, 3, False, CROPS["celeba"]), plain_crop(path))
    with pytest.raises(CelebAHQError, match="was changed"):
        decode(encoded, 128, 3, False)


# --- Attributes and splits

LAYOUTS = {
    "authors": ("Img/img_align_celeba", "Anno/list_attr_celeba.txt", "Eval/list_eval_partition.txt"),
    "authors, all in one": ("img_align_celeba", "Anno/list_attr_celeba.txt", "Eval/list_eval_partition.txt"),
    "torchvision": ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"),
    "kaggle": ("img_align_celeba/img_align_celeba", "list_attr_celeba.csv", "list_eval_partition.csv"),
    "one folder": ("", "list_attr_celeba.csv", "list_eval_partition.txt"),
}


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, windows: bool, tmp_path: Path) -> None:
    """The images may be given by their folder or by any folder above it; Windows adds a mark and other line ends."""
    images, attributes, partition = LAYOUTS[layout]
    root = tmp_path / "celeba"
    folder_of(root / images)
    how: dict[str, Any] = {"end": "\r\n", "mark": b"\xef\xbb\xbf"} if windows else {}
    write(root / attributes, attribute_lines(ATTRIBUTES, csv=attributes.endswith("csv")), **how)
    write(root / partition, partition_lines(SPLITS, csv=partition.endswith("csv")), **how)
    given = [root, *(root / Path(*Path(images).parts[:count]) for count in range(1, len(Path(images).parts) + 1))]
    for number, path in enumerate(given):
        out = made(path, tmp_path / f"{number}.h5")
        with open_pyramid(out) as file:
            assert file.photos["file"] == [*NAMES]
            assert file.photos["split"] == ["train", "train", "val", "test"]
            assert (file.photos["attributes"].dtype, file.photos["attributes"].tolist()) == (
                np.int8,
                [[*row] for row in ATTRIBUTES.values()],
            )
            assert list(file.photos.get("attribute_names")) == list(file.photos.get("label_names")) == ["Bald", "Young"]
        labels = np.load(tmp_path / f"{number}-labels.npy")
        assert (labels.dtype, labels.tolist()) == (np.float32, [[1, 0], [0, 1], [0, 0], [1, 1]])


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "img_align_celeba")
    write(tmp_path / "list_eval_partition.txt", partition_lines(SPLITS))
    for place, path in ((tmp_path, "img_align_celeba"), (folder, ".")):
        monkeypatch.chdir(place)
        out = made(Path(path), tmp_path / f"{place.name}.h5")
        with open_pyramid(out) as file:
            assert file.photos["split"] == ["train", "train", "val", "test"]


def test_without_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    out = made(folder_of(tmp_path / "in"), tmp_path / "out.h5")
    with open_pyramid(out) as file:
        assert set(file.photos) == {"file", "sha256"}
    assert not (tmp_path / "out-labels.npy").exists()
    for text in (
        "no splits: neither list_eval_partition.txt nor list_eval_partition.csv is next to",
        "no labels: neither list_attr_celeba.txt nor list_attr_celeba.csv is next to",
    ):
        assert text in caplog.text


@pytest.mark.parametrize("csv", [False, True])
def test_attributes_of_0_and_1(csv: bool, tmp_path: Path) -> None:
    rows = {name: tuple(max(0, value) for value in row) for name, row in ATTRIBUTES.items()}
    write(tmp_path / f"list_attr_celeba.{'csv' if csv else 'txt'}", attribute_lines(rows, csv))
    with open_pyramid(made(folder_of(tmp_path / "in"), tmp_path / "out.h5")) as file:
        assert file.photos["attributes"].tolist() == [[*row] for row in ATTRIBUTES.values()]
    assert np.load(tmp_path / "out-labels.npy").tolist() == [[*row] for row in rows.values()]


def test_unknown_attributes_stay_unknown(tmp_path: Path) -> None:
    """0 beside 1 and -1 is CelebA's value for unknown."""
    write(tmp_path / "list_attr_celeba.txt", attribute_lines({**ATTRIBUTES, NAMES[0]: (1, 0)}))
    with open_pyramid(made(folder_of(tmp_path / "in"), tmp_path / "out.h5")) as file:
        assert file.photos["attributes"][:2].tolist() == [[1, 0], [-1, 1]]


def test_rows_in_another_order_and_of_more_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"000004.jpg": (1, 1), **dict(reversed(ATTRIBUTES.items())), "000011.jpg": (1, 1)}
    write(tmp_path / "list_attr_celeba.txt", attribute_lines(rows))
    with open_pyramid(made(folder_of(tmp_path / "in"), tmp_path / "out.h5")) as file:
        assert file.photos["attributes"].tolist() == [[*row] for row in ATTRIBUTES.values()]
    table = tmp_path / "list_attr_celeba.txt"
    assert f"{table} names 2 images that do not exist, such as 000004.jpg" in caplog.text


def test_png_files_have_the_rows_of_jpeg_files(tmp_path: Path) -> None:
    names = tuple(Path(name).with_suffix(".png").name for name in NAMES)
    write(tmp_path / "list_eval_partition.txt", partition_lines(SPLITS))
    with open_pyramid(made(folder_of(tmp_path / "img_align_celeba_png", names), tmp_path / "out.h5")) as file:
        assert (file.photos["file"], file.photos["split"]) == ([*names], ["train", "train", "val", "test"])


def test_two_images_of_one_row(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", (*NAMES, "000003.png"))
    write(tmp_path / "list_eval_partition.txt", partition_lines(SPLITS))
    message = refused(folder)
    assert "000003.jpg and 000003.png are both the image of one row of" in message
    assert message.endswith("list_eval_partition.txt; remove one of them")


def test_nearest_table_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path / "in")
    write(folder / "list_eval_partition.csv", partition_lines(SPLITS, csv=True))
    write(tmp_path / "Eval" / "list_eval_partition.txt", ["broken"])
    with open_pyramid(made(folder, tmp_path / "out.h5")) as file:
        assert file.photos["split"] == ["train", "train", "val", "test"]
    used = folder / "list_eval_partition.csv"
    assert f"{tmp_path}/Eval/list_eval_partition.txt is not read: {used} is used" in caplog.text


def test_tables_of_other_programs_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = folder_of(tmp_path / "in")
    write(folder / "metadata.jsonl", ['{"file_name": "nothing.png"}'])
    write(folder / "list_eval_partition.txt", partition_lines(SPLITS))
    write(folder / "list_bbox_celeba.txt", ["0"])
    made(folder, tmp_path / "out.h5")
    assert f"the table {folder}/metadata.jsonl is not read: a crop takes the tables of CelebA" in caplog.text
    assert "ignored 1 files whose names are not those of images: 1 .txt" in caplog.text


BROKEN = {
    "attribute row is missing": (
        "list_attr_celeba.txt",
        attribute_lines({name: ATTRIBUTES[name] for name in NAMES[:2]}),
        "list_attr_celeba.txt does not name 000003.jpg of",
    ),
    "partition row is missing": (
        "list_eval_partition.csv",
        partition_lines(dict.fromkeys(NAMES[1:], 0), csv=True),
        "list_eval_partition.csv does not name 000001.jpg of",
    ),
    "attribute row twice": (
        "list_attr_celeba.csv",
        [*attribute_lines(ATTRIBUTES, csv=True), "000002.jpg,1,1"],
        "list_attr_celeba.csv:6: '000002.jpg' is listed twice; remove one of the lines",
    ),
    "partition row twice": (
        "list_eval_partition.txt",
        [*partition_lines(SPLITS), "000002.jpg 0"],
        "list_eval_partition.txt:5: '000002.jpg' is listed twice; remove one of the lines",
    ),
    "partition 3": (
        "list_eval_partition.csv",
        partition_lines({**SPLITS, NAMES[0]: 3}, csv=True),
        "list_eval_partition.csv:2: expected a file name and 0, 1 or 2, got '000001.jpg 3'",
    ),
    "attribute 2": (
        "list_attr_celeba.txt",
        attribute_lines({**ATTRIBUTES, NAMES[0]: (2, 1)}),
        "list_attr_celeba.txt:3: expected a file name and 2 values 1 or -1, got '000001.jpg 2 1'",
    ),
    "value is missing": (
        "list_attr_celeba.txt",
        attribute_lines({**ATTRIBUTES, NAMES[0]: (1,)}),
        "list_attr_celeba.txt:3: expected a file name and 2 values 1 or -1, got '000001.jpg 1'",
    ),
    "no attributes": (
        "list_attr_celeba.csv",
        ["image_id", *NAMES],
        "list_attr_celeba.csv names no attributes; correct the table, or move it away",
    ),
    "no columns": ("list_attr_celeba.csv", [], "list_attr_celeba.csv:1: expected the column names image_id"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_table(kind: str, tmp_path: Path) -> None:
    table, lines, text = BROKEN[kind]
    write(tmp_path / table, lines)
    assert text in refused(folder_of(tmp_path / "in"))


def test_folder_in_place_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "list_attr_celeba.csv").mkdir()
    message = refused(folder_of(tmp_path / "in"))
    assert message == f"table {tmp_path}/list_attr_celeba.csv cannot be read: a folder, not a regular file"


@pytest.mark.parametrize("target", ["nowhere", "list_attr_celeba.csv"])
def test_broken_link_in_place_of_a_table(target: str, tmp_path: Path) -> None:
    (tmp_path / "list_attr_celeba.csv").symlink_to(target)
    assert refused(folder_of(tmp_path / "in")).startswith(f"table {tmp_path}/list_attr_celeba.csv cannot be read: ")


# --- Unsuitable folders


@pytest.mark.parametrize("size", [(218, 178), (178, 217), (128, 128), (400, 500)])
def test_other_size(size: tuple[int, int], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in")
    save(folder / "000002.jpg", aligned(*size))
    message = refused(folder)
    assert message.startswith(f"{folder}/000002.jpg is {size[0]} x {size[1]} px; expected 178 x 218 px for `crop`")
    assert refused(folder, resize=64) == message


def test_aligned_and_in_the_wild_photos(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "celeba" / "img_align_celeba").parent
    save(root / "img_celeba" / "000001.jpg", aligned(500, 400))
    message = refused(root)
    assert f"{root}/img_celeba/000001.jpg is 500 x 400 px; expected 178 x 218 px for `crop`" in message
    assert message.endswith("the size of CelebA's aligned images; give a folder that holds only these")
    made(root / "img_align_celeba", tmp_path / "out.h5")


def test_images_in_several_folders(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in")
    folder_of(folder / "img_align_celeba", NAMES[:1])
    message = refused(folder)
    assert f"{folder} has images in 2 folders, such as {folder} and {folder}/img_align_celeba" in message


@pytest.mark.parametrize("content", ["nothing", "another folder", "text"])
def test_without_images(content: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    if content == "another folder":
        (tmp_path / "in" / "img_align_celeba").mkdir()
    if content == "text":
        write(tmp_path / "in" / "list_attr_celeba.txt", attribute_lines(ATTRIBUTES))
    assert str(tmp_path / "in") in refused(tmp_path / "in")
    message = refused(tmp_path / "in", format="images")
    assert message.startswith(f"{tmp_path}/in holds no images; expected files ending in .jpg")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0 no image"])
def test_damaged_image(data: bytes, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in")
    (folder / "000003.jpg").write_bytes(data)
    message = refused(folder)
    assert message.startswith(f"{folder}/000003.jpg ")
    assert message.endswith("; replace or remove it")


def test_unknown_crop(tmp_path: Path) -> None:
    assert refused(folder_of(tmp_path / "in"), crop="face") == "`crop` face does not exist; expected celeba"


@pytest.mark.parametrize("format", ["lsun", "tfrecord", "stylegan-zip", "hdf5"])
def test_crop_is_for_folders(format: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"`crop` has no effect on {format}; leave it out"):
        import_images(folder_of(tmp_path / "in"), tmp_path / "out.h5", format=format, crop="celeba")


def test_crop_of_an_archive(tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba.zip").write_bytes(b"x")
    message = refused(tmp_path / "img_align_celeba.zip")
    assert message.endswith("is not a folder; `crop` takes a folder of images: unpack an archive first")


def test_aligned_images_without_the_crop(tmp_path: Path) -> None:
    message = refused(folder_of(tmp_path / "in"), crop=None)
    assert message.endswith("add `resize`=128, for example, or for CelebA's aligned images `crop`=celeba")


# --- Commands


def test_recipes_of_the_ablation_accept_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels beside the file do not change that these recipes train without."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        done = CliRunner().invoke(celebahq, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    names = tuple(f"{number:06d}.jpg" for number in range(1, 17))
    folder_of(tmp_path / "img_align_celeba", names)
    write(tmp_path / "list_attr_celeba.txt", attribute_lines(dict.fromkeys(names, (1, -1))))
    assert run("import", "img_align_celeba", "--out", "celeba-128.h5", "--crop", "celeba") == (
        f"16 images\ndata set: {tmp_path / 'celeba-128.h5'}\n"
    )
    planned = run("train", "celeba-128.h5", "--out", "run", "--recipe", "celeba-128-h", "--device", "cpu", "--dry-run")
    assert "celeba-128.h5: 16 images of 128x128" in planned
    assert not (tmp_path / "run").exists()
