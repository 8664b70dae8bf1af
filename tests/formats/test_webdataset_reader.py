"""Reading of WebDataset: shards of other programs, wrong samples, and damage that tarfile does not report."""

import gzip
import io
import logging
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import webdataset
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import recognize
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.formats.webdataset import read
from tests.formats.files import coded, flip, pixels, refused
from tests.hdf5.pyramids import Images, noise


def shard(path: Path, members: Iterable[tuple[str, bytes]], **header: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            for key, value in header.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(data))
    return path


def samples(images: Images, first: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{number:04d}.png", coded(image)) for number, image in enumerate(images, first)]


# --- Shards of other programs


def test_written_by_webdataset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """JPEG with classes and texts; members that are not read are counted in the log."""
    caplog.set_level(logging.INFO)
    data = noise(7, 16)
    (tmp_path / "in").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "in" / "train-%04d.tar"), maxcount=3, verbose=0) as writer:
        for number, image in enumerate(data):
            writer.write(
                {
                    "__key__": f"faces/{number:03d}",
                    "jpg": coded(image, "jpeg", quality=95),
                    "cls": number % 3,
                    "json": {"age": 20 + number, "text": f"face {number}"},
                    "txt": "a caption",
                }
            )
    assert recognize(tmp_path / "in") == "webdataset"
    import_images(tmp_path / "in", tmp_path / "out.h5")
    expected = [np.asarray(Image.open(io.BytesIO(coded(one, "jpeg", quality=95)))).transpose(2, 0, 1) for one in data]
    np.testing.assert_array_equal(pixels(tmp_path / "out.h5")[0], expected)
    np.testing.assert_array_equal(np.load(tmp_path / "out-labels.npy"), np.eye(3)[np.arange(7) % 3])
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["photos/file"].asstr()[:].tolist() == [f"faces/{number:03d}.jpg" for number in range(7)]
        assert file["photos/age"][:].tolist() == list(range(20, 27))
        assert file["photos/text"].asstr()[6] == "face 6"
    assert "ignored 7 members that are not images, .json or .cls: 7 .txt" in caplog.text


def test_single_shard_with_folders(tmp_path: Path) -> None:
    """The tar has folders, names that begin with a dot and a slash, and hidden files."""
    data = noise(3, 8)
    folder = tmp_path / "faces" / "sub"
    folder.mkdir(parents=True)
    for name, image in zip("abc", data, strict=True):
        (folder / f"{name}.PNG").write_bytes(coded(image))
    (tmp_path / "faces" / ".hidden.png").write_text("none")
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        tar.add(tmp_path / "faces", arcname=".")
    assert recognize(tmp_path / "faces.tar") == "webdataset"
    found = read(tmp_path / "faces.tar")
    names = [one.name for one in found.images()]
    assert sorted(names) == ["sub/a.PNG", "sub/b.PNG", "sub/c.PNG"]
    in_order = [data["abc".index(name[4])] for name in names]
    np.testing.assert_array_equal([one.pixels for one in found.images()], in_order)


def test_equal_keys_in_several_shards(tmp_path: Path) -> None:
    """Shards are in the order of their numbers, and distinguish equal keys."""
    data = noise(12, 8)
    for number in range(12):
        shard(tmp_path / "in" / f"part{number}.tar", [("0.png", coded(data[number]))])
    found = read(tmp_path / "in")
    assert [one.name for one in found.images()] == [f"part{number}/0.png" for number in range(12)]
    np.testing.assert_array_equal([one.pixels for one in found.images()], data)


def test_large_comment_before_the_header(tmp_path: Path) -> None:
    """A JPEG can begin with long comments."""
    image = noise(1, 8)[0]
    plain = coded(image, "jpeg")
    comment = b"\xff\xfe\xff\xfd" + bytes(65531)
    shard(tmp_path / "in" / "0.tar", [("0.jpg", plain[:2] + 3 * comment + plain[2:])])
    (found,) = read(tmp_path / "in").images()
    np.testing.assert_array_equal(found.pixels, np.asarray(Image.open(io.BytesIO(plain))).transpose(2, 0, 1))


def test_resized_and_limited(tmp_path: Path) -> None:
    sizes = [(20, 33), (16, 16), (9, 8)]
    images = [np.random.default_rng(i).integers(0, 256, (3, *size), dtype=np.uint8) for i, size in enumerate(sizes)]
    shard(tmp_path / "in" / "0.tar", [(f"{i}.png", coded(one)) for i, one in enumerate(images)])
    import_images(tmp_path / "in", tmp_path / "out.h5", resize=16, limit=2)
    found = pixels(tmp_path / "out.h5")[0]
    middle = Image.fromarray(images[0].transpose(1, 2, 0)[:, 6:26]).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(found, [np.asarray(middle).transpose(2, 0, 1), images[1]])


def test_tar_beside_images(tmp_path: Path) -> None:
    shard(tmp_path / "in" / "0.tar", samples(noise(1, 8)))
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "sub" / "a.png").write_bytes(coded(noise(1, 8)[0]))
    assert recognize(tmp_path / "in") == "images"


# --- Faults of samples

PNG = coded(noise(1, 8)[0])


@pytest.mark.parametrize(
    ("members", "expected_text"),
    [
        ([("a.txt", b"")], "sample a has no image; expected one, as a.png: make the shard again"),
        ([("a.png", PNG), ("b.json", b"{}"), ("c.png", PNG)], "sample b has no image"),
        ([("a.png", PNG), ("a.jpg", PNG)], "sample a has the images a.png, a.jpg; expected one"),
        ([("a.png", PNG), ("b.png", PNG), ("a.png", PNG)], "holds 2 images named a.png"),
        ([("a.png", PNG), ("a.json", b"{}"), ("a.json", b"{}")], "a.json occurs twice in sample a"),
        ([("a.png", PNG), ("a.json", b"[1]")], "a.png (.json) is not a JSON object"),
        ([("a.png", PNG), ("a.json", b"{")], "a.png (.json) is not a JSON object"),
        ([("a.png", PNG), ("a.json", b"[" * 100_000)], "a.png (.json) is not a JSON object"),
        ([("a.png", PNG), ("a.json", b" " * (2**24 + 1))], "a.json has 16777217 bytes, expected at most 16777216"),
        ([("a.png", PNG), ("a.json", b'{"a/b": 1}')], "'a/b' cannot be the name of a column"),
        ([("a.png", PNG), ("a.cls", b"cat"), ("b.png", PNG), ("b.cls", b"1")], "the labels are neither one class"),
        ([("a.png", PNG), ("a.cls", b"-1")], "the labels are neither one class number"),
        ([("a.png", PNG), ("a.cls", b"1"), ("a.json", b'{"label": 2}')], "(.cls) is 1, the label in its .json 2"),
        ([("a.png", PNG), ("a.cls", b"1"), ("b.png", PNG)], "the labels are neither one class number"),
        ([("a.png", PNG), ("b.png", coded(noise(1, 16)[0]))], "0.tar: b.png is 16 x 16 px"),
        ([("a.png", PNG + bytes(2**21))], "a.png has 2097"),
        ([("a.png", PNG[:60])], "0.tar: a.png "),
        ([("a.png", b"no image")], "0.tar: a.png is not an image that can be read"),
        ([("a.png", PNG), ("a.json", b'{"file": "a", "sha256": "00"}')], "is not that of its metadata"),
        ([("notes", b"")], "holds no images; expected members ending in .jpg"),
        ([], "holds no images; expected members ending in .jpg"),
    ],
)
def test_bad_samples(members: list[tuple[str, bytes]], expected_text: str, tmp_path: Path) -> None:
    shard(tmp_path / "in" / "0.tar", members)
    assert expected_text in refused(tmp_path / "in")


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "a\\b.png", "a\nb.png"])
def test_names_outside_the_folder(name: str, tmp_path: Path) -> None:
    shard(tmp_path / "in" / "0.tar", [("a.png", PNG), (name, PNG)])
    assert "is not a relative path within a folder" in refused(tmp_path / "in")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_members_that_are_not_files(kind: bytes, tmp_path: Path) -> None:
    shard(tmp_path / "in" / "0.tar", [("a.png", PNG), ("b.png", b"")], type=kind, linkname="/etc/passwd")
    assert "in/0.tar" in (line := refused(tmp_path / "in"))
    assert "is not a plain file, but a link or the like" in line


def test_hidden_and_system_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    others = [("._a.png", b"x"), ("__MACOSX/._a.png", b"x"), ("@eaDir/a.png", PNG), (".trash/b.png", PNG), (".x", b"")]
    path = shard(tmp_path / "in" / "0.tar", [("a.png", PNG), *others])
    assert read(path).count == 1
    assert f"{path}: passed over 4 hidden or system files, such as ._a.png" in caplog.messages


@pytest.mark.parametrize(
    ("name", "start", "kind", "program"),
    [
        ("0.tar.bz2", b"BZh9", "bzip2", "bunzip2"),
        ("0.tar.xz", b"\xfd7zXZ\0", "xz", "unxz"),
        ("0.tar", b"\xfd7zXZ\0", "xz", "unxz"),
        ("0.tar.zst", b"(\xb5/\xfd", "zstd", "unzstd"),
    ],
)
def test_archives_of_other_compressions(name: str, start: bytes, kind: str, program: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(start + bytes(999))
    assert f"{name} is compressed by {kind}; unpack it first, with {program}" in refused(tmp_path / name)


# --- Damage that tarfile does not report


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return shard(tmp_path / "in" / "0.tar", samples(noise(9, 8)))


def test_cut_short_anywhere(archive: Path) -> None:
    """At every block; between two members, only the missing end shows it."""
    whole = archive.read_bytes()
    last = max(i for i in range(0, len(whole), 512) if any(whole[i : i + 512])) + 512
    for size in range(0, last + 512, 512):
        archive.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"0\.tar"):
            read(archive)
    archive.write_bytes(whole[: last + 1024])
    assert read(archive).count == 9


def test_damaged_header(archive: Path) -> None:
    flip(archive, archive.read_bytes().index(b"0004.png") + 1)
    assert "0.tar is damaged: at byte" in refused(archive.parent)


def test_an_extended_header_of_digits(tmp_path: Path) -> None:
    """Python's `tarfile` would look at each digit as often as there are digits, which takes minutes for a megabyte."""
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 1 << 20
    path = tmp_path / "set.tar"
    path.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"1" * header.size + bytes(1024))
    with pytest.raises(FormatError, match="it announces 1048576 bytes, expected at most 16384"):
        read(path)


def test_two_archives_in_one_file(archive: Path) -> None:
    archive.write_bytes(2 * archive.read_bytes())
    assert "0.tar continues after its end" in refused(archive.parent)


def test_compressed_by_gzip(tmp_path: Path) -> None:
    data = noise(5, 8)
    for number, images in enumerate((data[:3], data[3:])):
        plain = shard(tmp_path / f"{number}.tar", samples(images, 3 * number))
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert recognize(tmp_path / "in") == "webdataset"
    found = read(tmp_path / "in")
    np.testing.assert_array_equal([one.pixels for one in found.images()], data)


@pytest.mark.parametrize("at", [-1, -8, 200])
def test_damaged_gzip(at: int, tmp_path: Path) -> None:
    plain = shard(tmp_path / "0.tar", samples(noise(5, 8)))
    packed = tmp_path / "in" / "0.tar.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    flip(packed, at)
    assert "0.tar.gz cannot be read, or is cut short" in refused(tmp_path / "in")
    packed.write_bytes(packed.read_bytes()[:-9])
    assert "0.tar.gz cannot be read, or is cut short" in refused(tmp_path / "in")


def test_gzip_of_zeros(tmp_path: Path) -> None:
    zeros = gzip.compress(bytes(2**24), mtime=0)
    (tmp_path / "0.tar.gz").write_bytes(zeros * 20)
    assert "0.tar.gz unpacks to more than 268435456 bytes; it looks like a decompression bomb" in refused(
        tmp_path / "0.tar.gz"
    )


def test_sparse_tar(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", samples(noise(1, 8)))
    with (tmp_path / "0.tar").open("rb+") as file:
        file.truncate(30 << 30)
    assert "0.tar continues after its end" in refused(tmp_path / "0.tar")


def test_named_pipe(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "0.tar")
    assert "0.tar is not a regular file" in refused(tmp_path / "in")


def test_classes_that_are_words(tmp_path: Path) -> None:
    data = noise(3, 8)
    words = [b"male\n", b"female", b"male"]
    members = [(f"{i}.{kind}", one) for i in range(3) for kind, one in (("png", coded(data[i])), ("cls", words[i]))]
    found = read(shard(tmp_path / "0.tar", members))
    assert found.label_names == ("female", "male")
    np.testing.assert_array_equal(found.labels, [[0, 1], [1, 0], [0, 1]])


def test_hash_of_another_program(tmp_path: Path) -> None:
    """img2dataset stores the hash of the file that it downloaded."""
    image = coded(noise(1, 8)[0])
    found = read(shard(tmp_path / "0.tar", [("0.png", image), ("0.json", b'{"sha256": "00ff", "key": "0"}')]))
    assert found.metadata.columns == {"file_sha256": ["00ff"], "key": ["0"]}


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_text("no tar" * 1000)
    assert "0.tar is not a readable tar, or cut short" in refused(tmp_path / "in")


# --- Shards


def test_shard_that_is_missing(tmp_path: Path) -> None:
    for number, name in enumerate(("a-00.tar", "a-02.tar")):
        shard(tmp_path / "in" / name, samples(noise(1, 8), number))
    assert "in lacks number 01 of the set of a-00.tar; get or make it again" in refused(tmp_path / "in")


def test_shards_without_numbers(tmp_path: Path) -> None:
    for number, name in enumerate(("z.tar", "a.tar")):
        shard(tmp_path / "in" / name, samples(noise(1, 8), number))
    assert [one.name for one in read(tmp_path / "in").images()] == ["0001.png", "0000.png"]


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "in holds no files ending in .tar" in refused(tmp_path / "in", format="webdataset")


def test_changed_while_it_is_read(archive: Path) -> None:
    found = read(archive)
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(FormatError, match=r"0\.tar was changed while it was read; run the same command again"):
        list(found.images())
