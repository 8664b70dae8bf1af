"""What is read past OpenCV is what OpenCV reads, and whatever else is a PNG is left to it."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from celebahq_builder.imaging.image_io import decode_png, encode_png, read_rows


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (channels, height, width), dtype=np.uint8)


def opencv(data: bytes) -> NDArray[np.uint8]:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.mark.parametrize(("height", "width"), [(2, 7), (7, 2), (5, 3), (64, 64), (300, 200)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_as_opencv_reads_it(height: int, width: int, level: int) -> None:
    pixels = noise(height, width)
    data = encode_png(pixels, level)
    rows = read_rows(data)
    assert rows is not None
    np.testing.assert_array_equal(rows, opencv(data))
    np.testing.assert_array_equal(decode_png(data), pixels)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(rows: bytes, width: int, height: int, kind: tuple[int, ...] = (8, 2, 0, 0, 0)) -> bytes:
    """A PNG of rows as they stand, in two chunks of pixels with a comment before them."""
    packed = zlib.compress(rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *kind))
    half = len(packed) // 2
    parts = chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
    return b"\x89PNG\r\n\x1a\n" + head + parts + chunk(b"IEND", b"")


def test_several_chunks() -> None:
    rows = bytes([2, 1, 2, 3, 4, 5, 6, 2, 255, 255, 255, 1, 1, 1])
    read = read_rows(png(rows, 2, 2))
    assert read is not None
    assert read.tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 1, 2], [5, 6, 7]]]


@pytest.mark.parametrize("number", [0, 1, 3, 4, 9])
def test_other_filters_are_left_to_opencv(number: int) -> None:
    rows = bytes([2, 1, 2, 3, 4, 5, 6, number, 10, 20, 30, 1, 1, 1])
    data = png(rows, 2, 2)
    assert read_rows(data) is None
    if number < 9:
        np.testing.assert_array_equal(decode_png(data), opencv(data).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_other_kinds_are_left_to_opencv(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), 1).save(buffer, "PNG")
    assert read_rows(buffer.getvalue()) is None
    assert decode_png(buffer.getvalue()).shape == (3, 8, 8)


def test_damaged_or_none_at_all() -> None:
    whole = encode_png(noise(16, 16))
    for cut in (0, 5, 20, 40, len(whole) // 2):
        assert read_rows(whole[:cut]) is None
    at = whole.index(b"IDAT") + 200
    assert read_rows(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) is None
    assert read_rows(b"\xff\xd8\xff" + whole) is None
    large = png(b"\2" + bytes(30000), 10000, 1)
    assert read_rows(large) is not None
    assert read_rows(large.replace(struct.pack(">II", 10000, 1), struct.pack(">II", 10000, 2**31 - 1))) is None
    assert read_rows(png(b"\2" + bytes(3 * 8), 8, 2)) is None
