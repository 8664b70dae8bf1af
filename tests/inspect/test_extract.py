"""An image comes out as it lies in the file, under its number, and never in place of another file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder import storage
from celebahq_builder.errors import DiskFull, FormatError
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.inspect import extract
from tests.hdf5.files import damage, levels_of, noise, store


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("resolution", [None, 16, 8, 1])
@pytest.mark.parametrize("columns", [{}, {"id": ["a", "b", "c", "d", "e"]}])
def test_pixels(channels: int, resolution: int | None, columns: dict[str, list[str]], tmp_path: Path) -> None:
    images = noise(5, 16, channels)
    path = store(tmp_path / "data.h5", images, **columns)
    expected = levels_of(images)[resolution or 16]
    with PyramidFile.with_images(path) as stored:
        written = extract.extract(stored, [3, 0], tmp_path / "deep" / "out", resolution)
    assert written == [tmp_path / "deep" / "out" / "00003.png", tmp_path / "deep" / "out" / "00000.png"]
    assert sorted(written) == sorted((tmp_path / "deep" / "out").iterdir())
    for file, number in zip(written, (3, 0), strict=True):
        with Image.open(file) as image:
            assert (image.format, image.mode) == ("PNG", "RGB" if channels == 3 else "L")
            pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1), expected[number])


def test_same_bytes_again(tmp_path: Path) -> None:
    with PyramidFile.with_images(store(tmp_path / "data.h5", noise(2, 16))) as stored:
        one, other = (extract.extract(stored, [1], tmp_path / name)[0].read_bytes() for name in "ab")
    assert one == other


def test_what_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "00001.png").write_text("mine")
    (out / "00002.png").symlink_to("nowhere")
    with PyramidFile.with_images(store(tmp_path / "data.h5", noise(4, 4))) as stored:
        with pytest.raises(FormatError, match=r"00001\.png exists, and 1 more; nothing is overwritten"):
            extract.extract(stored, [0, 1, 2, 3], out)
        assert sorted(one.name for one in out.iterdir()) == ["00001.png", "00002.png"]
        extract.extract(stored, [0, 3], out)
    assert (out / "00001.png").read_text() == "mine"
    assert sorted(one.name for one in out.iterdir()) == ["00000.png", "00001.png", "00002.png", "00003.png"]


@pytest.mark.parametrize("there", [False, True])
def test_nothing_remains_after_a_damaged_image(there: bool, tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", noise(4, 16))
    damage(path, 16, 2)
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
        (out / "mine").touch()
    with PyramidFile.with_images(path) as stored:
        with pytest.raises(FormatError, match=r"data\.h5: image 2 of data16x16 cannot be read: .*another copy"):
            extract.extract(stored, [0, 1, 2, 3], out)
        assert sorted(one.name for one in tmp_path.iterdir()) == (["data.h5", "deep"] if there else ["data.h5"])
        if there:
            assert [one.name for one in out.iterdir()] == ["mine"]
        assert len(extract.extract(stored, [0, 1, 3], out)) == 3


@pytest.mark.parametrize("error", [DiskFull("full"), KeyboardInterrupt()])
def test_nothing_remains_when_it_is_stopped(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = storage.write_atomic

    def stopped(path: Path, data: bytes, **asked: bool) -> None:
        if path.name == "00002.png":
            raise error
        real(path, data, **asked)

    monkeypatch.setattr(storage, "write_atomic", stopped)
    with PyramidFile.with_images(store(tmp_path / "data.h5", noise(4, 4))) as stored, pytest.raises(type(error)):
        extract.extract(stored, range(4), tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["data.h5"]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with PyramidFile.with_images(store(tmp_path / "data.h5", noise(1, 4))) as stored:
        for out in (tmp_path / "out", tmp_path / "out" / "below"):
            with pytest.raises(FormatError, match=r"cannot be written: (File exists|Not a directory); choose another"):
                extract.extract(stored, [0], out)
    assert (tmp_path / "out").read_text() == "mine"


def test_level_that_is_not_there(tmp_path: Path) -> None:
    with PyramidFile.with_images(store(tmp_path / "data.h5", noise(1, 4))) as stored:
        with pytest.raises(FormatError, match="has no level 8x8; it has 4, 2, 1: ask for one of these"):
            extract.extract(stored, [0], tmp_path / "out", 8)
        assert not (tmp_path / "out").exists()
