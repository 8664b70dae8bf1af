"""Writer of HDF5 files: chunks, layout, unfinished files, errors."""

import errno
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from celebahq_builder.errors import DiskFull, FormatError, WorkspaceError
from celebahq_builder.hdf5 import CHUNK_BYTES, CHUNK_IMAGES, images_per_chunk, images_per_job
from celebahq_builder.hdf5.codecs import GZIP, Gzip
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.hdf5.writer import Columns, PyramidWriter, pack
from celebahq_builder.imaging.pyramid import build_pyramid
from celebahq_builder.storage import is_partial_of, partial_path
from tests.hdf5.files import hashes, noise, ours
from tests.reference import theano_reader


@pytest.mark.parametrize(("count", "resolution"), [(1023, 2), (1025, 2), (2500, 1), (700, 64), (3, 1024)])
def test_chunks_across_jobs(count: int, resolution: int, tmp_path: Path) -> None:
    """A chunk of the smallest levels spans many jobs, and the last chunk is not full."""
    data = noise(count, resolution)
    for expected, found in zip(build_pyramid(data), theano_reader.read(ours(tmp_path / "data.h5", data)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_layout_of_the_theano_tool(tmp_path: Path) -> None:
    """Dataset names, shapes, growth along N, type and compression equal those of the Theano tool's files."""
    with h5py.File(ours(tmp_path / "data.h5", noise(3, 64))) as file:
        levels_found = [key for key in file if key.startswith("data")]
        assert sorted(levels_found) == sorted(f"data{r}x{r}" for r in (64, 32, 16, 8, 4, 2, 1))
        for r in (64, 32, 16, 8, 4, 2, 1):
            data = file[f"data{r}x{r}"]
            assert (data.shape, data.maxshape, data.dtype) == ((3, 3, r, r), (None, 3, r, r), np.uint8)
            assert (data.compression, data.compression_opts, data.chunks[1:]) == ("gzip", 4, (3, r, r))
        assert set(file) - set(levels_found) == {"photos"}


def test_plain_h5py_is_enough(tmp_path: Path) -> None:
    """Three lines read a face in a process without this package and without plugins."""
    data = noise(5, 64)
    path = ours(tmp_path / "data.h5", data)
    code = (
        "import sys; sys.modules['celebahq_builder'] = sys.modules['hdf5plugin'] = None\n"
        f"import h5py\nwith h5py.File({str(path)!r}) as file:\n"
        "    sys.stdout.buffer.write(file['data32x32'][3].tobytes())"
    )
    none = str(tmp_path / "no plugins")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={"HDF5_PLUGIN_PATH": none}, check=True)
    assert done.stdout == build_pyramid(data)[1][3].tobytes()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [2**k for k in range(12)])
def test_chunks_and_jobs_divide_each_other(resolution: int, channels: int) -> None:
    size, at_once = images_per_chunk(resolution, channels), images_per_job(resolution, channels)
    for number in (size, at_once):
        assert 1 <= number <= CHUNK_IMAGES
        assert number & (number - 1) == 0
    assert size == 1 or size * channels * resolution**2 <= CHUNK_BYTES
    assert 2 * size > CHUNK_IMAGES or 2 * size * channels * resolution**2 > CHUNK_BYTES
    assert at_once >= size


def test_packing_does_not_depend_on_memory_layout() -> None:
    data = noise(7, 16)
    together = pack(list(data), 16, 3, GZIP)
    assert pack(iter(data), 16, 3, GZIP).sha256 == together.sha256 == hashes(data)
    turned = np.ascontiguousarray(data.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    for a, b in zip(together.levels, pack(turned, 16, 3, GZIP).levels, strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b)


def test_same_bytes_when_written_twice(tmp_path: Path) -> None:
    data = noise(40, 16)
    first, second = ours(tmp_path / "first.h5", data), ours(tmp_path / "second.h5", data)
    assert first.read_bytes() == second.read_bytes()
    assert ours(tmp_path / "third.h5", noise(40, 16, seed=1)).read_bytes() != first.read_bytes()


# --- Unfinished files -------------------------------------------------------------------------------------------


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_partial_of(path.name, "data.h5")]


def test_the_name_is_given_at_the_end(tmp_path: Path) -> None:
    path, data = tmp_path / "data.h5", noise(2, 8)
    with PyramidWriter(path, count=2, resolution=8, channels=3, codec=GZIP) as writer:
        writer.write(pack(data, 8, 3, GZIP))
        assert list(tmp_path.iterdir()) == partial_files(tmp_path)
        writer.finish({}, {})
        assert list(tmp_path.iterdir()) == [path]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_remains_after_an_error(error: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> None:
        with PyramidWriter(tmp_path / "data.h5", count=2, resolution=8, channels=3, codec=GZIP) as writer:
            writer.write(pack(noise(2, 8), 8, 3, GZIP))
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_nothing_remains_if_no_level_can_be_made(tmp_path: Path) -> None:
    class Broken(Gzip):
        @property
        def keywords(self) -> dict[str, object]:
            return {"compression": "gzip", "compression_opts": 99}

    with pytest.raises(ValueError, match="99"):
        PyramidWriter(tmp_path / "data.h5", count=2, resolution=8, channels=3, codec=Broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("back", [False, True])
def test_a_partial_file_that_vanishes(back: bool, tmp_path: Path) -> None:
    """The loss is reported, and another program's file in its place is neither renamed nor deleted."""

    def vanishing() -> None:
        with PyramidWriter(tmp_path / "data.h5", count=2, resolution=8, channels=3, codec=GZIP) as writer:
            writer.write(pack(noise(2, 8), 8, 3, GZIP))
            (partial,) = partial_files(tmp_path)
            partial.unlink()
            if back:
                partial.write_text("theirs")
            writer.finish({}, {})

    with pytest.raises(FormatError, match=r"\.partial was (deleted|replaced) while it was written"):
        vanishing()
    assert [path.read_text() for path in tmp_path.iterdir()] == (["theirs"] if back else [])


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    link = partial_path(tmp_path / "data.h5")
    link.symlink_to("theirs")
    with pytest.raises(FormatError, match=r"\.partial exists and is a link; delete it"):
        ours(tmp_path / "data.h5", noise(2, 8))
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert link.is_symlink()


def test_finished_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    path = ours(tmp_path / "data.h5", noise(5, 8))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="stop"), PyramidWriter(path, count=2, resolution=8, channels=3, codec=GZIP):
        raise ValueError("stop")
    assert path.read_bytes() == before


# --- Errors -----------------------------------------------------------------------------------------------------


def announce(path: Path, count: int, columns: Columns | None = None) -> None:
    with PyramidWriter(path, count=count, resolution=8, channels=3, codec=GZIP) as writer:
        writer.write(pack(noise(3, 8), 8, 3, GZIP))
        writer.finish(columns or {}, {})


@pytest.mark.parametrize("count", [2, 4])
def test_other_number_of_images_than_announced(count: int, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=rf"data\.h5: expected {count} images, got 3"):
        announce(tmp_path / "data.h5", count)
    assert list(tmp_path.iterdir()) == []


def test_column_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"data\.h5: column score has 2 rows, expected 3"):
        announce(tmp_path / "data.h5", 3, {"score": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image", [np.zeros((3, 8, 4), np.uint8), np.zeros((1, 8, 8), np.uint8), np.zeros((3, 8, 8))])
def test_image_of_another_kind(image: NDArray[np.uint8]) -> None:
    with pytest.raises(FormatError, match=r"an image is .* of shape .*, expected uint8 of \[3, 8, 8\]"):
        pack([image], 8, 3, GZIP)


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    """The second writer is refused, and the file of the first one is complete."""
    path = tmp_path / "made.h5"
    writer = PyramidWriter(path, count=1, resolution=4, channels=3, codec=GZIP)
    with pytest.raises(FormatError, match=r"made\.h5 is being written by another process"):
        PyramidWriter(path, count=2, resolution=8, channels=3, codec=GZIP)
    with writer:
        writer.write(pack([np.full((3, 4, 4), 7, np.uint8)], 4, 3, GZIP))
        writer.finish({}, {})
    with PyramidFile(path) as file:
        assert (file.count, file.resolution) == (1, 4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (
            RuntimeError("Can't write data (errno = 28, error message = 'No space left on device')"),
            DiskFull,
            "no space",
        ),
        (RuntimeError("Unable to flush (error message = 'Disk quota exceeded')"), DiskFull, "no space left to write"),
        (OSError(errno.EIO, "Input/output error"), WorkspaceError, "Input/output error"),
        (RuntimeError("another error"), RuntimeError, "^another error$"),
    ],
)
def test_errors_while_writing(
    error: Exception, raised: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 reports a full disk in the text of its errors only."""

    def fails(*_: object, **__: object) -> None:
        raise error

    path = tmp_path / "data.h5"
    with PyramidWriter(path, count=3, resolution=4, channels=3, codec=GZIP) as writer:
        writer.write(pack(noise(3, 4), 4, 3, GZIP))
        monkeypatch.setattr(h5py.Group, "create_dataset", fails)
        with pytest.raises(raised, match=says):
            writer.finish({"score": np.zeros(3)}, {})
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
