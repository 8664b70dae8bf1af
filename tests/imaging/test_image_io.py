"""Decoding and encoding: every kind of file gives the right RGB pixels and notes, or the right reason of rejection."""

import io
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from celebahq_builder.imaging import image_io
from celebahq_builder.imaging.image_io import (
    check_png,
    crop_image,
    decode_png,
    encode_jpeg,
    encode_png,
    open_rgb,
    pil_to_array,
)
from celebahq_builder.outcome import Reason, Rejection

PIXELS_MAX = 10_000_000
"""A limit that no image here reaches, except where it is tested."""

IMAGES = arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 40), st.integers(1, 40)))


def noise(height: int, width: int, *channels: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def decode_image(data: bytes, pixels_max: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    image, notes = open_rgb(data, pixels_max)
    return pil_to_array(image), notes


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb_file(kind: str = "PNG", **options: object) -> bytes:
    return encoded(Image.fromarray(noise(20, 30, 3)), kind, **options)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *contents: bytes) -> bytes:
    """A PNG of 8-bit RGB whose header claims a size, with a comment and any number of chunks of compressed pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = b"".join(chunk(b"IDAT", content) for content in contents)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tEXt", b"a\0b") + pixels + chunk(b"IEND", b"")


def png_with_a_broken_chunk() -> bytes:
    """A PNG whose pixels continue in a second chunk that has lost its name."""
    whole = rgb_file()
    start = whole.index(b"IDAT") - 4
    length = int.from_bytes(whole[start : start + 4], "big")
    data, rest = whole[start + 8 : start + 8 + length], whole[start + 12 + length :]
    return whole[:start] + chunk(b"IDAT", data[:900]) + chunk(b"\x01\x02\x03\x04", data[900:]) + rest


def damaged(data: bytes, marker: bytes, offset: int) -> bytes:
    """The file with 16 bytes overwritten at an offset from a marker."""
    start = data.index(marker) + offset
    return data[:start] + b"\xff" * 16 + data[start + 16 :]


BAD = {
    "empty": (b"", Reason.EMPTY_FILE),
    "text": (b"<html>404 not found</html>", Reason.NOT_AN_IMAGE),
    "JPEG signature alone": (b"\xff\xd8\xff\xe0", Reason.NOT_AN_IMAGE),
    "JPEG cut in half": (rgb_file("JPEG")[:700], Reason.CORRUPT_IMAGE),
    "JPEG without its last bytes": (rgb_file("JPEG")[:-8], Reason.CORRUPT_IMAGE),
    "JPEG with a broken Huffman table": (damaged(rgb_file("JPEG"), b"\xff\xc4", 5), Reason.CORRUPT_IMAGE),
    "PNG cut in half": (rgb_file()[:900], Reason.CORRUPT_IMAGE),
    "PNG with damaged data": (damaged(rgb_file(), b"IDAT", 800), Reason.CORRUPT_IMAGE),
    "PNG with a broken chunk": (png_with_a_broken_chunk(), Reason.CORRUPT_IMAGE),
    "PNG that claims 10^10 px": (png(100_000, 100_000, zlib.compress(b"\0")), Reason.TOO_LARGE),
    "PNG that claims a little too much": (png(4000, 4000, zlib.compress(b"\0")), Reason.TOO_LARGE),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_gets_its_reason(kind: str) -> None:
    data, reason = BAD[kind]
    with pytest.raises(Rejection) as caught:
        decode_image(data, PIXELS_MAX)
    assert caught.value.reason is reason
    assert caught.value.detail


def test_limit_of_pixels_is_inclusive() -> None:
    assert decode_image(rgb_file(), 600)[0].shape == (3, 20, 30)
    with pytest.raises(Rejection, match=r"30 x 20 px; crop\.pixels_max allows 599") as caught:
        decode_image(rgb_file(), 599)
    assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(Rejection, match="30 x 20 px; `pixels_max` allows 599"):
        open_rgb(rgb_file(), 599, "`pixels_max`")


def test_pillows_own_limit_of_pixels_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(rgb_file(), 600)[0].shape == (3, 20, 30)
    assert crop_image(open_rgb(rgb_file(), 600)[0], (1, 0, 30, 20)).size == (29, 20)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_plain_colour_is_exact(kind: str) -> None:
    pixels, notes = decode_image(rgb_file(kind, **({"lossless": True} if kind == "WEBP" else {})), PIXELS_MAX)
    assert notes == ()
    assert (pixels.dtype, pixels.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_array_equal(pixels, noise(20, 30, 3).transpose(2, 0, 1))


def test_jpeg_is_near() -> None:
    ramp = np.add.outer(np.arange(24) * 5, np.arange(32) * 3).astype(np.uint8)
    image = np.stack([ramp, ramp[::-1], ramp[:, ::-1]])
    pixels, notes = decode_image(encoded(Image.fromarray(image.transpose(1, 2, 0)), "JPEG", quality=98), PIXELS_MAX)
    assert notes == ()
    assert np.abs(pixels.astype(int) - image).mean() < 2


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey(mode: str) -> None:
    values = noise(7, 9) if mode == "L" else (noise(7, 9) > 127).astype(np.uint8) * 255
    pixels, notes = decode_image(encoded(Image.fromarray(values).convert(mode), "PNG"), PIXELS_MAX)
    assert notes == ("grey",)
    np.testing.assert_array_equal(pixels, np.stack([values] * 3))


def over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    return 255 + (colour.astype(float) - 255) * alpha / 255


def test_grey_with_alpha_is_laid_over_white() -> None:
    grey_alpha = noise(7, 9, 2)
    pixels, notes = decode_image(encoded(Image.fromarray(grey_alpha, "LA"), "PNG"), PIXELS_MAX)
    expected = over_white(grey_alpha[..., 0], grey_alpha[..., 1])
    assert np.abs(pixels - expected).max() <= 1
    assert set(notes) == {"grey", "alpha"}


def test_alpha_is_laid_over_white() -> None:
    rgba = noise(7, 9, 4)
    rgba[0, :3, 3] = (0, 128, 255)
    pixels, notes = decode_image(encoded(Image.fromarray(rgba), "PNG"), PIXELS_MAX)
    assert notes == ("alpha",)
    assert np.abs(pixels - over_white(rgba[..., :3], rgba[..., 3:]).transpose(2, 0, 1)).max() <= 1
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 0, 2].tolist() == rgba[0, 2, :3].tolist()


def test_opaque_alpha_changes_nothing() -> None:
    rgba = noise(7, 9, 4)
    rgba[..., 3] = 255
    pixels, notes = decode_image(encoded(Image.fromarray(rgba), "PNG"), PIXELS_MAX)
    assert notes == ("alpha",)
    np.testing.assert_array_equal(pixels, rgba[..., :3].transpose(2, 0, 1))


def palette_image() -> tuple[Image.Image, NDArray[np.uint8], NDArray[np.uint8]]:
    colours, indices = noise(5, 3), np.random.default_rng(1).integers(0, 5, (7, 9), dtype=np.uint8)
    image = Image.fromarray(indices, "L").convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours.tobytes())
    return image, colours, indices


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette(kind: str) -> None:
    image, colours, indices = palette_image()
    pixels, notes = decode_image(encoded(image, kind), PIXELS_MAX)
    assert notes == ("palette",)
    np.testing.assert_array_equal(pixels, colours[indices].transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(kind: str) -> None:
    image, colours, indices = palette_image()
    pixels, notes = decode_image(encoded(image, kind, transparency=2), PIXELS_MAX)
    assert set(notes) == {"palette", "alpha"}
    colours[2] = 255
    np.testing.assert_array_equal(pixels, colours[indices].transpose(2, 0, 1))


def test_colour_with_a_transparent_colour() -> None:
    image = noise(7, 9, 3)
    colour = tuple(image[2, 3].tolist())
    pixels, notes = decode_image(encoded(Image.fromarray(image), "PNG", transparency=colour), PIXELS_MAX)
    image[2, 3] = 255
    assert notes == ("alpha",)
    np.testing.assert_array_equal(pixels, image.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    inks = np.kron(noise(2, 3, 4, seed=5), np.ones((16, 16, 1), np.uint8))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    pixels, notes = decode_image(encoded(Image.fromarray(inks, "CMYK"), kind, **options), PIXELS_MAX)
    left = 255.0 - inks
    expected = (left[..., :3] * left[..., 3:] / 255).transpose(2, 0, 1)
    assert notes == ("cmyk",)
    assert np.abs(pixels - expected).max() <= (4 if kind == "JPEG" else 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    values = np.linspace(0, 65535, 63).round().astype(np.uint16).reshape(7, 9)
    pixels, notes = decode_image(encoded(Image.fromarray(values), kind), PIXELS_MAX)
    assert set(notes) == {"16-bit", "grey"}
    assert np.abs(pixels - values / 257).max() <= 0.5


def test_dark_16_bit_grey_stays_dark() -> None:
    """The scale is that of 16 bits, whatever the brightest pixel is."""
    pixels, _ = decode_image(encoded(Image.fromarray(np.full((5, 5), 200, np.uint16)), "PNG"), PIXELS_MAX)
    assert pixels.max() == 1


def test_16_bit_colour_is_scaled() -> None:
    values = np.random.default_rng(2).integers(0, 65536, (7, 9, 3)).astype(np.uint16)
    pixels, notes = decode_image(cv2.imencode(".png", values)[1].tobytes(), PIXELS_MAX)
    assert notes == ("16-bit",)
    assert np.abs(pixels - values[..., ::-1].transpose(2, 0, 1) / 257).max() <= 1


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_is_noted_and_not_applied(orientation: int) -> None:
    plain, none = decode_image(rgb_file("JPEG"), PIXELS_MAX)
    pixels, notes = decode_image(rgb_file("JPEG", exif=exif(orientation)), PIXELS_MAX)
    assert (none, notes) == ((), ("exif-orientation",))
    np.testing.assert_array_equal(pixels, plain)


def test_upright_exif_needs_no_note() -> None:
    assert decode_image(rgb_file("JPEG", exif=exif(1)), PIXELS_MAX)[1] == ()


WHOLE: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: rgb_file("JPEG", exif=exif(6)),
    "PNG": lambda: rgb_file("PNG", exif=exif(6)),
    "palette": lambda: encoded(palette_image()[0], "PNG", transparency=1),
    "GIF": lambda: rgb_file("GIF"),
    "WEBP": lambda: rgb_file("WEBP"),
    "TIFF": lambda: rgb_file("TIFF", compression="tiff_lzw"),
}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from([*WHOLE]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.data())
def test_corrupt_files_give_pixels_or_a_rejection(
    kind: str, changes: list[tuple[float, int]], data: st.DataObject
) -> None:
    file = bytearray(WHOLE[kind]())
    for place, value in changes:
        file[int(place**3 * (len(file) - 1))] = value  # headers more often than pixels
    file = file[: data.draw(st.integers(0, len(file)) | st.just(len(file)))]
    try:
        pixels, _ = decode_image(bytes(file), 100_000)
    except Rejection:
        return
    assert (pixels.dtype, pixels.ndim, pixels.shape[0]) == (np.uint8, 3, 3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(IMAGES, st.integers(0, 9))
def test_png_round_trip(pixels: NDArray[np.uint8], level: int) -> None:
    data = encode_png(pixels, level)
    np.testing.assert_array_equal(decode_png(data), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1), pixels)


def test_png_of_grey() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 9), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(image), pixels[0])


@pytest.mark.parametrize("kind", ["L", "RGBA", "P", "1", "I;16"])
def test_png_of_other_modes_becomes_rgb(kind: str) -> None:
    assert decode_png(encoded(Image.new(kind, (8, 8), 1), "PNG")).shape == (3, 8, 8)


@pytest.mark.parametrize("row_filter", [0, 1, 2, 3, 4])
def test_png_with_any_row_filter_in_several_chunks(row_filter: int) -> None:
    rows = bytes([2, 1, 2, 3, 4, 5, 6, row_filter, 255, 255, 255, 1, 1, 1])
    second = {
        0: [[255, 255, 255], [1, 1, 1]],
        1: [[255, 255, 255], [0, 0, 0]],
        2: [[0, 1, 2], [5, 6, 7]],
        3: [[255, 0, 0], [130, 3, 4]],
        4: [[0, 1, 2], [5, 6, 7]],
    }[row_filter]
    packed = zlib.compress(rows)
    data = png(2, 2, packed[:7], packed[7:])
    assert decode_png(data).transpose(1, 2, 0).tolist() == [[[1, 2, 3], [4, 5, 6]], second]


def ours() -> bytes:
    return encode_png(noise(16, 16, 3).transpose(2, 0, 1))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


PIXELS_AT = ours().index(b"IDAT") + 4
PIXELS_END = PIXELS_AT + int.from_bytes(ours()[PIXELS_AT - 8 : PIXELS_AT - 4], "big")

BAD_PNG = {
    "empty": b"",
    "text": b"text",
    "another signature": b"\xff\xd8\xff" + ours(),
    "Pillow's, truncated": rgb_file()[:900],
    "Pillow's, with damaged pixels": damaged(rgb_file(), b"IDAT", 800),
    "ours, truncated in the pixels": ours()[: len(ours()) // 2],
    "ours, truncated in the header": ours()[:20],
    "ours, without its end": ours()[:PIXELS_END],
    "a changed bit of the pixels": flipped(ours(), PIXELS_AT + 200),
    "a wrong CRC of the pixels": flipped(ours(), PIXELS_END),
    "a wrong CRC of the header": flipped(ours(), 29),
    "a wrong checksum of the pixels": png(2, 1, zlib.compress(bytes(7))[:-1] + b"\x77"),
    "fewer rows than the header claims": png(8, 2, zlib.compress(bytes(25))),
    "more pixels than OpenCV allows": png(100_000, 100_000, zlib.compress(b"\0")),
    "an unknown row filter": png(2, 1, zlib.compress(b"\x09" + bytes(6))),
}


@pytest.mark.parametrize("kind", BAD_PNG)
def test_bad_png_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"^{len(BAD_PNG[kind])} bytes are not a PNG"):
        decode_png(BAD_PNG[kind])


def test_jpeg_for_pages_keeps_full_colour() -> None:
    checks = np.zeros((3, 16, 16), np.uint8)
    checks[0] = np.indices((16, 16)).sum(axis=0) % 2 * 255
    with Image.open(io.BytesIO(encode_jpeg(checks, quality=95))) as image:
        assert JpegImagePlugin.get_sampling(image) == 0
        back = np.asarray(image).transpose(2, 0, 1)
    assert np.abs(back.astype(int) - checks).mean() < 12
    pixels = noise(32, 32, 3).transpose(2, 0, 1)
    assert len(encode_jpeg(pixels, 50)) < len(encode_jpeg(pixels, 95))


# --- Bounds and checksums


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE", b"tRNS"])
@pytest.mark.parametrize("what", ["checksum", "length"])
def test_png_chunks_are_checked(kind: bytes, what: str) -> None:
    """Pillow decodes a PNG whose pixels have a wrong checksum."""
    image = Image.fromarray(noise(20, 30, 3)).quantize(16)
    data = encoded(image, "PNG", transparency=0)
    start = data.index(kind)
    length = int.from_bytes(data[start - 4 : start], "big")
    decode_image(data, PIXELS_MAX)
    if what == "checksum":
        data = flipped(data, start + 4 + length)
    else:
        data = data[: start - 4] + (length + 2**20).to_bytes(4, "big") + data[start:]
    with pytest.raises(Rejection) as caught:
        decode_image(data, PIXELS_MAX)
    assert caught.value.reason in (Reason.CORRUPT_IMAGE, *([Reason.NOT_AN_IMAGE] if kind != b"IDAT" else []))


def test_text_of_a_png_may_have_a_wrong_checksum() -> None:
    """It does not decide the pixels; nothing after them is read."""
    whole = rgb_file()
    end = whole.index(b"IEND") - 4
    text = struct.pack(">I", 4) + b"tEXta\0bc" + bytes(4)
    check_png(whole[:end] + text + whole[end:])


def test_postscript_is_not_run() -> None:
    """Pillow starts Ghostscript to decode it."""
    with pytest.raises(Rejection) as caught:
        decode_image(encoded(Image.fromarray(noise(8, 8, 3)), "EPS"), PIXELS_MAX)
    assert caught.value.reason is Reason.NOT_AN_IMAGE


def test_our_png_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_io, "MAX_IMAGE_PIXELS", 16 * 16)
    assert decode_png(ours()).shape == (3, 16, 16)
    monkeypatch.setattr(image_io, "MAX_IMAGE_PIXELS", 16 * 16 - 1)
    with pytest.raises(ValueError, match="are not a PNG"):
        decode_png(ours())


def test_threads_share_a_budget_of_pixels() -> None:
    budget = image_io.MemoryBudget(10)
    together: list[int] = []
    inside = 0
    changing = threading.Lock()

    def decode(pixels: int) -> None:
        nonlocal inside
        with budget.reserve(pixels):
            with changing:
                inside += pixels
                together.append(inside)
            sleep(0.001)
            with changing:
                inside -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [4, 5, 3, 10, 1, 99, 6] * 5))
    assert len(together) == 35
    assert all(number in (99, *range(11)) for number in together)  # a larger image is decoded alone
    assert budget.free == 10


def test_transparent_and_deep_images_of_several_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images are converted in strips."""
    rgba = Image.fromarray(np.dstack([noise(20, 30, 3), noise(20, 30, 1)]))
    deep = Image.fromarray((noise(20, 30, 1)[..., 0].astype(np.uint16)) * 257)
    files = [encoded(rgba, "PNG"), encoded(deep, "PNG")]
    whole = [decode_image(file, PIXELS_MAX)[0] for file in files]
    monkeypatch.setattr(image_io, "STRIP_PX", 7)
    for file, expected in zip(files, whole, strict=True):
        np.testing.assert_array_equal(decode_image(file, PIXELS_MAX)[0], expected)
