"""Commands that look into data sets, on run directories: finished, unfinished, and without any image."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.hdf5.reader import open_pyramid
from celebahq_builder.pipeline.run_images import RunImages, open_images
from tests.conftest import build_tiny


def run(*arguments: str | Path, code: int = 0) -> list[str]:
    done = CliRunner().invoke(celebahq, list(map(str, arguments)))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output.splitlines()


def refused(*arguments: str | Path) -> str:
    done = CliRunner().invoke(celebahq, list(map(str, arguments)))
    assert isinstance(done.exception, CelebAHQError), done.output
    return str(done.exception)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five photos that ended after align, in two batches."""
    out = tmp_path_factory.mktemp("aligned") / "run"
    build_tiny(out, until="align")
    return out


def test_a_finished_run_is_its_hdf5_file(tiny_run: Path, tmp_path: Path) -> None:
    hdf5 = tiny_run / "celebahq-64x64.h5"
    assert run("inspect", tiny_run) == run("inspect", hdf5)
    assert run("compare", tiny_run, hdf5)[-1].startswith("equal: 3 images")
    for name, source in (("run", tiny_run), ("file", hdf5)):
        run("view", source, "--out", tmp_path / f"{name}.png")
        run("extract", source, "--out", tmp_path / name)
        run("export", source, "--to", "images", "--out", tmp_path / f"{name}-export", "--workers", "1")
    assert (tmp_path / "run.png").read_bytes() == (tmp_path / "file.png").read_bytes()
    for one, other in (("run", "file"), ("run-export", "file-export")):
        left, right = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in (one, other))
        assert left == right
    assert run("audit", tiny_run, "--out", tmp_path / "audit")[0].startswith("celebahq-64x64.h5: 3 images")
    plans = [
        run("train", source, "--out", tmp_path / "a", "--recipe", "quick", "--device", "cpu", "--dry-run")
        for source in (tiny_run, hdf5)
    ]
    assert plans[0][0] == plans[1][0]
    assert str(hdf5) in plans[0][0]
    scores = run("evaluate", tiny_run, "--metrics", "swd", "--against", hdf5, "--num", "1", "--device", "cpu")
    assert scores == run("evaluate", hdf5, "--metrics", "swd", "--against", hdf5, "--num", "1", "--device", "cpu")


def test_images_before_the_file_are_those_of_the_file(tiny_run: Path, tiny_copy: Path) -> None:
    (tiny_copy / "celebahq-64x64.h5").unlink()
    with open_images(tiny_copy) as images, open_pyramid(tiny_run / "celebahq-64x64.h5") as file:
        assert isinstance(images, RunImages)
        assert (images.count, images.resolutions, images.channels) == (3, file.resolutions, 3)
        for r in file.resolutions:
            np.testing.assert_array_equal(images.images(r).read(range(3)), file.images(r)[:])
            np.testing.assert_array_equal(images.images(r)[2], file.images(r)[2])
        for name, column in images.photos.items():
            np.testing.assert_array_equal(column, file.photos[name])
        assert {"id", "file", "score", "split", "quad", "landmarks"} <= set(images.photos)


def test_an_unfinished_run(aligned: Path, tmp_path: Path) -> None:
    """After some batches and before the scores."""
    said = run("inspect", aligned)
    assert said[0] == f"{aligned}: 5 images so far, 64x64 RGB, as PNG files; no HDF5 file yet"
    assert said[1] == "sources: 000001.jpg ... 000005.jpg"
    part = tmp_path / "part"
    shutil.copytree(aligned, part)
    (part / "stages/align/stage.json").unlink()
    (part / "stages/align/batches/00000.jsonl").unlink()  # the second batch is done before the first one
    assert run("inspect", part)[0] == f"{part}: 1 images so far, 64x64 RGB, as PNG files; no HDF5 file yet"
    run("extract", part, "--out", tmp_path / "png")
    [made] = (tmp_path / "png").iterdir()
    with Image.open(made) as one, Image.open(part / "stages/align/images/00001/000005.png") as other:
        assert (np.asarray(one) == np.asarray(other)).all()
    assert run("compare", part, aligned, code=1)[-1] == "different: 0 of 1 pairs differ, 4 images have no partner"
    assert "has no scores" in refused("view", aligned, "--best", "--out", tmp_path / "best.png")
    page = tmp_path / "page.html"
    assert run("view", aligned, "--out", page) == ["5 of 5 images at 64x64", f"page: {page}"]
    assert page.read_text().count("<figure>") == 5
    for command in ("audit", "evaluate"):
        more = ["--metrics", "is"] if command == "evaluate" else []
        assert "of all its photos yet: finish its build, or export" in refused(command, aligned, *more)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["images", "stylegan-zip", "tfrecord", "webdataset"])
def test_export_of_an_unfinished_run(kind: str, workers: int, aligned: Path, tmp_path: Path) -> None:
    out = tmp_path / ("faces.zip" if kind == "stylegan-zip" else "faces")
    said = run("export", aligned, "--to", kind, "--out", out, "--workers", workers)
    assert said == ["5 images", f"export: {out}"]
    run("import", out, "--out", tmp_path / "back.h5", "--workers", "1")
    with open_pyramid(tmp_path / "back.h5") as file, open_images(aligned) as images:
        np.testing.assert_array_equal(file.images(64)[:], images.images(64).read(range(5)))


def test_changed_files(aligned: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(aligned, tmp_path / "part"))
    (part / "stages/align/images/00000/000002.png").write_bytes(b"other")
    assert "000002.png was changed since it was made" in refused("extract", part, "--out", tmp_path / "png")
    assert not (tmp_path / "png").exists()


def test_no_images_yet(aligned: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(aligned, tmp_path / "part"))
    for manifest in (part / "stages/align/batches").iterdir():
        manifest.unlink()
    said = refused("view", part)
    assert said == f"{part} has no images yet: 0 of 2 batches are done; celebahq status prints the state of the run"
    (tmp_path / "other").mkdir()
    assert "other is not a run directory: it has no run.json" in refused("view", tmp_path / "other")


def test_the_identity_of_images_changes_with_them(aligned: Path, tmp_path: Path) -> None:
    """An export is resumed only with the same images."""
    part = Path(shutil.copytree(aligned, tmp_path / "part"))
    with open_images(part) as images, open_images(aligned) as same:
        assert images.identity == same.identity
    (part / "stages/align/batches/00001.jsonl").unlink()
    with open_images(part) as fewer:
        assert fewer.identity["images"] == 4
        assert fewer.identity["sha256"] != images.identity["sha256"]
