"""Pack: compression, levels and labels by settings."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from celebahq_builder.config import from_mapping
from celebahq_builder.errors import FingerprintMismatch, RecipeError
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.stages import pack
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import SAMPLE, TINY, build_tiny
from tests.reference import theano_reader


def with_pack(**settings: object) -> BuildRecipe:
    return replace(TINY, pack=pack.PackSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compression": "lzf"}, "pack.compression must be one of gzip, none, blosc2; got 'lzf'"),
        ({"level": 10}, r"pack: compression level 10 must be 1 \(fast\) to 9"),
        ({"compression": "none", "level": 1}, "pack: compression none has no levels"),
        ({"gzip_level": 4}, "unknown key pack.gzip_level; did you mean level?"),
    ],
)
def test_invalid_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        from_mapping(BuildRecipe, {"pack": settings}, where="some.toml")


def test_compression_decides_bytes_not_images(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).hdf5_path(64)
    before = theano_reader.read(path)
    sizes = {"gzip": path.stat().st_size}
    with pytest.raises(FingerprintMismatch, match=r"\[pack\] compression = gzip, this run asks none; .* `redo` pack"):
        build_tiny(tiny_copy, recipe=with_pack(compression="none"))
    for compression in ("none", "blosc2"):
        build_tiny(tiny_copy, recipe=with_pack(compression=compression), redo="pack")
        assert list(find_problems(tiny_copy)) == []
        sizes[compression] = path.stat().st_size
        for expected, found in zip(before, theano_reader.read(path), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert sizes["none"] > sizes["gzip"]


def test_labels(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).hdf5_path(64)
    labels = labels_path(path)
    assert not labels.exists()
    build_tiny(tiny_copy, recipe=with_pack(labels=True), redo="pack")
    found = np.load(labels)
    attributes = {photo.file: photo.attributes for photo in read_celeba(SAMPLE).photos}
    with h5py.File(path) as file:
        files, names = file["photos/file"].asstr()[:], file["photos/attribute_names"][:]
    assert (found.shape, found.dtype) == ((3, len(names)), np.float32)
    np.testing.assert_array_equal(found, [[float(value == 1) for value in attributes[name]] for name in files])
    assert 0 < found.mean() < 1
    assert list(find_problems(tiny_copy)) == []


def test_missing_or_changed_labels(tiny_copy: Path) -> None:
    path = labels_path(Workspace(tiny_copy).hdf5_path(64))
    build_tiny(tiny_copy, recipe=with_pack(labels=True), redo="pack")
    sound = path.read_bytes()
    path.write_bytes(sound[:-4] + b"\0\0\0\1")
    assert list(find_problems(tiny_copy)) == [f"{path.name} differs from photos/attributes of celebahq-64x64.h5"]
    path.unlink()
    assert list(find_problems(tiny_copy)) == [f"{path.name} is missing"]
    build_tiny(tiny_copy, recipe=with_pack(labels=True))
    assert path.read_bytes() == sound
    build_tiny(tiny_copy, redo="pack")
    assert not path.exists()


def test_a_column_that_is_a_group(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).hdf5_path(64)
    with h5py.File(path, "r+") as file:
        del file["photos/split"]
        file["photos/split"] = file["photos"]
    assert f"{path.name}: photos/split is not a dataset" in list(find_problems(path))


def test_labels_of_a_source_without_attributes(tmp_path: Path) -> None:
    bare = tmp_path / "celeba"
    (bare / "Anno").mkdir(parents=True)
    (bare / "img_celeba").symlink_to(SAMPLE / "img_celeba")
    table = "Anno/list_landmarks_celeba.txt"
    (bare / table).write_bytes((SAMPLE / table).read_bytes())
    with pytest.raises(RecipeError, match=r"pack.labels = true \(`labels`\) needs photos with attributes, .*celeba"):
        build_tiny(tmp_path / "run", bare, recipe=with_pack(labels=True))
