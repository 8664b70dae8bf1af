"""Imports: round trips of pixels, labels and metadata, and data sets of other programs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.formats import load_formats, recognize
from celebahq_builder.formats.conversion import export_file, import_images
from celebahq_builder.hdf5.writer import NAME_COLUMNS
from celebahq_builder.imaging.pyramid import build_pyramid
from tests.formats import test_cifar10 as cifar10_files
from tests.formats import test_lsun as lsun_files
from tests.formats import test_mnist as mnist_files
from tests.formats.files import pixels, save, to_pil
from tests.hdf5.files import trust_if_sound
from tests.hdf5.pyramids import described_file, noise, theano_file

ROOT = Path(__file__).parents[2]

BACK = ("images", "stylegan-zip", "tfrecord", "webdataset", "parquet", "hdf5")

KNOWING = ("images", "webdataset", "parquet", "hdf5")
"""Formats with a place for all that is known of an image."""


def there_and_back(source: Path, folder: Path, to: str, **asked: Any) -> Path:
    away = folder / ("away.zip" if to == "stylegan-zip" else "away")
    if to == "hdf5":
        away = source
    else:
        export_file(source, away, to, **asked, workers=1)
    assert recognize(away) == to
    back = folder / "back.h5"
    import_images(away, back)
    return back


def photos(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {
            name: data.asstr()[:].tolist() if h5py.check_string_dtype(data.dtype) else (data.dtype, data[:].tolist())
            for name, data in file["photos"].items()
        }


def test_the_command_offers_every_format() -> None:
    """The command line has its own list of formats, because it imports none for its help."""
    writing = {name for name, one in load_formats().items() if one.write}
    for command, option, table in (("export", "to", writing), ("import", "format", set(load_formats()))):
        (choice,) = (one.type.choices for one in celebahq.commands[command].params if one.name == option)
        assert set(choice) == table


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("to", BACK)
def test_pixels_of_a_file_without_metadata(to: str, channels: int, tmp_path: Path) -> None:
    data = noise(33, 16, channels)
    back = there_and_back(theano_file(tmp_path / "theano.h5", data), tmp_path, to)
    for found, expected in zip(pixels(back), build_pyramid(data), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not (tmp_path / "back-labels.npy").exists()


@pytest.mark.parametrize("to", KNOWING)
def test_metadata_round_trip(to: str, tmp_path: Path) -> None:
    """Values and types of every column are equal; a missing score stays missing."""
    source = described_file(tmp_path / "faces.h5", noise(5, 8), score=np.array([0.1, np.nan, 1 / 3, 0, 1]))
    back = there_and_back(source, tmp_path, to)
    expected, found = photos(source), photos(back)
    assert repr(found.pop("score")) == repr(expected.pop("score"))  # NaN is not equal to itself
    assert found.pop("label_names") == expected["attribute_names"]
    assert found == expected
    labels = np.load(tmp_path / "back-labels.npy")
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, (np.array(expected["attributes"][1]) > 0).astype(np.float32))


LABELS = {
    "classes": np.eye(3, dtype=np.float32)[[2, 0, 1, 1]],
    "a class that no image has": np.eye(4, dtype=np.float32)[[2, 0, 1, 1]],
    "numbers": np.array([[0.1, 2], [1, 0], [0, 1e-30], [3, 3]], np.float32),
    "one": np.array([[1], [0], [1], [1]], np.float32),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("to", BACK)
def test_labels_round_trip(to: str, labels: np.ndarray, named: bool, tmp_path: Path) -> None:
    source = theano_file(tmp_path / "theano.h5", noise(4, 8))
    np.save(tmp_path / "theano-labels.npy", labels)
    names = [f"class {i}" for i in range(labels.shape[1])]
    if named:
        with h5py.File(source, "r+") as file:
            file.create_dataset("photos/label_names", data=names, dtype=h5py.string_dtype())
        trust_if_sound(source)
    back = there_and_back(source, tmp_path, to)
    found = np.load(tmp_path / "back-labels.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, labels)
    if named and to in KNOWING:
        assert photos(back)["label_names"] == names


def test_smaller_level_round_trip(tmp_path: Path) -> None:
    data = noise(5, 16)
    back = there_and_back(described_file(tmp_path / "faces.h5", data), tmp_path, "images", resolution=8)
    np.testing.assert_array_equal(pixels(back)[0], build_pyramid(data)[1])


def test_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    export_file(described_file(tmp_path / "faces.h5", noise(40, 32)), tmp_path / "images", "images", workers=1)
    for workers in (1, 2):
        import_images(tmp_path / "images", tmp_path / f"{workers}.h5", workers=workers)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


# --- Data sets of other programs


@pytest.mark.parametrize("ending", ["png", "webp", "bmp", "tif", "jpg"])
def test_kinds_of_image_files(ending: str, tmp_path: Path) -> None:
    """Images are in the order of their paths, with the pixels that Pillow decodes."""
    data = noise(3, 16)
    names = [f"b/2.{ending}", f"a/10.{ending}", f"B.{ending}"]
    for image, name in zip(data, names, strict=True):
        save(tmp_path / "in" / name, to_pil(image), **({"lossless": True} if ending == "webp" else {}))
    (tmp_path / "in" / "readme.txt").write_text("passed over")
    import_images(tmp_path / "in", tmp_path / "out.h5")
    expected = [np.asarray(Image.open(tmp_path / "in" / name)).transpose(2, 0, 1) for name in sorted(names)]
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], np.stack(expected))
    assert photos(tmp_path / "out.h5")["file"] == sorted(names)
    if ending != "jpg":
        np.testing.assert_array_equal(expected, data[[2, 1, 0]])


def test_grey_only_if_all_images_are(tmp_path: Path) -> None:
    grey = noise(1, 8, channels=1)[0]
    save(tmp_path / "in" / "grey.png", to_pil(grey))
    import_images(tmp_path / "in", tmp_path / "grey.h5")
    assert pixels(tmp_path / "grey.h5")[0].shape == (1, 1, 8, 8)
    save(tmp_path / "in" / "rgb.png", to_pil(noise(1, 8)[0]))
    import_images(tmp_path / "in", tmp_path / "both.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "both.h5")[0], [np.repeat(grey, 3, axis=0), noise(1, 8)[0]])


def test_resized(tmp_path: Path) -> None:
    """The middle square is resized by the filter of StyleGAN's tool; an image of the right size is unchanged."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (3, 20, 33), dtype=np.uint8)
    right = noise(1, 8)[0]
    save(tmp_path / "in" / "1.png", to_pil(wide))
    save(tmp_path / "in" / "2.png", to_pil(right))
    save(tmp_path / "in" / "3.png", rng.integers(0, 256, (3, 2, 3), dtype=np.uint8))
    import_images(tmp_path / "in", tmp_path / "out.h5", resize=8)
    found = pixels(tmp_path / "out.h5")[0]
    middle = Image.fromarray(wide.transpose(1, 2, 0)[:, 6:26]).resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(found[0], np.asarray(middle).transpose(2, 0, 1))
    np.testing.assert_array_equal(found[1], right)


def test_metadata_of_others(tmp_path: Path) -> None:
    """The order is that of the lines; missing values are empty, and values that cannot be a column become text."""
    for i, image in enumerate(noise(3, 8)):
        save(tmp_path / "in" / f"{i}.png", to_pil(image))
    lines: list[dict[str, Any]] = [
        {"file_name": "2.png", "text": "é", "age": 20, "box": [1, 2], "tags": ["a"]},
        {"file_name": "0.png", "text": "b", "age": None, "box": [3, 4]},
        {"file_name": "1.png", "age": 40, "box": [5, 6.5]},
    ]
    (tmp_path / "in" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    import_images(tmp_path / "in", tmp_path / "out.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], noise(3, 8)[[2, 0, 1]])
    found = photos(tmp_path / "out.h5")
    assert found["file"] == ["2.png", "0.png", "1.png"]
    assert (found["text"], found["tags"]) == (["é", "b", ""], ['["a"]', "", ""])
    assert repr(found["age"][1]) == "[20.0, nan, 40.0]"
    assert found["box"][1] == [[1, 2], [3, 4], [5, 6.5]]


def test_uncompressed_hdf5_of_another_writer(tmp_path: Path) -> None:
    data = noise(3, 8)
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for level in build_pyramid(data):
            file[f"data{level.shape[-1]}x{level.shape[-1]}"] = level
    import_images(tmp_path / "in.h5", tmp_path / "out.h5", compression="none")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], data)


@pytest.mark.parametrize("compression", ["blosc2", "none"])
def test_other_codecs(compression: str, tmp_path: Path) -> None:
    """Another process reads the file, which has not loaded the filter yet."""
    data = noise(3, 16)
    import_images(theano_file(tmp_path / "in.h5", data), tmp_path / "other.h5", compression=compression)
    command = [sys.executable, "-m", "celebahq_builder", "export", tmp_path / "other.h5", "--to", "tfrecord"]
    command += ["--out", tmp_path / "tf", "--workers", "1"]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT, capture_output=True)
    import_images(tmp_path / "tf", tmp_path / "out.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], data)


# --- MNIST, LSUN, CIFAR-10


def test_mnist(tmp_path: Path) -> None:
    folder = mnist_files.write(
        tmp_path / "mnist", mnist_files.idx(mnist_files.IMAGES), mnist_files.idx(mnist_files.CLASSES)
    )
    assert recognize(folder) == "mnist"
    import_images(folder, tmp_path / "mnist.h5")
    found = pixels(tmp_path / "mnist.h5")[0]
    np.testing.assert_array_equal(found[:, 0, 2:30, 2:30], mnist_files.IMAGES)
    np.testing.assert_array_equal(np.load(tmp_path / "mnist-labels.npy").argmax(axis=1), mnist_files.CLASSES)
    assert photos(tmp_path / "mnist.h5")["label_names"] == list("0123456789")


def test_lsun(tmp_path: Path) -> None:
    entries = lsun_files.photos()
    folder = tmp_path / "bedroom"
    folder.mkdir()
    lsun_files.database(folder, entries)
    assert recognize(folder) == "lsun"
    import_images(folder, tmp_path / "bedroom.h5", resize=32)
    expected = [lsun_files.expected(entries[key], 32) for key in sorted(entries)]
    np.testing.assert_array_equal(pixels(tmp_path / "bedroom.h5")[0], np.stack(expected))
    assert photos(tmp_path / "bedroom.h5")["file"] == sorted(entries)


def test_cifar10_is_recognized(tmp_path: Path) -> None:
    """The reader needs all 50,000 images, so only recognition is tested here."""
    folder = cifar10_files.folder(tmp_path / "cifar-10-batches-py", cifar10_files.python_files())
    assert recognize(folder) == recognize(tmp_path) == "cifar10"
    with pytest.raises(FormatError, match="data_batch_1"):
        import_images(folder, tmp_path / "cifar10.h5")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


# --- Real images


def test_real_photos_resized(shared: Path, tmp_path: Path) -> None:
    """Photos of any size are equal to Pillow's crop and Lanczos filter, before and after a zip."""
    (tmp_path / "in").mkdir()
    photos_there = sorted((shared / "data" / "faces" / "img_celeba").glob("*.jpg"))[:12]
    for path in photos_there:
        (tmp_path / "in" / path.name).symlink_to(path.resolve())
    import_images(tmp_path / "in", tmp_path / "faces.h5", resize=64)
    expected = []
    for path in photos_there:
        with Image.open(path) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
            expected.append(np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels(tmp_path / "faces.h5")[0], np.stack(expected))
    back = there_and_back(tmp_path / "faces.h5", tmp_path, "stylegan-zip")
    np.testing.assert_array_equal(pixels(back)[0], np.stack(expected))


# --- Parts of a data set


@pytest.mark.parametrize("limit", [1, 4, 6, 7])
@pytest.mark.parametrize("to", BACK)
def test_limit(to: str, limit: int, tmp_path: Path) -> None:
    """The first images are taken with labels and metadata; a smaller set is taken completely."""
    source = described_file(tmp_path / "faces.h5", noise(6, 8))
    away = source if to == "hdf5" else tmp_path / ("away.zip" if to == "stylegan-zip" else "away")
    if to != "hdf5":
        export_file(source, away, to, workers=1)
    import_images(away, tmp_path / "whole.h5")
    count = min(limit, 6)
    assert import_images(away, tmp_path / "out.h5", limit=limit) == count
    for found, expected in zip(pixels(tmp_path / "out.h5"), build_pyramid(noise(6, 8)), strict=True):
        np.testing.assert_array_equal(found, expected[:count])
    found, whole = (np.load(tmp_path / f"{name}-labels.npy") for name in ("out", "whole"))
    np.testing.assert_array_equal(found, whole[:count])
    with h5py.File(tmp_path / "out.h5") as out, h5py.File(tmp_path / "whole.h5") as file:
        assert out["photos"].keys() == file["photos"].keys()
        for name, column in file["photos"].items():
            rows = len(column) if name in NAME_COLUMNS else count
            np.testing.assert_array_equal(out["photos"][name][:], column[:rows])
        assert out.attrs.get("limit") == (limit if limit < 6 else None)


def test_skip_and_limit_of_lsun(tmp_path: Path) -> None:
    entries = lsun_files.photos()
    names = sorted(entries)
    entries[names[1]] = b"no image"
    folder = lsun_files.database(tmp_path / "bedroom_train_lmdb", entries)
    with pytest.raises(FormatError, match=rf"entry {names[1]} is not an image: .* leave it out with `skip`"):
        import_images(folder, tmp_path / "out.h5", resize=8)
    (tmp_path / "skip.txt").write_text(f"{names[1]}\n\n  {names[3]}\n")
    command = [sys.executable, "-m", "celebahq_builder", "import", folder, "--out", tmp_path / "out.h5"]
    command += ["--resize", "8", "--limit", "2", "--skip", tmp_path / "skip.txt"]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT, capture_output=True)
    assert photos(tmp_path / "out.h5")["file"] == [names[0], names[2]]
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file.attrs["skipped"], file.attrs["limit"]) == (2, 2)
    expected = [lsun_files.expected(entries[name], 8) for name in (names[0], names[2])]
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], np.stack(expected))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"], ids=["nothing", "no text"])
def test_unreadable_skip_file(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "skip.txt").write_bytes(content)
    folder = lsun_files.database(tmp_path / "lmdb", lsun_files.photos())
    with pytest.raises(FormatError, match=r"`skip` .*skip\.txt cannot be read: .*; expected a text"):
        import_images(folder, tmp_path / "out.h5", skip=tmp_path / "skip.txt")
    assert not (tmp_path / "out.h5").exists()


def test_skip_is_for_lsun(tmp_path: Path) -> None:
    (tmp_path / "skip.txt").write_text("a")
    with pytest.raises(RecipeError, match="`skip` has no effect on hdf5"):
        import_images(theano_file(tmp_path / "in.h5", noise(2, 4)), tmp_path / "out.h5", skip=tmp_path / "skip.txt")
