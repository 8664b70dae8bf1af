"""Reading of TFRecord: files of other programs, missing levels, damage."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tfrecord

from celebahq_builder.formats.conversion import export_file, import_images
from celebahq_builder.formats.tfrecord import encode_example, frame
from tests.formats.files import flip, pixels, png, refused
from tests.hdf5.pyramids import noise, theano_file
from tests.reference.tfrecord_frames import masked


def test_tfrecord_of_another_writer(tmp_path: Path) -> None:
    """Other fields are ignored, and the order of the fields has no effect."""
    data = noise(3, 8)
    writer = tfrecord.TFRecordWriter(str(tmp_path / "other.tfrecords"))
    for image in data:
        shape = (list(image.shape), "int")
        writer.write({"z": (1.5, "float"), "data": (image.tobytes(), "byte"), "shape": shape, "a": (7, "int")})
    writer.close()
    import_images(tmp_path / "other.tfrecords", tmp_path / "out.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], data)


def test_tfrecord_with_unpacked_numbers(tmp_path: Path) -> None:
    data = noise(1, 4)[0]

    def field(number: int, value: bytes) -> bytes:
        assert len(value) < 128
        return bytes([number << 3 | 2, len(value)]) + value

    shape = field(1, b"shape") + field(2, field(3, bytes([8, 3, 8, 4, 8, 4])))
    imaged = field(1, b"data") + field(2, field(1, field(1, data.tobytes())))
    features = field(1, shape) + field(1, imaged)
    payload = field(1, features)
    length = struct.pack("<Q", len(payload))
    record = length + struct.pack("<I", masked(length)) + payload + struct.pack("<I", masked(payload))
    (tmp_path / "one.tfrecords").write_bytes(record)
    import_images(tmp_path / "one.tfrecords", tmp_path / "out.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], data[None])


# --- Faults


@pytest.fixture
def records(tmp_path: Path) -> Path:
    source = theano_file(tmp_path / "faces.h5", noise(5, 16))
    np.save(tmp_path / "faces-labels.npy", np.eye(5))
    export_file(source, tmp_path / "in", "tfrecord", workers=1)
    return tmp_path / "in"


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
    images = [np.zeros(shape, np.uint8), np.zeros((3, 8, 8), np.uint8)]
    (tmp_path / "in.tfrecords").write_bytes(b"".join(frame(encode_example(one)) for one in images))
    expected_text = (
        "record 1 is an image of [3, 8, 8], the first of [1, 8, 8]" if shape == (1, 8, 8) else "expected [3 or 1, r, r]"
    )
    assert expected_text in refused(tmp_path / "in.tfrecords")
