"""Image sets written to HDF5: complete and unchanged, or not at all."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import codec
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import Labels, NamedImage, Pixels
from celebahq_builder.imaging.pyramid import build_pyramid
from celebahq_builder.storage import HOST, is_partial_of, partial_path
from tests.reference import theano_reader


@dataclass
class Arrays:
    """An image set in memory."""

    pixels: Pixels
    labels: Labels | None = None
    label_names: tuple[str, ...] = ()
    names: list[str] = field(default_factory=list)
    count: int = -1

    def __post_init__(self) -> None:
        self.channels, self.resolution = self.pixels.shape[1:3]
        self.names = self.names or [f"{i % 10}/{i}.png" for i in range(len(self.pixels))]
        self.count = len(self.pixels) if self.count < 0 else self.count

    def images(self) -> Iterator[NamedImage]:
        yield from map(NamedImage, self.pixels, self.names)


def arrays(images: int, resolution: int, channels: int = 3, **more: object) -> Arrays:
    shape = (images, channels, resolution, resolution)
    return Arrays(np.random.default_rng(images).integers(0, 256, shape, dtype=np.uint8), **more)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("count", "resolution", "channels"), [(700, 64, 3), (2100, 32, 1), (3, 512, 3), (1, 1, 1)])
def test_file_holds_the_image_set(count: int, resolution: int, channels: int, tmp_path: Path) -> None:
    data, path = arrays(count, resolution, channels), tmp_path / "data.h5"
    advanced: list[int] = []
    write_images(data, path, attributes={"source": "arrays", "list": [1]}, advance=advanced.append)
    assert sum(advanced) == count
    for expected, found in zip(build_pyramid(data.pixels), theano_reader.read(path), strict=True):
        np.testing.assert_array_equal(found, expected)
    with PyramidFile(path) as file:
        assert list(file.problems()) == []
        assert file.photos.get("file") == data.names
        assert file.photos.get("sha256") == [hashlib.sha256(image.tobytes()).hexdigest() for image in data.pixels]
        assert file.file.attrs["source"] == "arrays"
        assert json.loads(file.file.attrs["list"]) == [1]
    assert files(tmp_path) == ["data.h5"]


@pytest.mark.parametrize(("name", "numbers"), [("gzip", (1, 2, 3)), ("blosc2", (1, 2))])
def test_same_bytes_for_any_number_of_workers(name: str, numbers: tuple[int, ...], tmp_path: Path) -> None:
    data = arrays(600, 64)
    for workers in numbers:
        write_images(data, tmp_path / f"{workers}.h5", codec=codec(name), workers=workers)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_labels_and_columns(tmp_path: Path) -> None:
    labels = np.eye(4, dtype=np.float32)[[0, 3, 1, 1, 2]]
    data, path = arrays(5, 8, labels=labels, label_names=("a", "b", "c", "é")), tmp_path / "set.v1.h5"
    write_images(data, path, columns={"split": ["train"] * 5, "weight": np.arange(5.0)})
    found = np.load(tmp_path / "set.v1-labels.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, labels)
    with PyramidFile(path) as file:
        assert file.photos.get("label_names") == ["a", "b", "c", "é"]
        assert file.photos.get("split") == ["train"] * 5
        np.testing.assert_array_equal(file.photos.get("weight"), np.arange(5.0))


# --- Errors and kills --------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    path.write_bytes(b"mine")
    with pytest.raises(FormatError, match=r"data\.h5 exists already; choose another `out`"):
        write_images(arrays(2, 4), path)
    assert path.read_bytes() == b"mine"
    assert files(tmp_path) == ["data.h5"]


def test_only_equal_labels_are_overwritten(tmp_path: Path) -> None:
    path, labels = tmp_path / "data.h5", np.eye(2, dtype=np.float32)
    beside = tmp_path / "data-labels.npy"
    np.save(beside, labels[::-1])
    with pytest.raises(FormatError, match=r"data-labels\.npy exists already, with other labels"):
        write_images(arrays(2, 4, labels=labels), path)
    assert files(tmp_path) == ["data-labels.npy"]
    np.save(beside, labels)
    partial_path(beside, token="0f").touch()  # of a command that was killed
    write_images(arrays(2, 4, labels=labels), path)
    assert files(tmp_path) == ["data-labels.npy", "data.h5"]


@pytest.mark.parametrize("there", [True, False])
def test_labels_of_an_unfinished_file(there: bool, tmp_path: Path) -> None:
    """They are deleted again, unless they existed before."""
    path, labels = tmp_path / "data.h5", np.eye(2, dtype=np.float32)
    beside = tmp_path / "data-labels.npy"
    if there:
        np.save(beside, labels)
        before = beside.stat()
    with pytest.raises(FormatError, match="column split has 1 rows, expected 2"):
        write_images(arrays(2, 4, labels=labels), path, columns={"split": ["train"]})
    assert files(tmp_path) == (["data-labels.npy"] if there else [])
    if there:
        after = beside.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"data\.h5 cannot be written: .*nowhere is not a writable folder"):
        write_images(arrays(2, 4), tmp_path / "nowhere" / "data.h5")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 4}, "expected 4 images, got 5"),
        ({"count": 6}, "expected 6 images, got 5"),
        ({"labels": np.zeros((4, 2), np.float32)}, r"labels for .* have shape \[4, 2\], expected \[5, classes\]"),
    ],
)
def test_wrong_count_or_labels(workers: int, wrong: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        write_images(arrays(5, 8, **wrong), tmp_path / "data.h5", workers=workers)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": ["train"] * 4}, "column split has 4 rows, expected 5"),
        ({"sha256": [""] * 5}, r"column sha256 of .*data\.h5 is written from the images themselves"),
    ],
)
def test_wrong_columns(columns: dict, message: str, tmp_path: Path) -> None:
    labels = np.ones((5, 1), np.float32)
    with pytest.raises(FormatError, match=message):
        write_images(arrays(5, 8, labels=labels), tmp_path / "data.h5", columns=columns)
    assert files(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_reader_that_fails_midway(workers: int, tmp_path: Path) -> None:
    class Truncated(Arrays):
        def images(self) -> Iterator[NamedImage]:
            yield from list(super().images())[:3]
            raise FormatError("bad.zip: entry 3 is cut short")

    with pytest.raises(FormatError, match=r"^bad\.zip: entry 3 is cut short$"):
        write_images(Truncated(arrays(5, 1024, 1).pixels), tmp_path / "data.h5", workers=workers)
    assert files(tmp_path) == []


def test_image_of_another_shape(tmp_path: Path) -> None:
    data = arrays(2, 8)
    data.resolution = 4
    with pytest.raises(FormatError, match=r"0/0\.png is uint8 of shape \[3, 8, 8\], expected uint8 of \[3, 4, 4\]"):
        write_images(data, tmp_path / "data.h5")
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["caf\udce9.jpg", "a\0b.jpg"])
def test_name_that_hdf5_cannot_hold(name: str, tmp_path: Path) -> None:
    data = arrays(2, 8, names=["é.jpg", name])
    with pytest.raises(FormatError, match=r"file '.*\.jpg' cannot be stored in HDF5, which takes UTF-8 without NUL"):
        write_images(data, tmp_path / "data.h5")
    assert files(tmp_path) == []


def test_partial_files(tmp_path: Path) -> None:
    """Those of dead processes of this host are deleted; those of other hosts and other programs stay."""
    data, dead = arrays(5, 8), 2**22 + 1  # above the largest process id of Linux
    theirs = [".data.h5.other_0123abcd-1-0123abcd.partial", "data.h5.partial"]
    for name in (*theirs, f".data.h5.{HOST}-{dead}-0123abcd.partial"):
        (tmp_path / name).write_bytes(b"half")
    write_images(data, tmp_path / "data.h5")
    assert files(tmp_path) == [theirs[0], "data.h5", "data.h5.partial"]
    assert {(tmp_path / name).read_bytes() for name in theirs} == {b"half"}


def test_shape_of_the_file(tmp_path: Path) -> None:
    write_images(arrays(3, 4, 1), tmp_path / "data.h5")
    with h5py.File(tmp_path / "data.h5") as file:
        assert {name: item.shape for name, item in file.items() if name.startswith("data")} == {
            f"data{r}x{r}": (3, 1, r, r) for r in (4, 2, 1)
        }


KILLED = """
import os, signal, sys
from pathlib import Path
from celebahq_builder.hdf5 import writer as hdf5_writer
from celebahq_builder.hdf5.create import write_images as write_images
from tests.hdf5.test_create import arrays

class Killed(hdf5_writer.PyramidWriter):
    def write(self, *args):
        if self.done == 32:
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(*args)

sys.modules["celebahq_builder.hdf5.create"].PyramidWriter = Killed
write_images(arrays(40, 256), Path(sys.argv[1]), workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_run_again(workers: int, tmp_path: Path) -> None:
    """After SIGKILL, with images stored already, the partial file is unreadable, and the next run replaces it."""
    path = tmp_path / "data.h5"
    command = [sys.executable, "-c", KILLED, str(path), str(workers)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (left,) = tmp_path.iterdir()
    assert is_partial_of(left.name, "data.h5")
    with pytest.raises(FormatError, match="is not an? (readable )?HDF5 file|lacks|has no datasets"):
        PyramidFile(left)
    write_images(arrays(40, 256), path)
    write_images(arrays(40, 256), tmp_path / "whole.h5")
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert files(tmp_path) == ["data.h5", "whole.h5"]


def test_a_published_file_is_never_written_to(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    write_images(arrays(3, 8), path)
    path.chmod(0o444)
    with pytest.raises(FormatError, match="exists already"):
        write_images(arrays(3, 8), path)
    with PyramidFile(path) as file:
        assert file.file.mode == "r"


def test_keys_of_attributes_are_sorted(tmp_path: Path) -> None:
    """The bytes of a file do not depend on the order in which a table was made."""
    write_images(arrays(3, 4), tmp_path / "data.h5", attributes={"recipe": {"b": 1, "a": [2]}})
    with h5py.File(tmp_path / "data.h5") as file:
        assert file.attrs["recipe"] == '{"a": [2], "b": 1}'
