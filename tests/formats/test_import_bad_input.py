"""Damaged and unsuitable data sets: one line names the file and a remedy, and nothing is left."""

import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tfrecord
from click.testing import CliRunner
from PIL import Image

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError, FormatError
from celebahq_builder.formats import find_format, image_tables
from celebahq_builder.formats.conversion import export_file, import_images
from celebahq_builder.formats.image_file import SizeError, read_header
from celebahq_builder.parallel import peak_memory_bytes
from tests.hdf5.files import damage
from tests.hdf5.pyramids import described_file, noise, theano_file


def refused(path: Path, **asked: Any) -> str:
    """Import a data set that is refused, and return the message."""
    target = path.parent / "made" / "out.h5"
    target.parent.mkdir()
    with pytest.raises(CelebAHQError) as raised:
        import_images(path, target, **asked)
    assert list(target.parent.iterdir()) == []
    line = str(raised.value)
    assert "\n" not in line
    assert path.name in line
    return line


def refused_again(path: Path, **asked: Any) -> str:
    """Call `refused` a second time."""
    (path.parent / "made").rmdir()
    return refused(path, **asked)


def save(path: Path, pixels: Any, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **how)


def rgb(height: int = 8, width: int = 8) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one valid image."""
    save(tmp_path / "in" / "a.png", rgb())
    return tmp_path / "in"


# --- Images


def test_no_power_of_two(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", rgb(600, 600))
    line = refused(tmp_path / "in")
    assert "a.png is 600 x 600 px; expected a square whose side is a power of two: add `resize`=512" in line


def test_faults_of_size_have_a_type(folder: Path) -> None:
    """So that other commands can recognise them."""
    save(folder / "b.png", rgb(16, 16))
    with pytest.raises(SizeError):
        find_format("images").open(folder, None, ())
    (folder / "b.png").write_text("no image")
    with pytest.raises(FormatError) as raised:
        find_format("images").open(folder, None, ())
    assert not isinstance(raised.value, SizeError)


def test_not_square(folder: Path) -> None:
    save(folder / "b.png", rgb(8, 16))
    assert "b.png is 16 x 8 px; expected a square whose side is a power of two: add `resize`=8" in refused(folder)


def test_different_sizes(folder: Path) -> None:
    save(folder / "b.png", rgb(16, 16))
    line = refused(folder)
    assert "b.png is 16 x 16 px" in line
    assert "a.png 8 x 8; expected one size: add `resize`=8" in line


@pytest.mark.parametrize(
    ("sizes", "fits"),
    [
        ([(8, 8), (32, 32), (32, 32)], 32),
        ([(64, 64), (16, 16), (16, 16), (64, 64)], 16),
        ([(8, 8), (178, 218), (200, 150), (600, 130)], 128),
        ([(600, 600), (70, 70), (65, 80)], 64),
        ([(1, 1), (2, 3)], 1),
    ],
    ids=["most", "as many: the smaller", "no powers of two", "the first is another", "smallest"],
)
def test_suggested_size(sizes: list[tuple[int, int]], fits: int, tmp_path: Path) -> None:
    """The suggested size can be imported."""
    for number, (width, height) in enumerate(sizes):
        save(tmp_path / "in" / f"{number}.png", rgb(height, width))
    assert refused(tmp_path / "in").endswith(f": add `resize`={fits}, for example")
    assert import_images(tmp_path / "in", tmp_path / "out.h5", resize=fits) == len(sizes)


def test_first_fault_is_reported(tmp_path: Path) -> None:
    """Later files are read for a suggestion, but their faults are not reported."""
    save(tmp_path / "in" / "a.png", rgb(8, 16))
    (tmp_path / "in" / "b.png").write_text("no image")
    save(tmp_path / "in" / "c.png", rgb(16, 16))
    assert "a.png is 16 x 8 px; expected a square" in refused(tmp_path / "in")


@pytest.mark.parametrize("resize", [0, -8, 100, 16384])
def test_resize_to_no_power_of_two(resize: int, folder: Path) -> None:
    with pytest.raises(CelebAHQError, match=f"`resize` {resize} is not a power of two"):
        import_images(folder, folder.parent / "out.h5", resize=resize)


@pytest.mark.parametrize("resize", [None, 8])
@pytest.mark.parametrize(
    ("image", "expected_text"),
    [
        (np.zeros((8, 8, 4), np.uint8), "RGBA with an alpha channel"),
        (Image.new("LA", (8, 8)), "LA with an alpha channel"),
        (np.zeros((8, 8), np.uint16), "of 16 bits"),
        (Image.new("P", (8, 8)), "b.png is P;"),
        (Image.new("1", (8, 8)), "b.png is 1;"),
    ],
    ids=["alpha", "grey with alpha", "16 bits", "palette", "1 bit"],
)
def test_neither_rgb_nor_grey_of_8_bits(image: Any, expected_text: str, resize: int | None, folder: Path) -> None:
    save(folder / "b.png", image)
    line = refused(folder, resize=resize)
    assert "b.png" in line
    assert expected_text in line
    assert "expected RGB or grey of 8 bits: convert it" in line


def kinds(folder: Path) -> dict[str, tuple[Path, np.ndarray | None]]:
    """Write an image of each refused kind; return paths, and pixels in RGB or grey where these are exact."""
    rows = np.mgrid[:64, :64] * 4
    colours = np.stack([rows[0], rows[1], rows.sum(axis=0) // 2], axis=-1).astype(np.uint8)
    colour, slope = Image.fromarray(colours), Image.fromarray(rows[0].astype(np.uint8))
    palette = colour.quantize(64)
    alpha, grey_alpha = colour.copy(), colour.convert("L")
    alpha.putalpha(slope)
    grey_alpha.putalpha(slope)
    solid = colour.copy()
    solid.putalpha(255)
    in_rgb = np.asarray(palette.convert("RGB"))
    made: dict[str, tuple[Image.Image, np.ndarray | None]] = {
        "cmyk.jpg": (colour.convert("CMYK"), None),
        "cmyk.tif": (colour.convert("CMYK"), None),
        "lab.tif": (colour.convert("LAB"), None),
        "palette.png": (palette, in_rgb),
        "palette.bmp": (palette, in_rgb),
        "palette.tif": (palette, None),  # its colours have 16 bits, which Pillow cuts off where others round
        "bit.png": (colour.convert("1"), np.asarray(colour.convert("1").convert("L"))),
        "bit.tif": (colour.convert("1"), np.asarray(colour.convert("1").convert("L"))),
        "alpha.png": (alpha, None),
        "alpha.tif": (alpha, None),
        "alpha.webp": (alpha, None),
        "solid.png": (solid, colours),
        "grey-alpha.png": (grey_alpha, None),
        "grey16.png": (Image.fromarray((rows[0] * 257).astype(np.uint16)), rows[0].astype(np.uint8)),
        "grey16.tif": (Image.fromarray((rows[0] * 257).astype(np.uint16)), rows[0].astype(np.uint8)),
    }
    for name, (image, _) in made.items():
        save(folder / name, image, **({"lossless": True} if name.endswith("webp") else {}))
    return {name: (folder / name, exact) for name, (_, exact) in made.items()}


@pytest.mark.skipif(not shutil.which("mogrify"), reason="ImageMagick is not installed")
def test_suggested_conversion_works(tmp_path: Path) -> None:
    """The command in the message converts each image; grey stays grey, and exact pixels are equal."""
    for name, (path, exact) in kinds(tmp_path / "in").items():
        with pytest.raises(FormatError, match="convert it, for instance with: mogrify") as raised:
            read_header(path, name)
        command = str(raised.value).partition("for instance with: ")[2].split()
        assert command[-1] == "FILE"
        subprocess.run([*command[:-1], str(path)], check=True, timeout=60)
        header = read_header(path, name)
        assert header.channels == (1 if name.startswith(("bit", "grey")) else 3), name
        if exact is not None:
            with Image.open(path) as image:
                np.testing.assert_array_equal(np.asarray(image), exact, err_msg=name)


def test_16_bit_colour(folder: Path) -> None:
    """Pillow opens it as plain RGB and drops half of each value."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes(8 * (1 + 8 * 6)))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (folder / "b.png").write_bytes(png)
    with Image.open(folder / "b.png") as image:
        assert image.mode == "RGB"
    assert "b.png is RGB of 16 bits" in refused(folder)


def test_transparent_colour(folder: Path) -> None:
    save(folder / "b.png", rgb(), transparency=(1, 2, 3))
    assert "RGB with an alpha channel" in refused(folder)


def test_animation(folder: Path) -> None:
    save(folder / "b.webp", rgb(), save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    assert "b.webp is an animation; expected a single image" in refused(folder)


def test_larger_than_any_image(folder: Path) -> None:
    """A small header declares an image of 48 GB."""
    data = bytearray((folder / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 131072, 131072)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (folder / "a.png").write_bytes(data)
    expected_text = "a.png is too large to be read: 131072 x 131072 px; this reader allows 100000000 pixels; reduce"
    assert expected_text in refused(folder)
    assert expected_text in refused_again(folder, resize=8)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_image_cut_short(share: float, ending: str, tmp_path: Path) -> None:
    save(tmp_path / "in" / f"a.{ending}", noise(1, 64)[0].transpose(1, 2, 0))
    path = tmp_path / "in" / f"a.{ending}"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert f"a.{ending}" in refused(tmp_path / "in")


def test_not_an_image(folder: Path) -> None:
    (folder / "b.jpg").write_text("no image")
    assert "b.jpg is not an image that can be read; replace or remove it" in refused(folder)


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "in holds no images; expected files ending in .jpg" in refused(tmp_path / "in", format="images")


def test_empty_paths(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    assert "in is empty; give a folder of images, or its `format`" in refused(tmp_path / "in")
    (tmp_path / "in.bin").write_bytes(b"")
    assert "in.bin is empty; give a folder of images, or its `format`" in refused_again(tmp_path / "in.bin")


def test_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    assert "in is of no known format" in refused(tmp_path / "in")


def test_missing_path(tmp_path: Path) -> None:
    assert "in does not exist" in refused(tmp_path / "in")
    (tmp_path / "made").rmdir()
    assert "in is not a folder" in refused(tmp_path / "in", format="images")


@pytest.mark.parametrize(
    ("lines", "expected_text"),
    [
        ('{"file_name": "a.png"', "metadata.jsonl:1 is not a JSON object with a file_name"),
        ('["a.png"]', "metadata.jsonl:1 is not a JSON object with a file_name"),
        ('{"file_name": 7}', "metadata.jsonl:1: the file_name is 7, expected a string"),
        ('{"file_name": "a.png"}\n\n[]', "metadata.jsonl:3 is not a JSON object with a file_name"),
        ('{"file_name": "a.png"}\n{"file_name": "b.png"}', "names b.png, which does not exist"),
        ('{"file_name": "a.png"}\n{"file_name": "a.png"}', "names a.png twice"),
        ('{"file_name": "../in/a.png"}', "the image name '../in/a.png' is not a relative path within a folder"),
        ("", "does not name a.png (1 such)"),
        ('{"file_name": "a.png", "a/b": 1}', "'a/b' cannot be the name of a column"),
        ('{"file_name": "a.png", "\\u0000": 1}', "'\\x00' cannot be the name of a column"),
        ('{"file_name": "a.png", "a\\u202e": 1}', "'a\\u202e' cannot be the name of a column"),
        ('{"file_name": "a.png", "score": "high"}', "the values of 'score' are not numbers of one shape"),
        ('{"file_name": "a.png", "label": -1}', "the labels are neither one class number"),
        ('{"file_name": "a.png", "label": 1e99}', "the labels are neither one class number"),
        ('{"file_name": "a.png", "labels": "cat"}', "the labels are neither one class number"),
        ('{"file_name": "a.png", "file": "a", "sha256": "00"}', "is not that of its metadata"),
        ('{"file_name": "a.png", "attributes": {"Bald": 500}}', "the values of 'attributes' are not numbers"),
    ],
)
def test_metadata_of_other_files(lines: str, expected_text: str, folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(lines)
    assert expected_text in refused(folder)


# --- HDF5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_hdf5(share: float, tmp_path: Path) -> None:
    path = theano_file(tmp_path / "in.h5", noise(9, 16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert f"in.h5 is not {'a readable' if share else 'an'} HDF5 file" in refused(path)


def alter(path: Path, change: Callable[[h5py.File], Any]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


@pytest.mark.parametrize(
    ("change", "expected_text"),
    [
        (lambda file: file["data4x4"].resize(0, axis=0), "data4x4 is uint8 [0, 3, 4, 4], expected uint8 [9, 3, 4, 4]"),
        (lambda file: file["data2x2"].resize(8, axis=0), "data2x2 is uint8 [8, 3, 2, 2], expected uint8 [9, 3, 2, 2]"),
        (lambda file: file.pop("data4x4"), "has data16x16 but lacks data4x4"),
        (lambda file: [file.pop(key) for key in list(file)], "has no datasets data1024x1024"),
        (lambda file: [file[key].resize(0, axis=0) for key in file], "holds no images"),
        (lambda file: file.create_dataset("data100x100", data=0), "data100x100 is not a level"),
    ],
    ids=["killed before small levels", "counts", "missing", "no data", "empty", "no power of two"],
)
def test_hdf5_of_wrong_levels(change: Callable[[h5py.File], Any], expected_text: str, tmp_path: Path) -> None:
    assert expected_text in refused(alter(theano_file(tmp_path / "in.h5", noise(9, 16)), change))


def test_hdf5_of_other_pixels_than_were_written(tmp_path: Path) -> None:
    path = alter(
        described_file(tmp_path / "in.h5", noise(3, 8)), lambda file: file["data8x8"].write_direct(noise(3, 8, seed=1))
    )
    assert "image 0 is not the one that was written" in refused(path)


def test_hdf5_with_a_damaged_chunk(tmp_path: Path) -> None:
    path = theano_file(tmp_path / "in.h5", noise(3, 32))
    damage(path, 32, 1)
    assert "image 1 of data32x32 cannot be read" in refused(path)


@pytest.mark.parametrize("labels", [np.zeros((2, 3)), np.zeros(3), np.array([["a"]] * 3), b"no array"], ids=repr)
def test_labels_of_other_images(labels: Any, tmp_path: Path) -> None:
    path = theano_file(tmp_path / "in.h5", noise(3, 8))
    beside = tmp_path / "in-labels.npy"
    beside.write_bytes(labels) if isinstance(labels, bytes) else np.save(beside, labels)
    with pytest.raises(CelebAHQError, match=r"in-labels\.npy"):
        import_images(path, tmp_path / "out.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in-labels.npy", "in.h5"]


# --- Zip


def png(side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb(side, side)).save(buffer, "png")
    return buffer.getvalue()


def zipped(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "a\\b.png", "a\nb.png", "x" * 300 + ".png"]
)
def test_zip_names_outside_the_folder(name: str, tmp_path: Path) -> None:
    line = refused(zipped(tmp_path / "in.zip", {name: png()}))
    assert "is not a relative path within a folder" in line


def test_zip_bomb(tmp_path: Path) -> None:
    """64 MB of zeros after an image of 8x8 are compressed to 64 kB."""
    path = zipped(tmp_path / "in.zip", {"a.png": png() + bytes(2**26)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    before = peak_memory_bytes()
    assert f"a.png has {2**26 + len(png())} bytes for 8 x 8 px" in refused(path)
    assert peak_memory_bytes() - before < 40_000_000


def test_zip_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {"a.png": png() + bytes(2**22)}, zipfile.ZIP_DEFLATED)
    raw, real = path.read_bytes(), struct.pack("<I", len(png()) + 2**22)
    assert raw.count(real) == 2
    path.write_bytes(raw.replace(real, struct.pack("<I", len(png()))))
    assert "a.png" in refused(path)


def test_table_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_tables, "MAX_JSON_BYTES", 1000)
    assert "dataset.json has more than 1000 bytes" in refused(
        zipped(tmp_path / "in.zip", {"a.png": png(), "dataset.json": bytes(1001)})
    )


@pytest.mark.parametrize("entries", [{}, {"a.txt": b"text"}, {"dataset.json": b"{}"}])
def test_zip_without_images(entries: dict[str, bytes], tmp_path: Path) -> None:
    assert "in.zip holds no images" in refused(zipped(tmp_path / "in.zip", entries))


@pytest.mark.parametrize(
    ("table", "expected_text"),
    [
        ("{", "is not a table of labels"),
        ("[]", "is not a table of labels"),
        ("{}", "is not a table of labels"),
        ('{"labels": 7}', "is not a table of labels"),
        ('{"labels": [["a.png"]]}', "is not a table of labels"),
        ("[" * 100_000, "is not a table of labels"),
        ('{"labels": []}', "has no label for a.png"),
        ('{"labels": [["b.png", 0]]}', "has no label for a.png"),
        ('{"labels": [["a.png", 0], ["b.png", 1]]}', "has labels for 2 images, there are 1"),
        ('{"labels": [["a.png", null]]}', "is not a table of labels"),
        ('{"labels": [["a.png", -1]]}', "the labels are neither one class number"),
        ('{"labels": [["a.png", 99999999999]]}', "the labels are neither one class number"),
    ],
)
def test_broken_dataset_json(table: str, expected_text: str, tmp_path: Path) -> None:
    line = refused(zipped(tmp_path / "in.zip", {"a.png": png(), "dataset.json": table.encode()}))
    assert "dataset.json" in line
    assert expected_text in line


def test_zip_of_different_sizes(tmp_path: Path) -> None:
    line = refused(zipped(tmp_path / "in.zip", {"a.png": png(8), "b.png": png(16)}))
    assert "in.zip: b.png is 16 x 16 px" in line


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_zip_cut_short(share: float, tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {f"{i}.png": png() for i in range(5)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "in.zip is not a readable zip, or cut short" in refused(path)


def test_zip_with_a_damaged_entry(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {"a.png": png(64)})
    raw = bytearray(path.read_bytes())
    raw[80] ^= 1
    path.write_bytes(raw)
    assert "Bad CRC-32 for file 'a.png'" in refused(path)


def test_zip_with_a_wrong_number_of_entries(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {f"{i}.png": png() for i in range(5)})
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\5\6") + 10] = 6
    path.write_bytes(raw)
    assert "its directory lists 5 entries, its end record announces 6" in refused(path)


@pytest.mark.parametrize("lost", [0, 2, 4])
def test_zip_whose_directory_lacks_an_entry(lost: int, tmp_path: Path) -> None:
    """The end record agrees with the shorter directory."""
    path = zipped(tmp_path / "in.zip", {f"{i}.png": png() for i in range(5)})
    raw = path.read_bytes()
    start, end = raw.index(b"PK\1\2"), raw.rindex(b"PK\5\6")
    size = (end - start) // 5
    directory = raw[start : start + lost * size] + raw[start + (lost + 1) * size : end]
    record = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 4, 4, len(directory), start, 0)
    path.write_bytes(raw[:start] + directory + record)
    assert "is not listed in its directory" in refused(path)


def test_zip_whose_entry_lies_beyond_its_end(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {"a.png": png()})
    raw = bytearray(path.read_bytes())
    last = raw.rindex(b"PK\1\2")
    raw[:4] = bytes(4)
    raw[last + 42 : last + 46] = struct.pack("<I", len(raw) - 10)
    path.write_bytes(raw)
    assert "in.zip is not a readable zip, or cut short: an entry lies beyond its end" in refused(path)


def test_zip_of_overlapping_entries(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {f"{i}.png": png() for i in range(3)})
    raw = bytearray(path.read_bytes())
    second = raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 4)
    raw[second + 42 : second + 46] = bytes(4)
    path.write_bytes(raw)
    assert "entries overlap" in refused(path)


def test_zip_with_an_endless_directory(tmp_path: Path) -> None:
    """A sparse file whose directory would fill the memory."""
    path = zipped(tmp_path / "in.zip", {"a.png": png()})
    record = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 2**31, 0, 0)
    with path.open("r+b") as file:
        file.seek(2**32)
        file.write(record)
    assert "its directory of 1 entries has 2147483648 bytes" in refused(path)


def test_zip_names_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {"\xe9.png": png()})
    path.write_bytes(path.read_bytes().replace("\xe9".encode(), b"\xff\xfe"))
    assert "in.zip is not a readable zip" in refused(path)


def test_zip_with_a_damaged_lzma_entry(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {"a.png": png(64)}, zipfile.ZIP_LZMA)
    raw = bytearray(path.read_bytes())
    raw[60] ^= 255
    path.write_bytes(raw)
    assert "a.png is damaged" in refused(path)


def test_names_are_printed_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x1b]0;b\u202e.png").write_bytes(b"no image")
    assert "a\\x1b]0;b\\u202e.png is not an image" in refused(tmp_path / "in")
    zipped(tmp_path / "in.zip", {"a.png": png(), "b\x1b[31m.png": png()})
    assert refused_again(tmp_path / "in.zip").isprintable()


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    """It is written with escapes."""
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(png())
    assert import_images(tmp_path / "in", tmp_path / "out.h5") == 1
    with h5py.File(tmp_path / "out.h5") as made:
        assert made["photos/file"].asstr()[0] == "caf\\xe9.png"


# --- Kinds of images in one set


def test_photos_and_masks_in_folders(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "in" / "img" / f"{number}.jpg", rgb(16, 16))
        save(tmp_path / "in" / "mask" / str(number % 2) / f"{number}.png", rgb()[..., 0])
    line = refused(tmp_path / "in")
    assert f"3 RGB images of 16 x 16 px in {tmp_path}/in/img" in line
    assert f"3 grey images of 8 x 8 px in {tmp_path}/in/mask/0 and 1 more: give one of these folders" in line
    assert "resize" not in line


def test_levels_in_folders(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "in" / "large" / f"{number}.png", rgb(16, 16))
        save(tmp_path / "in" / "thumbnails" / f"{number}.png", rgb())
    assert "give one of these folders" in refused(tmp_path / "in")


def test_photos_and_masks_in_one_folder(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "in" / f"{number}.jpg", rgb(16, 16))
        save(tmp_path / "in" / f"{number}.png", rgb()[..., 0])
    line = refused(tmp_path / "in")
    assert "2 RGB images of 16 x 16 px in files with the ending .jpg" in line
    assert "move one kind into a folder of its own" in line


def test_classes_of_photos_of_any_size(tmp_path: Path) -> None:
    """Folders do not tell what differs, so resizing is right."""
    for number, side in enumerate([70, 80, 90, 100, 110, 120]):
        save(tmp_path / "in" / "ab"[number % 2] / f"{number}.png", rgb(side, side))
    assert refused(tmp_path / "in").endswith("add `resize`=64, for example")


# --- Special and huge files


def test_named_pipe_and_device(folder: Path) -> None:
    os.mkfifo(folder / "b.png")
    assert "b.png cannot be read: a named pipe, not a regular file" in refused(folder)
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to("/dev/zero")
    assert "b.png cannot be read: a device, not a regular file" in refused_again(folder)
    (folder / "b.png").unlink()
    os.mkfifo(folder / "metadata.jsonl")
    assert "metadata.jsonl cannot be read: a named pipe" in refused_again(folder)
    os.mkfifo(folder.parent / "in.zip")
    assert "in.zip is not a readable zip, or cut short: a named pipe" in refused_again(
        folder.parent / "in.zip", format="stylegan-zip"
    )


def test_sparse_file(folder: Path) -> None:
    os.truncate(folder / "a.png", 2**35)
    assert "a.png cannot be read: 34359738368 bytes; at most 268435456 are read" in refused(folder)


def test_large_images_are_decoded_one_by_one(tmp_path: Path) -> None:
    """The last of five images of 90 megapixels is corrupt; to find it needs less than 1 GB."""
    side = 9500
    pack = zlib.compressobj(1)
    pixels = b"".join(pack.compress(bytes(1 + 3 * side)) for _ in range(side)) + pack.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.png").write_bytes(whole)
    raw = bytearray(whole)
    raw[1000] ^= 1
    (tmp_path / "in" / "4.png").write_bytes(raw)
    code = (
        "import sys; from celebahq_builder.formats.conversion import import_images\n"
        "from celebahq_builder.parallel import peak_memory_bytes\n"
        "from celebahq_builder.errors import FormatError\n"
        "try: import_images(sys.argv[1], sys.argv[2], resize=8)\n"
        "except FormatError as error: print(error)\n"
        "print(peak_memory_bytes())"
    )
    command = [sys.executable, "-c", code, tmp_path / "in", tmp_path / "out.h5"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    error, used_bytes = made.stdout.splitlines()
    assert "4.png cannot be decoded: the chunk IDAT is corrupt" in error
    assert int(used_bytes) < 2**30


# --- TFRecord


@pytest.fixture
def records(tmp_path: Path) -> Path:
    source = theano_file(tmp_path / "faces.h5", noise(5, 16))
    np.save(tmp_path / "faces-labels.npy", np.eye(5))
    export_file(source, tmp_path / "in", "tfrecord", workers=1)
    return tmp_path / "in"


RECORD = 16 + 808
"""Bytes of a record of 16x16."""


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("at", [0, 7, 8, 11])
def test_wrong_crc_of_a_length(at: int, records: Path) -> None:
    size = (records / "in-r04.tfrecords").stat().st_size // 5
    flip(records / "in-r04.tfrecords", 2 * size + at)
    assert "in-r04.tfrecords: the CRC of the length of record 2 is wrong" in refused(records)


@pytest.mark.parametrize("at", [12, 400, -5, -4, -1])
def test_wrong_crc_of_a_record(at: int, records: Path) -> None:
    size = (records / "in-r04.tfrecords").stat().st_size // 5
    flip(records / "in-r04.tfrecords", (3 * size + at) if at > 0 else 4 * size + at)
    assert "in-r04.tfrecords: the CRC of record 3 is wrong; the file is damaged" in refused(records)


@pytest.mark.parametrize("left", [5, 14, 500])
@pytest.mark.parametrize("level", [2, 4])
def test_tfrecord_cut_short(left: int, level: int, records: Path) -> None:
    path = records / f"in-r{level:02d}.tfrecords"
    raw = path.read_bytes()
    size = len(raw) // 5
    path.write_bytes(raw[: 3 * size + min(left, size - 1)])
    line = refused(records)
    assert f"in-r{level:02d}.tfrecords is cut short: record 3" in line


def test_levels_with_different_counts(records: Path) -> None:
    path = records / "in-r03.tfrecords"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 5 * 4])
    assert "in-r03.tfrecords holds 4 records, in-r04.tfrecords 5" in refused(records)


def test_tfrecord_level_missing(records: Path) -> None:
    (records / "in-r03.tfrecords").unlink()
    assert "lacks in-r03.tfrecords; get or make it again" in refused(records)


def test_tfrecord_without_records(records: Path) -> None:
    (records / "in-r04.tfrecords").write_bytes(b"")
    assert "in-r04.tfrecords holds no records" in refused(records)


def test_two_sets_in_a_folder(records: Path) -> None:
    (records / "other-r04.tfrecords").write_bytes(b"")
    assert "holds other-r04.tfrecords, which is not of the set of in-r02.tfrecords" in refused(records)


@pytest.mark.parametrize("labels", [np.zeros((4, 5)), np.zeros(5), b"no array"], ids=["rows", "flat", "none"])
def test_tfrecord_labels_of_other_images(labels: Any, records: Path) -> None:
    path = records / "in-rxx.labels"
    if isinstance(labels, bytes):
        path.write_bytes(labels)
    else:
        with path.open("wb") as file:
            np.save(file, labels)
    assert "in-rxx.labels" in refused(records)


@pytest.mark.parametrize(
    ("payload", "expected_text"),
    [
        (b"", "record 0 is not an image: it has the features none"),
        (b"\x0a\xff\xff\xff\xff\x0f", "record 0 is not an image: it is not an Example"),
        (b"\xff" * 11, "record 0 is not an image: it is not an Example"),
        (b"\x0b", "record 0 is not an image: it is not an Example"),
    ],
)
def test_tfrecord_of_something_else(payload: bytes, expected_text: str, tmp_path: Path) -> None:
    from celebahq_builder.formats.tfrecord import frame

    (tmp_path / "in.tfrecords").write_bytes(frame(payload))
    line = refused(tmp_path / "in.tfrecords")
    assert expected_text in line
    assert "damaged" not in line


def test_tfrecord_of_another_kind(tmp_path: Path) -> None:
    """Most data sets for TensorFlow contain encoded images under other names."""
    writer = tfrecord.TFRecordWriter(str(tmp_path / "in.tfrecords"))
    writer.write({"image/encoded": (png(), "byte"), "image/class/label": (7, "int")})
    writer.close()
    line = refused(tmp_path / "in.tfrecords")
    assert (
        "record 0 is not an image: it has the features image/class/label, image/encoded, expected shape and data"
        in line
    )
    assert "its CRCs are right, so this is a TFRecord file of another kind than those of ProGAN and StyleGAN" in line
    assert "damaged" not in line
    assert "get or make it again" not in line


def test_compressed_tfrecord(tmp_path: Path) -> None:
    (tmp_path / "in.tfrecords").write_bytes(gzip.compress(bytes(100)))
    assert "in.tfrecords is compressed by gzip; unpack it first" in refused(tmp_path / "in.tfrecords")


def test_not_a_tfrecord(tmp_path: Path) -> None:
    (tmp_path / "in.tfrecords").write_text("some text that is long enough")
    assert "the file is damaged, or is not a TFRecord file" in refused(tmp_path / "in.tfrecords")


@pytest.mark.parametrize("shape", [(3, 8, 16), (3, 6, 6), (4, 8, 8), (1, 8, 8)])
def test_tfrecord_of_images_of_another_size(shape: tuple[int, ...], tmp_path: Path) -> None:
    """The last file is wrong only in its second image."""
    from celebahq_builder.formats.tfrecord import encode_example, frame

    images = [np.zeros(shape, np.uint8), np.zeros((3, 8, 8), np.uint8)]
    (tmp_path / "in.tfrecords").write_bytes(b"".join(frame(encode_example(one)) for one in images))
    expected_text = (
        "record 1 is an image of [3, 8, 8], the first of [1, 8, 8]" if shape == (1, 8, 8) else "expected [3 or 1, r, r]"
    )
    assert expected_text in refused(tmp_path / "in.tfrecords")


# --- Targets


@pytest.mark.parametrize("taken", ["out.h5", "out-labels.npy"])
def test_target_exists(taken: str, folder: Path) -> None:
    (folder.parent / taken).write_text("mine")
    with pytest.raises(CelebAHQError, match=f"{taken} exists and is not overwritten"):
        import_images(folder, folder.parent / "out.h5")
    assert (folder.parent / taken).read_text() == "mine"
    assert sorted(p.name for p in folder.parent.iterdir()) == sorted(["in", taken])


def test_no_folder_for_the_target(folder: Path) -> None:
    with pytest.raises(CelebAHQError, match=r"nowhere"):
        import_images(folder, folder.parent / "nowhere" / "out.h5")


def test_resize_where_images_have_one_size(records: Path) -> None:
    with pytest.raises(CelebAHQError, match="`resize` has no effect on tfrecord; leave it out"):
        import_images(records, records.parent / "out.h5", resize=8)


def test_as_a_command(folder: Path, tmp_path: Path) -> None:
    save(folder / "b.png", rgb(16, 16))
    out = tmp_path / "out.h5"
    ended = CliRunner().invoke(celebahq, ["import", str(folder), "--out", str(out), "--workers", "1"])
    assert isinstance(ended.exception, CelebAHQError)
    ended = CliRunner().invoke(celebahq, ["import", str(folder), "--out", str(out), "--workers", "1", "--resize", "8"])
    assert (ended.exit_code, ended.output) == (0, f"2 images\ndata set: {out}\n")
    assert json.loads(h5py.File(out).attrs["imported_from"]) == ["images", "in"]
