"""Reading of LSUN from LMDB and folders, with the results of the ProGAN authors' tool."""

import io
import logging
import os
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import lsun
from tests.formats import files

SIZES = [(300, 256), (256, 341), (256, 256), (100, 40), (33, 64)]


def photo(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def coded(image: Image.Image, kind: str) -> bytes:
    return files.coded(np.asarray(image).transpose(2, 0, 1), kind, quality=90)


def photos() -> dict[str, bytes]:
    """Return files under ids of 40 digits, as in LSUN, in another order."""
    made = {}
    for i, (width, height) in enumerate(SIZES):
        made[f"{(i * 7919 + 13) % 101:040x}"] = coded(photo(width, height, i), "WEBP" if i % 2 else "JPEG")
    return made


def database(folder: Path, entries: dict[str, bytes]) -> Path:
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return folder


def images(folder: Path, entries: dict[str, bytes]) -> Path:
    for name, value in entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)
    return folder


def expected(data: bytes, resolution: int) -> np.ndarray:
    """Return an entry as the ProGAN authors' tool converts it: crop by rows and columns, then Lanczos."""
    image = np.asarray(Image.open(io.BytesIO(data)))
    crop = min(image.shape[:2])
    image = image[
        (image.shape[0] - crop) // 2 : (image.shape[0] + crop) // 2,
        (image.shape[1] - crop) // 2 : (image.shape[1] + crop) // 2,
    ]
    resized = Image.fromarray(image).resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(resized).transpose(2, 0, 1)


@pytest.mark.parametrize("resolution", [256, 64])
@pytest.mark.parametrize("kind", ["lmdb", "file", "folder"])
def test_round_trip(kind: str, resolution: int, tmp_path: Path) -> None:
    entries = photos()
    if kind == "folder":
        path = images(tmp_path / "set", {f"{name[-1]}/{name}.webp": data for name, data in entries.items()})
        names = sorted(f"{name[-1]}/{name}.webp" for name in entries)
    else:
        path = database(tmp_path / "bedroom_train_lmdb", entries) / ("data.mdb" if kind == "file" else "")
        names = sorted(entries)
    found = lsun.read(path, resolution)
    assert (found.count, found.resolution, found.channels) == (5, resolution, 3)
    assert (found.labels, found.label_names) == (None, ())
    read = list(found.images())
    assert [image.name for image in read] == names
    for image in read:
        name = image.name.rpartition("/")[2].removesuffix(".webp")
        np.testing.assert_array_equal(image.pixels, expected(entries[name], resolution))
        assert image.pixels.shape == (3, resolution, resolution)


def test_default_is_the_resolution_of_the_paper(tmp_path: Path) -> None:
    assert lsun.read(database(tmp_path / "lmdb", photos())).resolution == 256


@pytest.mark.parametrize("kind", ["lmdb", "folder"])
def test_skip(kind: str, tmp_path: Path) -> None:
    entries = {f"{name}.jpg" if kind == "folder" else name: data for name, data in photos().items()}
    path = (images if kind == "folder" else database)(tmp_path / "set", entries)
    names = sorted(entries)
    for skip in ([], [names[0]], [names[1], names[4]]):
        left = [name for name in names if name not in skip]
        found = lsun.read(path, 8, skip=skip)
        assert found.count == len(left)
        assert [one.name for one in found.images()] == left


def test_several_readers(tmp_path: Path) -> None:
    """A process may open an LMDB only once, but can have several readers of it."""
    path = database(tmp_path / "lmdb", photos())
    one, other = lsun.read(path, 8), lsun.read(path, 16)
    for a, b, c in zip(one.images(), one.images(), other.images(), strict=True):
        assert a.name == b.name == c.name
    del one, other, a, b, c
    lmdb.open(str(path)).close()  # nothing holds it any longer


def test_nothing_is_written(tmp_path: Path) -> None:
    path = database(tmp_path / "lmdb", photos())
    (path / "lock.mdb").unlink()
    before = (path / "data.mdb").read_bytes()
    list(lsun.read(path, 8).images())
    assert [one.name for one in path.iterdir()] == ["data.mdb"]
    assert (path / "data.mdb").read_bytes() == before


def test_other_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = images(tmp_path / "set", {"b/a.JPG": coded(photo(9, 9, 0), "JPEG"), "b/list.txt": b"", ".hidden": b""})
    with caplog.at_level(logging.INFO):
        assert lsun.read(path).count == 1
    assert caplog.messages == [f"{path}: ignored 1 files whose names are not those of images: 1 .txt"]


# --- What is wrong


def message(path: Path, resolution: int = 8, **more: object) -> str:
    with pytest.raises(FormatError) as error:
        list(lsun.read(path, resolution, **more).images())
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kind", ["lmdb", "folder"])
@pytest.mark.parametrize(("data", "why"), [(b"", "EMPTY_FILE"), (b"junk" * 9, "NOT_AN_IMAGE"), (None, "CORRUPT_IMAGE")])
def test_entry_that_is_not_an_image(kind: str, data: bytes | None, why: str, tmp_path: Path) -> None:
    """The error names it, and it can be left out by that name."""
    entries = {f"{name}.jpg": value for name, value in photos().items()}
    bad, other = sorted(entries)[2], sorted(entries)[3]
    half = coded(photo(200, 200, 0), "JPEG")
    entries[bad] = half[: len(half) // 2] if data is None else data
    path = (images if kind == "folder" else database)(tmp_path / "set", entries)
    text = message(path)
    assert str(path) in text
    assert f"entry {bad} is not an image: {why}" in text
    found = lsun.read(path, 8, skip=[bad])
    assert [one.name for one in found.images()] == [name for name in sorted(entries) if name != bad]
    assert f"has no entry {other}x to leave out" in message(path, skip=[f"{other}x"])


def test_missing_data(tmp_path: Path) -> None:
    assert "nowhere does not exist; expected an LMDB" in message(tmp_path / "nowhere")
    assert "holds no images" in message(tmp_path)
    assert "has no images" in message(database(tmp_path / "lmdb", {}))
    with pytest.raises(FormatError, match="`resize` 100 is not a power of two"):
        lsun.FORMAT.open(tmp_path, 100)


def test_not_an_lmdb(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    text = message(tmp_path)
    assert f"{tmp_path} is not a readable LMDB" in text
    assert "get or make it again" in text


def multi_size(folder: Path, sizes: tuple[int, ...] = (8, 64)) -> Path:
    """Return an LMDB as prepare_data.py of stylegan2-pytorch writes it: each image in several sizes."""
    entries = {
        f"{size}-{i:05d}": coded(photo(64, 64, i).resize((size, size)), "JPEG") for size in sizes for i in range(4)
    }
    return database(folder, {**entries, "length": b"4"})


@pytest.mark.parametrize("size", [8, 64])
def test_one_of_several_sizes(size: int, tmp_path: Path) -> None:
    path = multi_size(tmp_path / "lmdb")
    found = lsun.read(path, size)
    assert [one.name for one in found.images()] == [f"{size}-{i:05d}" for i in range(4)]
    assert found.count == 4
    for i, one in enumerate(found.images()):
        decoded = Image.open(io.BytesIO(coded(photo(64, 64, i).resize((size, size)), "JPEG")))
        np.testing.assert_array_equal(one.pixels, np.asarray(decoded).transpose(2, 0, 1))
    skipped = lsun.read(path, size, skip=[f"{size}-00001"])
    assert [one.name for one in skipped.images()] == [f"{size}-{i:05d}" for i in (0, 2, 3)]
    assert skipped.count == 3


def test_size_that_an_lmdb_does_not_have(tmp_path: Path) -> None:
    text = message(multi_size(tmp_path / "lmdb"), 32)
    assert "holds images of 8, 64 px with keys such as 64-00000; choose the ones to take by `resize`" in text
    assert "has no entry 8-00000 to leave out" in message(tmp_path / "lmdb", 64, skip=["8-00000"])


def test_numbers_that_are_not_sizes(tmp_path: Path) -> None:
    """Keys of another meaning, such as person and number: all entries are taken."""
    path = database(tmp_path / "lmdb", {f"{person}-0001": coded(photo(40, 40, person), "JPEG") for person in (7, 8)})
    assert lsun.read(path, 16).count == 2


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_special_files(kind: str, tmp_path: Path) -> None:
    path = images(tmp_path / "set", {"b.jpg": coded(photo(9, 9, 0), "JPEG")})
    if kind == "pipe":
        os.mkfifo(path / "a.jpg")
    elif kind == "device":
        (path / "a.jpg").symlink_to("/dev/zero")
    else:
        with (path / "a.jpg").open("wb") as file:
            file.truncate(30 << 30)
    assert "a.jpg cannot be read: " in message(path)
    (tmp_path / "lmdb").mkdir()
    os.mkfifo(tmp_path / "lmdb" / "data.mdb")
    assert "data.mdb is not a regular file" in message(tmp_path / "lmdb")


def test_pages_that_end_lmdb(tmp_path: Path) -> None:
    """Damaged pages end the child process, not this one."""
    path = database(tmp_path / "lmdb", {f"{i:040x}": bytes([i % 256]) * 90 for i in range(400)})
    data = bytearray((path / "data.mdb").read_bytes())
    data[3 * 4096 :] = b"\xff" * (len(data) - 3 * 4096)
    (path / "data.mdb").write_bytes(data)
    assert str(path) in message(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3, 0.9, 0.9999])
def test_truncated_lmdb(share: float, tmp_path: Path) -> None:
    """It is refused before a missing page is read, which would end the process."""
    path = database(tmp_path / "lmdb", {f"{i:040x}": bytes([i % 256]) * 9000 for i in range(40)})
    size = (path / "data.mdb").stat().st_size
    files.cut(path / "data.mdb", share)
    text = message(path)
    assert str(path) in text
    assert "is cut short: it needs" in text or "is not a readable LMDB" in text
    assert share < 0.02 or f"needs {size} bytes and has {int(size * share)}" in text


def test_without_the_package(tmp_path: Path) -> None:
    path = database(tmp_path / "lmdb", photos())
    code, told, error = files.run("import", path, "--out", tmp_path / "x.h5", without="lmdb")
    assert (code, told) == (1, "")
    assert error.endswith("pip install '.[lsun]' in the folder of the project\n")


def test_file_deleted_after_opening(tmp_path: Path) -> None:
    path = images(tmp_path / "set", {f"{name}.jpg": data for name, data in photos().items()})
    found = lsun.read(path, 8)
    next(path.iterdir()).unlink()
    with pytest.raises(FormatError, match="cannot be read: No such file"):
        list(found.images())


def test_reference_depends_on_the_filter(tmp_path: Path) -> None:
    """Another filter gives other pixels, so that the reference can fail."""
    data = coded(photo(300, 256, 0), "JPEG")
    image = Image.open(io.BytesIO(data)).crop((22, 0, 278, 256))
    other = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert (expected(data, 64) != other).any()
