"""Commands on a file with Blosc2 chunks, with and without the package of the filter."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.hdf5.reader import PyramidFile, open_pyramid
from tests.formats.files import run, save, to_pil
from tests.hdf5.files import damage, noise

pytest.importorskip("hdf5plugin")

UNKNOWN = 256
"""Filter number that The HDF Group reserves for tests."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blosc2")
    for i, image in enumerate(noise(3, 16)):
        save(folder / "in" / f"{i}.png", to_pil(image))
    import_images(folder / "in", folder / "data.h5", compression="blosc2")
    return folder / "data.h5"


def test_verify(path: Path, tmp_path: Path) -> None:
    code, told, err = run("verify", path)
    assert (code, err, told.splitlines()[-1]) == (0, "", f"{path}: OK")
    damaged = tmp_path / "damaged.h5"
    shutil.copy(path, damaged)
    damage(damaged, 16, 0)  # the chunk holds all three images
    code, told, err = run("verify", damaged)
    assert (code, err, told.splitlines()[-1]) == (1, "", f"{damaged}: 1 problems")
    assert "images 0 to 2 of data16x16 cannot be read" in told


def test_inspect_reads_no_image(path: Path) -> None:
    code, told, err = run("inspect", path, without="hdf5plugin")
    assert (code, err) == (0, "")
    assert told.startswith(f"{path}: 3 images, 16x16 RGB")
    assert told.count("Blosc2") == 5  # levels


def test_export(path: Path, tmp_path: Path) -> None:
    code, told, _ = run("export", path, "--to", "images", "--out", tmp_path / "out", "--workers", "1")
    assert (code, told) == (0, f"3 images\nexport: {tmp_path / 'out'}\n")
    for i, pixels in enumerate(noise(3, 16)):
        with Image.open(tmp_path / "out" / f"{i}.png") as image:
            np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), pixels)


@pytest.mark.parametrize("command", ["verify", "export"])
def test_without_the_package(command: str, path: Path, tmp_path: Path) -> None:
    more = ["--to", "images", "--out", tmp_path / "out"] if command == "export" else []
    code, told, err = run(command, path, *more, without="hdf5plugin")
    assert (code, told, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {path}: data16x16, compressed by HDF5's filter 32026, needs the package hdf5plugin")
    assert err.endswith("pip install '.[blosc2]' in the folder of the project\n")
    assert list(tmp_path.iterdir()) == []


def test_unknown_filter(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for r in (4, 2, 1):
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((1, 3, r, r))
            plist.set_filter(UNKNOWN, h5py.h5z.FLAG_OPTIONAL)
            space = h5py.h5s.create_simple((2, 3, r, r))
            h5py.h5d.create(file.id, f"data{r}x{r}".encode(), h5py.h5t.NATIVE_UINT8, space, plist)
    PyramidFile(path).file.close()
    with pytest.raises(FormatError, match=f"data4x4, compressed by HDF5's filter {UNKNOWN}, cannot be read"):
        open_pyramid(path)
