"""A format is one module and one name in the registry; nothing is imported before it is needed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder import formats
from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.formats.conversion import export_file, import_images
from celebahq_builder.formats.hdf5 import LevelImageSet
from tests.hdf5.pyramids import noise, theano_file

MODULE = '''
"""Arrays of numpy."""

from pathlib import Path

import numpy as np

from celebahq_builder.formats import Format
from celebahq_builder.image_set import DataSet, NamedImage


def read(path):
    pixels = np.load(path)
    return DataSet(len(pixels), 8, 3, lambda: map(NamedImage, pixels, "abc"))


def write(export, stage):
    yield 0
    with stage.data.open("wb") as file:
        np.save(file, np.stack(list(export.level.pixels(range(export.level.count)))))
    yield export.level.count


FORMAT = Format("numpy", read, write, names=("*.npy",), target_suffix=".npy")
'''


@pytest.fixture
def with_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a format: one file, one name."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "numpy_array.py").write_text(MODULE)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "modules")])
    monkeypatch.setattr(formats, "MODULES", (*formats.MODULES, "numpy_array"))
    formats.load_formats.cache_clear()
    yield
    formats.load_formats.cache_clear()
    sys.modules.pop("celebahq_builder.formats.numpy_array", None)


@pytest.mark.usefixtures("with_numpy")
def test_a_new_format(tmp_path: Path) -> None:
    data = noise(3, 8)
    source = theano_file(tmp_path / "faces.h5", data)
    with pytest.raises(FormatError, match=r"does not end in \.npy, as numpy requires; name it .*faces\.npy"):
        export_file(source, tmp_path / "faces", "numpy", workers=1)
    export_file(source, tmp_path / "faces.npy", "numpy", workers=1)
    np.testing.assert_array_equal(np.load(tmp_path / "faces.npy"), data)
    assert formats.recognize(tmp_path / "faces.npy") == "numpy"
    import_images(tmp_path / "faces.npy", tmp_path / "back.h5")
    with LevelImageSet(tmp_path / "back.h5") as level:
        np.testing.assert_array_equal(np.stack(list(level.pixels(range(3)))), data)
    with pytest.raises(RecipeError, match="`resize` has no effect on numpy; leave it out"):
        import_images(tmp_path / "faces.npy", tmp_path / "again.h5", resize=4)


@pytest.mark.parametrize("name", ["lsun", "numpy"])
def test_a_format_that_is_not_written(name: str, tmp_path: Path) -> None:
    source = theano_file(tmp_path / "faces.h5", noise(1, 4))
    with pytest.raises(RecipeError, match=f"`to` {name} does not exist; expected one of images, stylegan-zip, "):
        export_file(source, tmp_path / "out", name, workers=1)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="`format` numpy does not exist; expected one of images, .*, lsun"):
        import_images(tmp_path, tmp_path / "out.h5", format="numpy")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(ended.stdout.split())


def test_imports_are_lazy() -> None:
    heavy = {"torch", "pyarrow", "lmdb", "datasets", "webdataset", "tensorflow"}
    registered = loaded_by("import celebahq_builder.formats")
    assert not registered & heavy
    assert "celebahq_builder.formats.parquet" not in registered
    assert not loaded_by("from celebahq_builder.formats import load_formats; load_formats()") & heavy


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b.tar"], "images"),
        (["a.png", "b.parquet"], "images"),
        (["a.png", "faces-r02.tfrecords"], "tfrecord"),
        (["data.mdb", "lock.mdb", "a.jpg"], "lsun"),
        (["data_batch_1.bin", "a.jpg"], "cifar10"),
        (["train-images-idx3-ubyte.gz"], "mnist"),
        (["sub/deep/a.JPEG", "notes.txt"], "images"),
        (["a.tar"], "webdataset"),
        (["a.parquet", "notes.txt"], "parquet"),
    ],
)
def test_folders_are_recognized_by_names(names: list[str], expected: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert formats.recognize(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.h5", "hdf5"),
        ("a.hdf5", "hdf5"),
        ("a.zip", "stylegan-zip"),
        ("a.tar", "webdataset"),
        ("a.tfrecords", "tfrecord"),
    ]
    + [("a.parquet", "parquet"), ("data.mdb", "lsun"), ("cifar10.tar", "webdataset")],
)
def test_files_are_recognized_by_names(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("damaged")
    assert formats.recognize(tmp_path / name) == expected


def test_files_are_recognized_by_contents(tmp_path: Path) -> None:
    theano_file(tmp_path / "noname", noise(1, 4))
    assert formats.recognize(tmp_path / "noname") == "hdf5"
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(FormatError, match=r"notes\.txt is of no known format \(images, .*, lsun\); give a folder of"):
        formats.recognize(tmp_path / "notes.txt")
