"""Reading of CIFAR-10: both versions, damage, and hostile pickles."""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import cifar10
from celebahq_builder.image_set import DataSet
from tests.formats.files import cut, flip

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_BATCH = 7

Rows = NDArray[np.uint8]


def rows(batch: int, count: int = PER_BATCH) -> tuple[list[int], Rows]:
    """Return classes and pixels [n, 3072] of a batch."""
    rng = np.random.default_rng(batch)
    return rng.integers(0, 10, count).tolist(), rng.integers(0, 256, (count, 3072), dtype=np.uint8)


def of_python_2(classes: list[int], pixels: Rows) -> bytes:
    """Return a pickle as cPickle of Python 2 wrote it with protocol 2: text as byte strings, numpy of that time."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    data = pixels.tobytes()
    kind = b"cnumpy\ndtype\nq\x0a" + text(b"u1") + number(0) + number(1) + b"\x87Rq\x0b"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08" + number(0) + b"\x85"
    array += text(b"b") + b"\x87Rq\x09(" + number(1) + number(len(pixels)) + number(3072) + b"\x86" + kind
    array += b"\x89" + text(data) + b"tb"
    label_list = b"]q\x05(" + b"".join(number(value) for value in classes) + b"e"
    files = b"]q\x0c(" + b"".join(text(b"cat_s_%06d.png" % i) for i in range(len(classes))) + b"e"
    table = text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + label_list
    table += text(b"data") + array + text(b"filenames") + files
    return b"\x80\x02}q\x01(" + table + b"u."


def meta_of_python_2() -> bytes:
    """Return batches.meta, a pickle of protocol 0."""
    names = "".join(f"S'{name}'\np{i + 5}\na" for i, name in enumerate(NAMES))
    return (
        f"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'label_names'\np3\n(lp4\n{names}sS'num_vis'\np15\nI3072\ns."
    ).encode()


def python_files() -> dict[str, bytes]:
    batches = {f"data_batch_{i}": of_python_2(*rows(i)) for i in range(1, 6)}
    return {**batches, "test_batch": of_python_2(*rows(6)), "batches.meta": meta_of_python_2(), "readme.html": b"<a>"}


def binary_files() -> dict[str, bytes]:
    def coded(classes: list[int], pixels: Rows) -> bytes:
        return b"".join(bytes([value]) + row.tobytes() for value, row in zip(classes, pixels, strict=True))

    batches = {f"data_batch_{i}.bin": coded(*rows(i)) for i in range(1, 6)}
    names = ("\n".join(NAMES) + "\n\n").encode()
    return {**batches, "test_batch.bin": coded(*rows(6)), "batches.meta.txt": names, "readme.html": b"<a>"}


def folder(at: Path, files: dict[str, bytes]) -> Path:
    at.mkdir(parents=True)
    for name, data in files.items():
        (at / name).write_bytes(data)
    return at


def archive(at: Path, top: str, files: dict[str, bytes]) -> Path:
    """Pack files in another order than that of their names, as in the published archive."""
    with tarfile.open(at, "w:gz") as packed:
        for name in sorted(files, key=lambda name: name[::-1]):
            about = tarfile.TarInfo(f"{top}/{name}")
            about.size = len(files[name])
            packed.addfile(about, io.BytesIO(files[name]))
    return at


@pytest.fixture
def python_folder(tmp_path: Path) -> Path:
    return folder(tmp_path / "cifar-10-batches-py", python_files())


@pytest.fixture
def binary_folder(tmp_path: Path) -> Path:
    return folder(tmp_path / "cifar-10-batches-bin", binary_files())


def check(found: DataSet) -> None:
    expected = [rows(i) for i in range(1, 6)]
    images = list(found.images())
    assert (found.count, found.resolution, found.channels, len(images)) == (len(expected) * 7, 32, 3, found.count)
    pixels = np.concatenate([pixels for _, pixels in expected])
    for image, row in zip(images, pixels, strict=True):
        assert image.pixels.shape == (3, 32, 32)
        assert image.pixels[1, 2, 3] == row[1024 + 2 * 32 + 3]  # planes of red, green, blue; rows from the top
        assert image.pixels.tobytes() == row.tobytes()
        assert image.pixels.flags.writeable  # torch warns of others
    classes = [value for values, _ in expected for value in values]
    assert found.labels.dtype == np.float32
    assert found.labels.shape == (found.count, 10)
    assert found.labels.argmax(axis=1).tolist() == classes
    assert (found.labels.sum(axis=1) == 1).all()
    assert found.label_names == NAMES
    names = [image.name for image in images]
    assert len(set(names)) == len(names)
    assert names[0] == "data_batch_1/00000"


@pytest.mark.parametrize("version", ["py", "bin"])
@pytest.mark.parametrize("packed", ["folder", "parent", "archive"])
def test_folder_parent_folder_and_archive(version: str, packed: str, tmp_path: Path) -> None:
    top = f"cifar-10-batches-{version}"
    files = python_files() if version == "py" else binary_files()
    path = tmp_path / "cifar.tar.gz"
    if packed == "archive":
        archive(path, top, files)
    else:
        path = folder(tmp_path / top, files)
    check(cifar10.read(tmp_path if packed == "parent" else path, per_batch=PER_BATCH))


def test_pickles_of_python_3(tmp_path: Path) -> None:
    """Python 3 writes the same dict with bytes in place of text."""
    for protocol in (2, 3, 4, 5):
        files = {"batches.meta": pickle.dumps({"label_names": list(NAMES)}, protocol)}
        for i in range(1, 6):
            classes, pixels = rows(i)
            files[f"data_batch_{i}"] = pickle.dumps({"labels": classes, "data": pixels}, min(protocol, 4))
        check(cifar10.read(folder(tmp_path / str(protocol), files), per_batch=PER_BATCH))


def test_published_size(tmp_path: Path) -> None:
    """Each batch has exactly 10,000 rows, as published."""
    row = bytes([3]) + bytes(range(256)) * 12
    files = {f"data_batch_{i}.bin": row * 10_000 for i in range(1, 6)}
    path = folder(tmp_path / "bin", {**files, "batches.meta.txt": "\n".join(NAMES).encode()})
    found = cifar10.read(path)
    assert found.count == 50_000
    assert found.labels[:, 3].sum() == 50_000
    (path / "data_batch_2.bin").write_bytes(row * 9_999)
    with pytest.raises(FormatError, match=r"data_batch_2\.bin: expected 30730000 bytes, .* got 30726927 bytes"):
        cifar10.read(path)


# --- Files that are wrong


def fails(path: Path, *parts: str) -> str:
    with pytest.raises(FormatError) as error:
        cifar10.read(path, per_batch=PER_BATCH)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(path), "https://www.cs.toronto.edu/~kriz/cifar.html", *parts):
        assert part in message
    return message


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta", "data_batch_1"])
def test_missing_file(name: str, python_folder: Path, binary_folder: Path) -> None:
    (python_folder / name).unlink()
    fails(python_folder, f"it lacks {name}, and has ")
    name = f"{name}.txt" if name == "batches.meta" else f"{name}.bin"
    (binary_folder / name).unlink()
    fails(binary_folder, f"it lacks {name.removesuffix('.bin')}" if "_1." in name else f"it lacks {name}")


def test_other_folders(tmp_path: Path) -> None:
    fails(tmp_path, "it lacks data_batch_1, and has none of CIFAR-10's files")
    fails(tmp_path / "nowhere", "does not exist")
    folder(tmp_path / "cifar-100-python", {"train": b"", "test": b"", "meta": b""})
    fails(tmp_path / "cifar-100-python", "it lacks data_batch_1")


@pytest.mark.parametrize("change", [-1, 1, -3073, 3073, 10_000_000])
def test_wrong_size(change: int, binary_folder: Path) -> None:
    file = binary_folder / "data_batch_4.bin"
    data = file.read_bytes()
    file.write_bytes(data[:change] if change < 0 else data + bytes(change))
    if change == 10_000_000:
        fails(binary_folder, "data_batch_4.bin cannot be read: 10021511 bytes; at most 2021511 are read")
    else:
        fails(binary_folder, "data_batch_4.bin: expected 21511 bytes, 7 rows of 3073, got ")


def test_wrong_class(python_folder: Path, binary_folder: Path) -> None:
    classes, pixels = rows(1)
    (python_folder / "data_batch_1").write_bytes(of_python_2([*classes[:-1], 10], pixels))
    fails(python_folder, "data_batch_1, row 6: expected a class of 0 to 9, got 10")
    data = bytearray((binary_folder / "data_batch_1.bin").read_bytes())
    data[2 * 3073] = 255
    (binary_folder / "data_batch_1.bin").write_bytes(data)
    fails(binary_folder, "row 2: expected a class of 0 to 9, got 255")


def test_wrong_counts(python_folder: Path) -> None:
    classes, pixels = rows(1)
    batch = python_folder / "data_batch_1"
    batch.write_bytes(of_python_2(classes[:-1], pixels))
    fails(python_folder, "expected data [7, 3072] and 7 labels, got [7, 3072] and 6")
    batch.write_bytes(of_python_2(classes[:-1], pixels[:-1]))
    fails(python_folder, "got [6, 3072] and 6")
    batch.write_bytes(pickle.dumps({b"fine_labels": classes, b"data": pixels}, 2))
    fails(python_folder, "expected data and labels, got data, fine_labels")
    batch.write_bytes(pickle.dumps({b"labels": classes, b"data": pixels.astype(np.float32)}, 2))
    fails(python_folder, "not of bytes in C order")
    batch.write_bytes(pickle.dumps({b"labels": classes, b"data": np.asfortranarray(pixels)}, 2))
    fails(python_folder, "not of bytes in C order")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_truncated(share: float, python_folder: Path, tmp_path: Path) -> None:
    cut(python_folder / "data_batch_5", share)
    fails(python_folder, "data_batch_5 is not a pickle of CIFAR-10")
    packed = archive(tmp_path / "cifar.tar.gz", "cifar-10-batches-py", python_files())
    cut(packed, min(share, 0.9))
    fails(packed, "cut short" if share else "is not an archive of CIFAR-10")


def test_other_archives(tmp_path: Path) -> None:
    text = tmp_path / "cifar-10-python.tar.gz"
    text.write_text("404 not found")
    fails(text, "is not an archive of CIFAR-10")
    fails(archive(tmp_path / "other.tar.gz", "cifar-100-python", {"train": b"1"}), "it lacks data_batch_1")


def test_meta_without_names(python_folder: Path, binary_folder: Path) -> None:
    (python_folder / "batches.meta").write_bytes(pickle.dumps({b"num_vis": 3072}, 2))
    fails(python_folder, "batches.meta: expected the names of 10 classes, got 0")
    (binary_folder / "batches.meta.txt").write_text("airplane\n")
    fails(binary_folder, "batches.meta.txt: expected the names of 10 classes, got 1")


# --- Pickles that do something


class Attack:
    """An object that is pickled as a call."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_not_run(protocol: int, python_folder: Path, tmp_path: Path) -> None:
    import os

    trace = tmp_path / "trace"
    attack = pickle.dumps({b"labels": Attack(os.system, f"touch {trace}"), b"data": 1}, protocol)
    pickle.loads(attack)
    assert trace.exists()  # the attack is one
    trace.unlink()
    for name in ("data_batch_2", "batches.meta"):
        sound = (python_folder / name).read_bytes()
        (python_folder / name).write_bytes(attack)
        message = fails(python_folder, f"{name} is not a pickle of CIFAR-10: it names ", ".system")
        assert "it may be an attack" in message
        (python_folder / name).write_bytes(sound)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["builtins eval", "builtins getattr", "numpy load", "numpy.core.multiarray scalar"])
def test_other_names_in_pickles(name: str) -> None:
    module, function = name.split()
    with pytest.raises(ValueError, match=f"it names {module}.{function}"):
        cifar10.read_pickle(f"c{module}\n{function}\n.".encode())


def test_memory_bomb() -> None:
    """In Python's own reader, the largest index decides the size of the memo: 34 GB here."""
    assert cifar10.read_pickle(b"\x80\x02}r\xff\xff\xff\x7f.") == {}


def test_one_text_many_times(python_folder: Path) -> None:
    """A call for each of many references to one text would need 3000 times its size; the message stays short."""
    text = b"a" * 2**20
    start = b"\x80\x02}(X" + struct.pack("<I", len(text)) + text + b"q\0X\x06\0\0\0latin1q\1X\1\0\0\0l]("
    (python_folder / "data_batch_1").write_bytes(start + b"c_codecs\nencode\nh\0h\1\x86R" * 3000 + b"eu.")
    assert len(fails(python_folder, "is not a pickle of CIFAR-10: one text many times")) < 500


def test_key_whose_hash_takes_forever() -> None:
    nested = b"}" + b")" + b"q\0h\0\x86" * 200 + b"K\1s."
    with pytest.raises(ValueError, match="a dict whose keys are not texts or numbers"):
        cifar10.read_pickle(nested)


def test_too_many_steps() -> None:
    with pytest.raises(ValueError, match="more than 200000 steps"):
        cifar10.read_pickle(b"}]" + b"]" * 200_000)


@pytest.mark.parametrize("kind", [b"0", b"x", b"L"], ids=["file", "extended header", "long name"])
@pytest.mark.parametrize("size", [2**62, 2**34, -(2**40)])
def test_sizes_of_members(size: int, kind: bytes, tmp_path: Path) -> None:
    header = tarfile.TarInfo("cifar-10-batches-py/readme.html")
    header.size, header.type = max(size, 0), kind
    raw = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        raw[124:136] = b"\xff" + (2**88 + size).to_bytes(11, "big")
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(bytes(raw) + bytes(1024)))
    fails(path, "is not an archive of CIFAR-10, or cut short")


def test_damaged_archive(tmp_path: Path) -> None:
    """The CRC of gzip is verified, also where it belongs to a file that is not used."""
    path = archive(tmp_path / "cifar.tar.gz", "cifar-10-batches-py", python_files())
    flip(path, -8)
    fails(path, "CRC check failed")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        b"].",
        b"\x80\x02}.}",
        b"cnumpy\nndarray\n}b.",
        b"c_codecs\nencode\n(K\x01K\x02tR.",
        b"}U\x01a(cnumpy.core.multiarray\n_reconstruct\n)RN.",
        b"}U\x01acnumpy.core.multiarray\n_reconstruct\n)Rs.",
        b"\x80\x02}U\x04data\x8a\xff.",
    ],
)
def test_damaged_pickles(data: bytes) -> None:
    """Every damage raises a ValueError without using much memory."""
    if data == b"\x80\x02}.}":
        assert cifar10.read_pickle(data) == {}
        return
    with pytest.raises(ValueError, match="."):
        cifar10.read_pickle(data)
