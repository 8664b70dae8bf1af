"""Fingerprints of a request: what results depend on changes them, and nothing else does."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from celebahq_builder.config import bundled
from celebahq_builder.errors import FingerprintMismatch
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.pipeline.stages.denoise import DenoiseSettings
from celebahq_builder.pipeline.stages.pack import PackSettings
from celebahq_builder.pipeline.stages.upscale import UpscaleSettings
from celebahq_builder.pipeline.state import Provenance, RunState, StageState, fingerprint
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import PHOTO_STAGES, SAMPLE, TINY

NAMES = (*PHOTO_STAGES, "select", "pack")


def fingerprints(**options: object) -> dict[str, str]:
    """Return the fingerprint of each stage of a build of the sample."""
    request = make_request(read_celeba(SAMPLE), "run", **{"recipe": TINY, **options})
    return {name: fingerprint(tables) for name, tables in BuildPlan(request, RunState()).ingredients.items()}


def changed_by(**options: object) -> list[str]:
    before, after = fingerprints(), fingerprints(**options)
    return [name for name in NAMES if before[name] != after[name]]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"limit": 5}, "crop"),
        ({"ids": ["000001"]}, "crop"),
        ({"resolution": 128}, "crop"),
        ({"recipe": replace(TINY, crop=replace(TINY.crop, context_px=17))}, "crop"),
        ({"recipe": replace(TINY, denoise=replace(TINY.denoise, tile_px=256))}, "denoise"),
        ({"recipe": replace(TINY, upscale=replace(TINY.upscale, when="needed"))}, "upscale"),
        ({"recipe": replace(TINY, denoise=replace(TINY.denoise, precision="bf16"))}, "denoise"),
        ({"recipe": replace(TINY, upscale=replace(TINY.upscale, precision="bf16"))}, "upscale"),
        ({"recipe": replace(TINY, align=replace(TINY.align, blur=0.03))}, "align"),
        ({"keep": 4}, "select"),
        ({"labels": True}, "pack"),
    ],
)
def test_a_setting_changes_its_stage_and_all_later_ones(options: dict[str, object], first: str) -> None:
    assert changed_by(**options) == list(NAMES[NAMES.index(first) :])


def test_min_zoom_counts() -> None:
    needed = replace(TINY, upscale=replace(TINY.upscale, when="needed"))
    fewer = replace(needed, upscale=replace(needed.upscale, min_zoom=1.5))
    before, after = fingerprints(recipe=needed), fingerprints(recipe=fewer)
    assert [name for name in NAMES if before[name] != after[name]] == list(NAMES[NAMES.index("upscale") :])


@pytest.mark.parametrize(
    "options",
    [{"workers": 3}, {"device": "cpu"}, {"until": "align"}, {"redo": "pack"}, {"redo": "photos"}, {"start": "score"}],
)
def test_what_no_result_depends_on(options: dict[str, object]) -> None:
    assert changed_by(**options) == []


def test_the_seed_counts_where_the_order_depends_on_it() -> None:
    assert changed_by(seed=7) == []
    shuffled = replace(TINY, pack=PackSettings(order="shuffled"))
    assert fingerprints(recipe=shuffled)["pack"] != fingerprints(recipe=shuffled, seed=7)["pack"]
    assert fingerprints(recipe=shuffled)["select"] == fingerprints(recipe=shuffled, seed=7)["select"]


@pytest.mark.parametrize("stage", ["denoise", "upscale"])
def test_the_hash_of_weights_counts(stage: str, tmp_path: Path) -> None:
    """Other weights under the same name give other results."""
    shutil.copy(bundled("pretrained") / "registry.toml", tmp_path)
    settings = {
        "denoise": DenoiseSettings(weights=f"{tmp_path}/denoiser"),
        "upscale": UpscaleSettings(weights=f"{tmp_path}/upscaler-gan"),
    }
    recipe = replace(TINY, **{stage: settings[stage]})
    before = fingerprints(recipe=recipe)
    registry = tmp_path / "registry.toml"
    lines = [
        f'sha256 = "{"0" * 64}"' if line.startswith("sha256") else line for line in registry.read_text().splitlines()
    ]
    registry.write_text("\n".join(lines))
    after = fingerprints(recipe=recipe)
    assert [name for name in NAMES if before[name] != after[name]] == list(NAMES[NAMES.index(stage) :])


def test_runs_from_before_a_setting_resume() -> None:
    """With its default, it does not count; with another value, the message names both."""
    request = make_request(read_celeba(SAMPLE), "run", recipe=TINY)
    tables = BuildPlan(request, RunState()).ingredients["score"]
    assert not any({"precision", "min_zoom"} & table.keys() for table in tables)
    state = RunState(stages={"score": StageState(Provenance(fingerprint(tables), tables))})
    BuildPlan(request, state).check()
    changed = make_request(
        read_celeba(SAMPLE), "run", recipe=replace(TINY, upscale=replace(TINY.upscale, precision="bf16"))
    )
    with pytest.raises(FingerprintMismatch, match=r"\[upscale\] precision = fp32, this run asks bf16"):
        BuildPlan(changed, state).check()


def test_methods_never_share_results() -> None:
    paper, exact = fingerprints(recipe=BuildRecipe()), fingerprints(recipe=BuildRecipe(method="exact"))
    assert not set(paper.values()) & set(exact.values())


def test_a_plan_whose_tables_changed_places(tmp_path: Path) -> None:
    """The settings are equal one by one, but their hash is not."""
    request = make_request(read_celeba(SAMPLE), tmp_path, recipe=TINY)
    tables = BuildPlan(request, RunState()).ingredients["score"]
    moved = [tables[0], *reversed(tables[1:])]
    state = RunState(stages={"score": StageState(Provenance(fingerprint(moved), moved))})
    with pytest.raises(FingerprintMismatch, match=r"a plan\.json in .*stages was changed; choose another `out`"):
        BuildPlan(request, state).check()
