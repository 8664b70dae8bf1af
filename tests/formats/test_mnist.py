"""Reading of MNIST, and refusal of damaged files."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import mnist
from tests.formats.files import cut, flip

COUNT = 9

IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
CLASSES = np.array([5, 0, 4, 1, 9, 2, 1, 3, 1], np.uint8)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write(folder: Path, images: bytes, labels: bytes, names: str = "{}-{}-idx{}-ubyte", packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for what, axes, data in (("images", 3, images), ("labels", 1, labels)):
        path = folder / names.format("train", what, axes)
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            path.write_bytes(data)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_round_trip(packed: bool, names: str, below: str, tmp_path: Path) -> None:
    write(tmp_path / below, idx(IMAGES), idx(CLASSES), names, packed)
    found = mnist.read(tmp_path)
    images = list(found.images())
    assert (found.count, found.resolution, found.channels, len(images)) == (COUNT, 32, 1, COUNT)
    for pixels, image in zip(images, IMAGES, strict=True):
        assert pixels.pixels.shape == (1, 32, 32)
        assert pixels.pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels.pixels[0, 2:30, 2:30], image)
        assert pixels.pixels.sum() == image.sum()  # nothing but black around it
    assert [pixels.name for pixels in images] == [f"train/{i:05d}" for i in range(COUNT)]
    assert found.labels.dtype == np.float32
    np.testing.assert_array_equal(found.labels, np.array([[c == k for k in range(10)] for c in CLASSES], np.float32))
    assert found.label_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def fails(folder: Path, *parts: str) -> None:
    with pytest.raises(FormatError) as error:
        list(mnist.read(folder).images())
    message = str(error.value)
    assert "\n" not in message
    for part in (str(folder), "https://", *parts):
        assert part in message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("images", "labels", "part"),
    [
        (lambda d: d[:-1], None, "images-idx3-ubyte"),
        (lambda d: d + b"\0", None, "images-idx3-ubyte"),
        (None, lambda d: d[:-1], "labels-idx1-ubyte"),
        (None, lambda d: d + b"\0", "labels-idx1-ubyte"),
        (lambda d: d[:7], None, "cut short: 9 bytes are missing"),
        (lambda d: b"", lambda d: b"", "cut short: 16 bytes are missing"),
        (lambda d: b"\0\0\x08\x01" + d[4:], None, "starts with 00 00 08 01, expected 00 00 08 03"),
        (lambda d: b"\0\0\x0d\x03" + d[4:], None, "starts with 00 00 0d 03, expected 00 00 08 03"),
        (None, lambda d: b"\0\0\x08\x03" + d[4:], "starts with 00 00 08 03, expected 00 00 08 01"),
        (
            lambda d: d[:4] + struct.pack(">I", 0xFFFFFFFF) + d[8:],
            None,
            "expected 3367254359280 bytes after its header, and at most",
        ),
        (
            None,
            lambda d: d[:4] + struct.pack(">I", 0xFFFFFFFF) + d[8:],
            "expected 4294967295 bytes after its header, and at most",
        ),
        (lambda d: idx(IMAGES[:, :27]), None, "expected images of 28 x 28, got 28 x 27"),
        (lambda d: idx(IMAGES[:0]), lambda d: idx(CLASSES[:0]), "has no images"),
        (None, lambda d: idx(CLASSES[:-1]), "has 8 classes, "),
        (None, lambda d: idx(CLASSES + (CLASSES == 9)), "row 4: expected a class of 0 to 9, got 10"),
    ],
)
def test_wrong_files(
    packed: bool,
    images: Callable[[bytes], bytes] | None,
    labels: Callable[[bytes], bytes] | None,
    part: str,
    tmp_path: Path,
) -> None:
    same: Callable[[bytes], bytes] = lambda data: data  # noqa: E731
    write(tmp_path, (images or same)(idx(IMAGES)), (labels or same)(idx(CLASSES)), packed=packed)
    fails(tmp_path, part)


def test_too_large_header_of_labels(tmp_path: Path) -> None:
    """Both headers agree; only the length of the labels is wrong."""
    images = b"\0\0\x08\x03" + struct.pack(">3I", 5, 28, 28) + bytes(5 * 784)
    write(tmp_path, images, b"\0\0\x08\x01" + struct.pack(">I", 5) + bytes(3))
    fails(tmp_path, "labels-idx1-ubyte: expected 5 bytes after its header, got 3")


def test_header_of_many_images(tmp_path: Path) -> None:
    """The size is refused before the zeros, which gzip makes small, are unpacked."""
    images = b"\0\0\x08\x03" + struct.pack(">3I", 10**9, 28, 28) + bytes(2**24)
    write(tmp_path, images, idx(CLASSES), packed=True)
    fails(tmp_path, "expected 784000000000 bytes after its header, and at most 268435456 are read")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_gzip(share: float, tmp_path: Path) -> None:
    path = write(tmp_path, idx(IMAGES), idx(CLASSES), packed=True) / "train-images-idx3-ubyte.gz"
    cut(path, share)
    fails(tmp_path, "train-images-idx3-ubyte.gz cannot be read, or is cut short")


def test_gzip_with_a_hole(tmp_path: Path) -> None:
    path = write(tmp_path, idx(IMAGES), idx(CLASSES), packed=True) / "train-images-idx3-ubyte.gz"
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole + 10_000)  # padding, as of a tape
    mnist.read(tmp_path)
    with path.open("r+b") as file:
        file.truncate(1 << 36)
        file.seek(0, 2)
        file.write(b"x")
    fails(tmp_path, "train-images-idx3-ubyte.gz cannot be read, or is cut short: it has 4194304 zeros in a row")


def test_damaged_gzip(tmp_path: Path) -> None:
    """The checksum is verified before an image is used."""
    path = write(tmp_path, idx(IMAGES), idx(CLASSES), packed=True) / "train-images-idx3-ubyte.gz"
    flip(path, path.stat().st_size // 2)
    with pytest.raises(FormatError, match="cannot be read"):
        mnist.read(tmp_path)


def test_web_page_instead_of_gzip(tmp_path: Path) -> None:
    write(tmp_path, idx(IMAGES), idx(CLASSES), packed=True)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_text("<html>403 Forbidden</html>")
    fails(tmp_path, "train-labels-idx1-ubyte.gz cannot be read")


def test_missing(tmp_path: Path) -> None:
    fails(tmp_path, "lacks train-images-idx3-ubyte or train-images-idx3-ubyte.gz; it has nothing")
    fails(tmp_path / "nowhere", "is not a folder")
    (write(tmp_path, idx(IMAGES), idx(CLASSES)) / "train-labels-idx1-ubyte").unlink()
    fails(tmp_path, "lacks train-labels-idx1-ubyte", "it has train-images-idx3-ubyte")
