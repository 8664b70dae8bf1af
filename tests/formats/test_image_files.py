"""Unsuitable image files in a folder: sizes, kinds, damage, special files; one line says how to correct them."""

import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import CelebAHQError, FormatError
from celebahq_builder.formats import find_format
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.formats.image_file import SizeError, read_header
from tests.formats.files import cut, flip, png, refused, rgb, save, zipped
from tests.hdf5.pyramids import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one valid image."""
    save(tmp_path / "in" / "a.png", rgb())
    return tmp_path / "in"


# --- Sizes


def test_no_power_of_two(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", rgb(600, 600))
    line = refused(tmp_path / "in")
    assert "a.png is 600 x 600 px; expected a square whose side is a power of two: add `resize`=512" in line


def test_faults_of_size_have_a_type(folder: Path) -> None:
    """So that other commands can recognize them."""
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


# --- Kinds of images


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


def rgb_png(side: int, bits: int, rows: bytes) -> bytes:
    """Return a PNG file of compressed rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_16_bit_colour(folder: Path) -> None:
    """Pillow opens it as plain RGB and drops half of each value."""
    (folder / "b.png").write_bytes(rgb_png(8, 16, zlib.compress(bytes(8 * (1 + 8 * 6)))))
    with Image.open(folder / "b.png") as image:
        assert image.mode == "RGB"
    assert "b.png is RGB of 16 bits" in refused(folder)


def test_transparent_colour(folder: Path) -> None:
    save(folder / "b.png", rgb(), transparency=(1, 2, 3))
    assert "RGB with an alpha channel" in refused(folder)


def test_animation(folder: Path) -> None:
    save(folder / "b.webp", rgb(), save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    assert "b.webp is an animation; expected a single image" in refused(folder)


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


# --- Damaged, special and huge files


def test_larger_than_any_image(folder: Path) -> None:
    """A small header declares an image of 48 GB."""
    data = bytearray((folder / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 131072, 131072)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (folder / "a.png").write_bytes(data)
    expected_text = "a.png is too large to be read: 131072 x 131072 px; this reader allows 100000000 pixels; reduce"
    assert expected_text in refused(folder)
    assert expected_text in refused(folder, resize=8)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_image_cut_short(share: float, ending: str, tmp_path: Path) -> None:
    save(tmp_path / "in" / f"a.{ending}", noise(1, 64)[0].transpose(1, 2, 0))
    cut(tmp_path / "in" / f"a.{ending}", share)
    assert f"a.{ending}" in refused(tmp_path / "in")


def test_not_an_image(folder: Path) -> None:
    (folder / "b.jpg").write_text("no image")
    assert "b.jpg is not an image that can be read; replace or remove it" in refused(folder)


def test_named_pipe_and_device(folder: Path) -> None:
    os.mkfifo(folder / "b.png")
    assert "b.png cannot be read: a named pipe, not a regular file" in refused(folder)
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to("/dev/zero")
    assert "b.png cannot be read: a device, not a regular file" in refused(folder)
    (folder / "b.png").unlink()
    os.mkfifo(folder / "metadata.jsonl")
    assert "metadata.jsonl cannot be read: a named pipe" in refused(folder)
    os.mkfifo(folder.parent / "in.zip")
    assert "in.zip is not a readable zip, or cut short: a named pipe" in refused(
        folder.parent / "in.zip", format="stylegan-zip"
    )


def test_sparse_file(folder: Path) -> None:
    os.truncate(folder / "a.png", 2**35)
    assert "a.png cannot be read: 34359738368 bytes; at most 268435456 are read" in refused(folder)


def test_large_images_are_decoded_one_by_one(tmp_path: Path) -> None:
    """The last of five images of 90 megapixels is corrupt; to find it needs less than 1 GB."""
    side = 9500
    pack = zlib.compressobj(1)
    rows = b"".join(pack.compress(bytes(1 + 3 * side)) for _ in range(side)) + pack.flush()
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.png").write_bytes(rgb_png(side, 8, rows))
    flip(tmp_path / "in" / "4.png", 1000)
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


def test_names_are_printed_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x1b]0;b\u202e.png").write_bytes(b"no image")
    assert "a\\x1b]0;b\\u202e.png is not an image" in refused(tmp_path / "in")
    zipped(tmp_path / "in.zip", {"a.png": png(), "b\x1b[31m.png": png()})
    assert refused(tmp_path / "in.zip").isprintable()


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    """It is written with escapes."""
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(png())
    assert import_images(tmp_path / "in", tmp_path / "out.h5") == 1
    with h5py.File(tmp_path / "out.h5") as made:
        assert made["photos/file"].asstr()[0] == "caf\\xe9.png"
