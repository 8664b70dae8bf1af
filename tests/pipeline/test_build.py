"""The public functions: a whole build, a dry run, and one photo in memory."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from celebahq_builder.errors import RecipeError
from celebahq_builder.imaging.image_io import decode_png, open_rgb
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.build import align, build
from celebahq_builder.pipeline.dry_run import dry_run
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import SAMPLE, TINY


def test_arguments_override_the_recipe(tmp_path: Path) -> None:
    source, out = read_celeba(SAMPLE), tmp_path / "run"
    arguments = {"recipe": replace(TINY, resolution=128), "resolution": 64, "keep": 2, "ids": ["000001", "000002.jpg"]}
    lines = dry_run(source, str(out), **arguments)
    assert any(line.startswith("disk: about 32.8 kB still to be written, ") for line in lines)
    assert "  select.keep = 2  (`keep`)" in lines
    assert "  resolution = 64  (`resolution`)" in lines
    assert "  align: 0 of 1 batches done" in lines
    assert "  crop: to do; result is not stored" in lines
    stages = lines[lines.index("stages:") + 1 : -1]
    assert [line.split(":")[0].strip() for line in stages] == [stage.name for stage in TINY.stages()]
    assert not out.exists()
    result = build(source, str(out), workers=1, device="cpu", labels=True, **arguments)
    assert (result.photos, result.kept, result.rejected, result.failed, result.reasons) == (2, 2, 0, 0, {})
    assert (result.complete, result.hdf5, result.report) == (
        True,
        out / "celebahq-64x64.h5",
        out / "report" / "index.html",
    )
    assert (out / "celebahq-64x64-labels.npy").exists()
    assert "  pack: complete" in dry_run(source, out, labels=True, **arguments)
    again = dry_run(source, out, labels=True, redo="select", **arguments)
    assert [line for line in again if "complete" in line] == ["  align: complete", "  score: complete"]
    assert {"  crop: result is not stored", "  select: to do", "  pack: to do"} <= set(again)
    assert (out / "celebahq-64x64.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"until": "region"}, r'`until` region is no stage of method = "paper"; its stages are crop, denoise, upscale'),
        ({"recipe": BuildRecipe(method="exact"), "redo": "denoise"}, '`redo` denoise is no stage of method = "exact"'),
        ({"start": "pack", "until": "align"}, "`start` pack comes after `until` align"),
        ({"start": "pack", "redo": "align"}, "`start` pack comes after `redo` align, and needs its results"),
        ({"ids": []}, "`ids` names no photos"),
        ({"device": "gpu"}, "gpu is not a device"),
        ({"device": "cpu,cuda:x"}, "cuda:x is not a device"),
        ({"workers": 0}, "`workers` must be at least 1, got 0"),
        ({"limit": 0}, "`limit` must be at least 1, got 0"),
        ({"seed": -1}, "`seed`: seed = -1 must be at least 0"),
        ({"ids": SAMPLE}, "`ids` .*celeba cannot be read: a folder, not a regular file; give one id"),
        ({"ids": SAMPLE / "no"}, "`ids` .*no cannot be read: No such file or directory; give one id"),
        ({"recipe": SAMPLE}, "recipe .*celeba cannot be read: a folder, not a regular file; give a TOML file"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        build(read_celeba(SAMPLE), tmp_path / "run", **arguments)
    assert not (tmp_path / "run" / "stages").exists()


@pytest.fixture(scope="module")
def aligned_images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The images of a build with the default settings at 64 px."""
    out = tmp_path_factory.mktemp("align") / "run"
    build(read_celeba(SAMPLE), out, resolution=64, limit=4, until="align", workers=1, device="cpu")
    images = sorted((Workspace(out).stage("align").root / "images").rglob("*.png"))
    return {path.stem: decode_png(path.read_bytes()) for path in images}


@pytest.mark.parametrize("in_memory", [False, True])
def test_one_photo_gets_the_bytes_of_a_build(aligned_images: dict[str, np.ndarray], in_memory: bool) -> None:
    photos = {photo.id: photo for photo in read_celeba(SAMPLE).photos}
    assert len(aligned_images) == 4
    for name, expected in aligned_images.items():
        path = SAMPLE / "img_celeba" / photos[name].file
        photo = np.asarray(open_rgb(path.read_bytes(), 10**8)[0]) if in_memory else path
        found = align(photo, photos[name].landmarks, 64, restore=True)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
        plain = align(photo, np.reshape(photos[name].landmarks, (5, 2)), 64)
        assert plain.shape == (3, 64, 64)
        assert not np.array_equal(plain, expected)


def test_stages_that_align_leaves_out() -> None:
    """Those that run a network; the tests above compare the results with and without them."""
    assert [stage.name for stage in BuildRecipe().photo_stages() if stage.restores] == ["denoise", "upscale"]


def test_one_photo_that_is_not_good_enough() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(Rejection) as caught:
        align(np.zeros((200, 200, 3), np.uint8), [50.0] * 10, 64)
    assert caught.value.reason is Reason.DEGENERATE_LANDMARKS
    assert torch.get_num_threads() == threads


def test_one_photo_with_landmarks_in_another_order() -> None:
    photo = read_celeba(SAMPLE).photos[0]
    path = SAMPLE / "img_celeba" / photo.file
    expected = align(path, photo.landmarks, 64)
    swapped = np.reshape(photo.landmarks, (5, 2))[:, ::-1]
    np.testing.assert_array_equal(align(path, swapped, 64, landmark_order="yx"), expected)
    with pytest.raises(Rejection) as caught:
        align(path, swapped, 64)
    assert caught.value.reason is Reason.MIRRORED_LANDMARKS


def test_stage_names_status_and_verify_do_not_import_torch(tiny_run: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from celebahq_builder.pipeline.stages import stage_names\n"
        "from celebahq_builder.pipeline import status, verify\n"
        "from celebahq_builder.run_directory import workspace\n"
        f"run = Path({str(tiny_run)!r})\n"
        "assert list(verify.find_problems(run)) == [] and list(status.status_lines(workspace.Workspace(run)))\n"
        "assert stage_names()[0] == 'crop' and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
