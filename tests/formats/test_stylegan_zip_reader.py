"""Reading of zips: those of other programs, unsuitable names and tables, damage."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.formats.conversion import import_images
from celebahq_builder.parallel import peak_memory_bytes
from tests.formats.files import coded, cut, flip, pixels, png, refused, zipped
from tests.hdf5.pyramids import noise


def test_compressed_zip_without_labels(tmp_path: Path) -> None:
    data = noise(3, 8)
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, image in enumerate(data):
            archive.writestr(f"{9 - i}.png", coded(image))
        archive.writestr("notes/", "")
        archive.writestr("notes/a.txt", "passed over")
    import_images(tmp_path / "in.zip", tmp_path / "out.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], data[::-1])


@pytest.mark.parametrize("marked", [("<H", 10), ("<I", 12), ("<I", 16)], ids=["entries", "size", "offset"])
def test_zip_with_the_end_record_of_a_large_zip(marked: tuple[str, int], tmp_path: Path) -> None:
    """A zip of 65,535 entries or of 4 GB has a second end record, which the values of the first announce."""
    data = noise(5, 8)
    raw = zipped(tmp_path / "in.zip", {f"{i}.png": coded(image) for i, image in enumerate(data)}).read_bytes()
    at = raw.rindex(b"PK\5\6")
    count, size, offset = struct.unpack_from("<HII", raw, at + 10)
    large = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    end = bytearray(raw[at:])
    kind, place = marked
    struct.pack_into(kind, end, place, (1 << 8 * struct.calcsize(kind)) - 1)
    (tmp_path / "in.zip").write_bytes(raw[:at] + large + locator + end)
    import_images(tmp_path / "in.zip", tmp_path / "out.h5")
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], data)


# --- Faults


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
    cut(path, share)
    assert "in.zip is not a readable zip, or cut short" in refused(path)


def test_zip_with_a_damaged_entry(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {"a.png": png(64)})
    flip(path, 80)
    assert "Bad CRC-32 for file 'a.png'" in refused(path)


def test_zip_with_a_wrong_number_of_entries(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", {f"{i}.png": png() for i in range(5)})
    flip(path, path.read_bytes().rindex(b"PK\5\6") + 10)
    assert "its directory lists 5 entries, its end record announces 4" in refused(path)


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
    flip(path, 60, 255)
    assert "a.png is damaged" in refused(path)
