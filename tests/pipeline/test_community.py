"""Builds with weight files of other projects: scales, records, resuming, and files that are missing or changed."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from celebahq_builder import cli
from celebahq_builder.errors import CelebAHQError, FingerprintMismatch, WeightsError
from celebahq_builder.models.community import weights_sha256
from celebahq_builder.pipeline.cluster_batches import Surroundings
from celebahq_builder.pipeline.growth import checked_plan
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.pipeline.results import photo_statuses
from celebahq_builder.pipeline.stages.denoise import DenoiseStage
from celebahq_builder.pipeline.stages.upscale import UpscaleRecord, UpscaleStage
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import SAMPLE, TINY, build_tiny
from tests.models.community_files import compact, esrgan, grey_dncnn, write
from tests.pipeline.faces import context
from tests.pipeline.test_upscale import FACES

pytestmark = pytest.mark.usefixtures("footprint_cache")


def recipe(denoise: str = TINY.denoise.weights, upscale: str = TINY.upscale.weights) -> BuildRecipe:
    return replace(TINY, denoise=replace(TINY.denoise, weights=denoise), upscale=replace(TINY.upscale, weights=upscale))


def aligned(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "stages" / "align" / "images").rglob("*.png")}


@pytest.fixture
def networks(tmp_path: Path) -> BuildRecipe:
    """A recipe with a grey network that denoises, and one that enlarges twice."""
    (tmp_path / "nets").mkdir()
    return recipe(
        write(tmp_path / "nets" / "clean.pth", grey_dncnn),
        write(tmp_path / "nets" / "2x.safetensors", partial(compact, 2)),
    )


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_faces_are_enlarged_by_the_scale(scale: int, tmp_path: Path) -> None:
    settings = replace(TINY.upscale, weights=write(tmp_path / "net.pth", partial(compact, scale)))
    for face, enlarged in zip(FACES, UpscaleStage().run(FACES, settings, context(32)), strict=True):
        assert enlarged.record[UpscaleRecord].factor == scale
        assert enlarged.pixels.shape[1:] == tuple(scale * length for length in face.pixels.shape[1:])
        assert np.array_equal(enlarged.quad, scale * face.quad)
        assert enlarged.margin == tuple(scale * margin for margin in face.margin)


def test_bf16_differs_by_rounding_only(networks: BuildRecipe) -> None:
    for stage, settings in ((DenoiseStage(), networks.denoise), (UpscaleStage(), networks.upscale)):
        full, half = (stage.run(FACES, replace(settings, precision=one), context(32)) for one in ("fp32", "bf16"))
        for one, other in zip(full, half, strict=True):
            difference = (one.pixels.int() - other.pixels).abs().float()
            assert 0 < difference.mean() < 0.6
            assert difference.max() <= 5


def test_build(networks: BuildRecipe, tmp_path: Path) -> None:
    """A run records the hashes, resumes from another folder, and reports the scale."""
    out = tmp_path / "run"
    build_tiny(out, recipe=networks, until="score")
    first = aligned(out)
    assert len(first) == 5
    assert {one.upscaled for one in photo_statuses(Workspace(out))} == {2}
    assert sum(first[name] != other for name, other in aligned(other_scale(tmp_path)).items()) == 5
    plan = json.loads((out / "stages" / "align" / "plan.json").read_text())["ingredients"]
    digest = weights_sha256(networks.upscale.weights)
    [upscale] = [table for table in plan if table["name"] == "upscale"]
    assert (upscale["weights"], upscale["weights_sha256"]) == ("file:2x.safetensors", digest)
    report = (out / "report" / "index.html").read_text()
    assert digest in report
    assert "upscaled 2\u00d7" in report

    moved = tmp_path / "moved"
    (tmp_path / "nets").rename(moved)
    again = recipe(f"file:{moved}/clean.pth", f"file:{moved}/2x.safetensors")
    assert build_tiny(out, recipe=again).complete
    assert aligned(out) == first
    write(moved / "2x.safetensors", partial(compact, 2), seed=1)
    with pytest.raises(FingerprintMismatch, match=rf"\[upscale\] weights_sha256 = {digest}"):
        build_tiny(out, recipe=again)


def other_scale(tmp_path: Path) -> Path:
    out = tmp_path / "run of another scale"
    weights = write(tmp_path / "4x.pth", partial(compact, 4))
    build_tiny(out, recipe=recipe(f"file:{tmp_path}/nets/clean.pth", weights), until="score")
    return out


def test_option_and_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--set takes the setting; a path is relative to the working directory, in a recipe as well."""
    write(tmp_path / "2x.pth", partial(compact, 2))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "own.toml").write_text(
        f'resolution = 64\n[crop]\ncontext_px = 16\n[denoise]\nweights = "{TINY.denoise.weights}"\n'
        '[upscale]\nwhen = "always"\nweights = "file:2x.pth"\n'
    )
    asked = ["build", "--celeba-root", str(SAMPLE), "--limit", "2", "--workers", "1", "--until", "align"]
    asked += ["--recipe", "recipes/own.toml"]
    for out, more in (("a", []), ("b", ["--set", f"upscale.weights=file:{tmp_path}/2x.pth"])):
        done = CliRunner().invoke(cli.celebahq, [*asked, "--out", out, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert aligned(tmp_path / "a") == aligned(tmp_path / "b") != {}


def test_workers_run_the_file_that_was_checked(networks: BuildRecipe, tmp_path: Path) -> None:
    """A worker has another working directory, or loads its network after the file has changed."""
    request = make_request(read_celeba(SAMPLE), tmp_path / "run", recipe=networks, limit=1)
    settings = checked_plan(request).worker_recipe.upscale
    path = tmp_path / "nets" / "2x.safetensors"
    assert settings.weights == f"file:{path}#{weights_sha256(networks.upscale.weights)}"
    UpscaleStage().run(FACES, settings, context(32))
    write(path, partial(compact, 2), seed=1)
    other = replace(settings, weights=settings.weights.replace("2x", "other"))
    shutil.copy(path, tmp_path / "nets" / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors has changed since the build began"):
        UpscaleStage().run(FACES, other, context(32))


def test_workers_of_a_cluster_are_compared(networks: BuildRecipe, tmp_path: Path) -> None:
    needed = Surroundings(weights=(networks.upscale.weights,))
    [here] = [value for name, value in needed.facts().items() if "SHA-256 of the weights file:" in name]
    assert here.startswith(weights_sha256(networks.upscale.weights)[:16] + ", spandrel ")
    (tmp_path / "nets" / "2x.safetensors").unlink()
    assert "cannot be read: No such file or directory" in needed.facts()[f"SHA-256 of the weights {needed.weights[0]}"]


@pytest.mark.parametrize("resumed", [False, True])
def test_refusals_change_nothing(networks: BuildRecipe, tmp_path: Path, resumed: bool) -> None:
    out = tmp_path / "run"
    if resumed:
        build_tiny(out, recipe=networks, limit=1, until="crop")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    cases = {
        "file:nothing.pth": "cannot be read: No such file or directory",
        write(tmp_path / "1x.pth", partial(esrgan, 1)): "is a network of scale 1x",
        f"file:{SAMPLE}/Anno/list_landmarks_celeba.txt": "must end in .pth",
    }
    for weights, words in cases.items():
        with pytest.raises(CelebAHQError) as error:
            build_tiny(out, recipe=recipe(networks.denoise.weights, weights), limit=1)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {out / ".celebahq-lock"}
