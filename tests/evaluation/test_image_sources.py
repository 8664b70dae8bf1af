"""The seed alone decides which images are used; formats, memory and batches change nothing."""

import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation import image_sources
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import LevelSource, SourceImages, open_data_set
from celebahq_builder.evaluation.protocol import EvaluationProtocol
from celebahq_builder.formats.conversion import export_file
from tests.evaluation.sources import Held, noise, smooth
from tests.hdf5.pyramids import described_file, theano_file

# --- Images of one side -----------------------------------------------------------------------------------------

PIXELS = noise(50, 8)


def drawn(images: SourceImages, start: int, stop: int) -> np.ndarray:
    return torch.cat(list(images.batches(start, stop))).numpy()


def test_sample_without_replacement() -> None:
    images = SourceImages(Held(PIXELS), 3)
    first, second = drawn(images, 0, 20), drawn(images, 20, 50)
    both = {one.tobytes() for one in np.concatenate([first, second])}
    assert both == {one.tobytes() for one in PIXELS}
    assert not np.array_equal(first, PIXELS[:20])
    assert np.array_equal(first, drawn(SourceImages(Held(PIXELS), 3), 0, 20))
    assert not np.array_equal(first, drawn(SourceImages(Held(PIXELS), 4), 0, 20))


def test_all_images_are_equally_likely() -> None:
    counts = np.zeros(10)
    for seed in range(2000):
        held = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
        counts[drawn(SourceImages(Held(held), seed), 0, 3).ravel()] += 1
    expected = 2000 * 3 / 10
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * 0.7)


def test_images_of_a_generator_keep_their_order() -> None:
    assert np.array_equal(drawn(SourceImages(Held(PIXELS, generated=True), 3), 5, 20), PIXELS[5:20])


@pytest.mark.parametrize("memory_bytes", [0, 30 * 192, 2**30])
@pytest.mark.parametrize("batch_bytes", [1, 7 * 192, 2**30])
def test_memory_and_batches_do_not_change_the_images(
    memory_bytes: int, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sources, "MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr(image_sources, "BATCH_BYTES", batch_bytes)
    order = np.random.default_rng(1).permutation(50)
    images = SourceImages(Held(PIXELS), 1)
    images.will_need(40, {13, 30})
    for start, stop in ((0, 13), (20, 40), (0, 30), (5, 40), (0, 40), (30, 50)):
        assert np.array_equal(drawn(images, start, stop), PIXELS[order[start:stop]])
    for count in (13, 30, 21, 50):
        assert images.sha256(count) == hashlib.sha256(PIXELS[order[:count]].tobytes()).hexdigest()


def test_images_that_fit_into_memory_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fits, does_not = Held(PIXELS), Held(PIXELS)
    for held, memory_bytes in ((fits, 40 * 192), (does_not, 40 * 192 - 1)):
        monkeypatch.setattr(image_sources, "MEMORY_BYTES", memory_bytes)
        images = SourceImages(held, 0)
        images.will_need(40, {40})
        for _ in range(3):
            drawn(images, 0, 40)
        assert images.sha256(40)
    assert (fits.read_images, does_not.read_images) == (40, 120)


def test_more_images_are_needed_later() -> None:
    held = Held(PIXELS)
    images = SourceImages(held, 0)
    images.will_need(10, {10})
    drawn(images, 0, 10)
    images.will_need(30, {30})
    assert len(drawn(images, 0, 30)) == 30
    assert held.read_images == 30
    assert images.sha256(10) != images.sha256(30)


def test_unfinished_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sources, "BATCH_BYTES", 4 * 192)
    images = SourceImages(Held(PIXELS), 0)
    images.will_need(40, {40})
    next(images.batches(0, 40))
    order = np.random.default_rng(0).permutation(50)
    assert np.array_equal(drawn(images, 0, 40), PIXELS[order[:40]])
    assert images.sha256(40) == hashlib.sha256(PIXELS[order[:40]].tobytes()).hexdigest()


# --- Data sets --------------------------------------------------------------------------------------------------

IMAGES = smooth(24, 32)


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return paths of the same images as an HDF5 file, a folder and a zip."""
    folder = tmp_path_factory.mktemp("sets")
    found = {"hdf5": described_file(folder / "some.h5", IMAGES)}
    for kind, name in (("images", "png"), ("stylegan-zip", "some.zip")):
        found[kind] = folder / name
        export_file(found["hdf5"], found[kind], kind, workers=1)
    return found


def test_every_format_gives_the_same_number(data_sets: dict[str, Path], tmp_path: Path) -> None:
    reference = SourceImages(open_data_set(theano_file(tmp_path / "reference.h5", smooth(40, 32, 1))))
    results = {
        kind: evaluate(open_data_set(path), reference, EvaluationProtocol(("swd",), 16))
        for kind, path in data_sets.items()
    }
    scores = [result.scores[0] for result in results.values()]
    assert len({score.number.value for score in scores}) == 1
    assert list(scores[0].number.levels) == [32, 16]
    assert all(score.number.levels == scores[0].number.levels for score in scores)
    assert len({score.source_sha256 for score in scores}) == 1
    assert {result.source["kind"] for result in results.values()} == set(data_sets)
    reference = SourceImages(reference.source, 1)
    other = evaluate(open_data_set(data_sets["hdf5"]), reference, EvaluationProtocol(("swd",), 16, 1))
    assert other.scores[0].source_sha256 != scores[0].source_sha256
    assert other.scores[0].number.value != scores[0].number.value


def test_images_are_read_by_number(data_sets: dict[str, Path]) -> None:
    numbers = np.array([5, 3, 3, 23, 0])
    for path in data_sets.values():
        batches = list(open_data_set(path).read(numbers, 2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert np.array_equal(np.concatenate([batch.numpy() for batch in batches]), IMAGES[numbers])


def test_level_of_an_hdf5_file(data_sets: dict[str, Path]) -> None:
    source = open_data_set(data_sets["hdf5"], 8)
    assert (source.resolution, source.channels, source.count) == (8, 3, 24)
    assert source.facts["resolution_of_file"] == 32
    assert next(iter(source.read(np.arange(3), 9))).shape == (3, 3, 8, 8)


def test_hash_identifies_the_images(data_sets: dict[str, Path], tmp_path: Path) -> None:
    def digest(name: str, pixels: np.ndarray) -> str:
        return str(LevelSource(theano_file(tmp_path / name, pixels)).facts["sha256"])

    changed = IMAGES.copy()
    changed[20] += 40
    assert digest("a.h5", IMAGES) == digest("b.h5", IMAGES) != digest("c.h5", changed)
    recorded = LevelSource(data_sets["hdf5"]).facts["sha256"]
    assert recorded == LevelSource(described_file(tmp_path / "d.h5", IMAGES)).facts["sha256"]
    assert recorded != LevelSource(described_file(tmp_path / "e.h5", changed)).facts["sha256"]


def test_paths_that_are_no_data_set(data_sets: dict[str, Path], tmp_path: Path) -> None:
    def refused(path: Path, line: str, resolution: int | None = None) -> None:
        with pytest.raises(FormatError, match=re.escape(line)) as error:
            open_data_set(path, resolution)
        assert "\n" not in str(error.value)

    refused(tmp_path / "missing.h5", "missing.h5 does not exist")
    refused(tmp_path, f"{tmp_path} is empty")
    (tmp_path / "notes.txt").write_text("nothing to see")
    refused(tmp_path / "notes.txt", "mnist, lsun); give an HDF5 file, a folder or a zip of images, or a generator")
    refused(data_sets["hdf5"], "has no level 64x64; it has 32, 16, 8, 4, 2, 1", 64)
    refused(data_sets["images"], "has images of 32x32, wanted are 16x16; only an HDF5 file has several", 16)
    records = tmp_path / "records"
    export_file(data_sets["hdf5"], records, "tfrecord", workers=1)
    refused(records, "is of the format tfrecord, whose images cannot be drawn at random; make it an HDF5 file")
    (tmp_path / "odd").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "odd" / "a.png")
    refused(tmp_path / "odd", "32 x 24 px; expected a square whose side is a power of two")
    refused(tmp_path / "odd", ", to celebahq import, and evaluate the HDF5 file that it makes")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(data_sets["hdf5"].read_bytes()[:3000])
    refused(cut, "is not a readable HDF5 file")
    (tmp_path / "cut.zip").write_bytes(data_sets["stylegan-zip"].read_bytes()[:3000])
    refused(tmp_path / "cut.zip", "is not a readable zip, or cut short")


def test_damaged_image_in_a_zip(data_sets: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(data_sets["stylegan-zip"]) as archive, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for i, entry in enumerate(one for one in archive.infolist() if one.filename.endswith(".png")):
            data = archive.read(entry)
            bad.writestr(entry.filename, data[:-60] if i == 7 else data)
    with pytest.raises(FormatError, match=r"bad\.zip: .*img00000007\.png cannot be decoded"):
        evaluate(
            open_data_set(tmp_path / "bad.zip"),
            SourceImages(open_data_set(data_sets["hdf5"])),
            EvaluationProtocol(("swd",), 24),
        )
