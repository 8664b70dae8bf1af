"""The same images have the same numbers, to the last digit, whatever they lie in; what is no such thing is told."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import LevelSource, Reference, open_data_set
from celebahq_builder.evaluation.protocol import EvaluationProtocol
from celebahq_builder.formats.export import ExportSettings, export
from tests.evaluation.sources import smooth
from tests.hdf5.pyramids import described_file, theano_file

PIXELS = smooth(24, 32)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images as an HDF5 file, and as a folder and a zip that the exporter wrote."""
    folder = tmp_path_factory.mktemp("sets")
    found = {"hdf5": described_file(folder / "some.h5", PIXELS)}
    for kind, name in (("images", "png"), ("stylegan-zip", "some.zip")):
        found[kind] = folder / name
        export(found["hdf5"], found[kind], ExportSettings(kind), 1)
    return found


def test_one_number_in_every_format(places: dict[str, Path], tmp_path: Path) -> None:
    reference = Reference(open_data_set(theano_file(tmp_path / "reference.h5", smooth(40, 32, 1))))
    results = {
        kind: evaluate(open_data_set(path), reference, EvaluationProtocol(("swd",), 16))
        for kind, path in places.items()
    }
    scores = [result.scores[0] for result in results.values()]
    assert len({score.number.value for score in scores}) == 1
    assert all(score.number.levels == scores[0].number.levels for score in scores)
    assert len({score.source_sha256 for score in scores}) == 1
    assert {result.source["kind"] for result in results.values()} == set(places)
    other = evaluate(
        open_data_set(places["hdf5"]), reference := Reference(reference.source, 1), EvaluationProtocol(("swd",), 16, 1)
    )
    assert other.scores[0].source_sha256 != scores[0].source_sha256
    assert other.scores[0].number.value != scores[0].number.value
    assert reference.seed == 1


def test_images_by_number(places: dict[str, Path]) -> None:
    numbers = np.array([5, 3, 3, 23, 0])
    for path in places.values():
        batches = list(open_data_set(path).read(numbers, 2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert np.array_equal(np.concatenate([batch.numpy() for batch in batches]), PIXELS[numbers])


def test_a_level(places: dict[str, Path]) -> None:
    source = open_data_set(places["hdf5"], 8)
    assert (source.resolution, source.channels, source.count) == (8, 3, 24)
    assert source.facts["resolution_of_file"] == 32
    assert next(iter(source.read(np.arange(3), 9))).shape == (3, 3, 8, 8)


def test_one_file_is_told_from_another(places: dict[str, Path], tmp_path: Path) -> None:
    def told(name: str, pixels: np.ndarray) -> str:
        return str(LevelSource(theano_file(tmp_path / name, pixels)).facts["sha256"])

    changed = PIXELS.copy()
    changed[20] += 40
    assert told("a.h5", PIXELS) == told("b.h5", PIXELS) != told("c.h5", changed)
    recorded = LevelSource(places["hdf5"]).facts["sha256"]
    assert recorded == LevelSource(described_file(tmp_path / "d.h5", PIXELS)).facts["sha256"]
    assert recorded != LevelSource(described_file(tmp_path / "e.h5", changed)).facts["sha256"]


def test_what_is_no_source(places: dict[str, Path], tmp_path: Path) -> None:
    def refused(path: Path, line: str, resolution: int | None = None) -> None:
        with pytest.raises(FormatError, match=re.escape(line)) as error:
            open_data_set(path, resolution)
        assert "\n" not in str(error.value)

    refused(tmp_path / "missing.h5", "missing.h5 does not exist")
    refused(tmp_path, f"{tmp_path} is empty")
    (tmp_path / "notes.txt").write_text("nothing to see")
    refused(tmp_path / "notes.txt", "mnist, lsun); give an HDF5 file, a folder or a zip of images, or a generator")
    refused(places["hdf5"], "has no level 64x64; it has 32, 16, 8, 4, 2, 1", 64)
    refused(places["images"], "has images of 32x32, wanted are 16x16; only an HDF5 file has several", 16)
    records = tmp_path / "records"
    export(places["hdf5"], records, ExportSettings("tfrecord"), 1)
    refused(records, "is of the format tfrecord, whose images cannot be drawn at random; make it an HDF5 file")
    (tmp_path / "odd").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "odd" / "a.png")
    refused(
        tmp_path / "odd",
        "32 x 24 px; expected a square whose side is a power of two: add --resize 16, say, to celebahq import,",
    )
    cut = tmp_path / "cut.h5"
    cut.write_bytes(places["hdf5"].read_bytes()[:3000])
    refused(cut, "is not a readable HDF5 file")
    (tmp_path / "cut.zip").write_bytes(places["stylegan-zip"].read_bytes()[:3000])
    refused(tmp_path / "cut.zip", "is not a readable zip, or cut short")


def test_a_damaged_image_is_named(places: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(places["stylegan-zip"]) as archive, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for i, entry in enumerate(one for one in archive.infolist() if one.filename.endswith(".png")):
            data = archive.read(entry)
            bad.writestr(entry.filename, data[:-60] if i == 7 else data)
    with pytest.raises(FormatError, match=r"bad\.zip: .*img00000007\.png cannot be decoded"):
        evaluate(
            open_data_set(tmp_path / "bad.zip"),
            Reference(open_data_set(places["hdf5"])),
            EvaluationProtocol(("swd",), 24),
        )
