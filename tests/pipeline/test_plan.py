"""Fingerprints of a request: what results depend on changes them, and nothing else does."""

import shutil
from dataclasses import asdict, replace
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
from celebahq_builder.run_directory.state import Provenance, RunState, StageCounts, StageMark, StageState, fingerprint
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


# --- The run directory of a plan --------------------------------------------------------------------------------


def finished(**options: object) -> RunState:
    """Return the state of a run directory with the complete run of a request."""
    request = make_request(read_celeba(SAMPLE), "run", **{"recipe": TINY, **options})
    plan = BuildPlan(request, RunState())
    stages = {
        name: StageState(Provenance(fingerprint(tables), tables), batches=frozenset(range(plan.batches)))
        for name, tables in plan.ingredients.items()
        if name in plan.on_disk
    }
    return RunState(plan.description(), stages)


def planned(state: RunState, **options: object) -> BuildPlan:
    return BuildPlan(make_request(read_celeba(SAMPLE), "run", **{"recipe": TINY, **options}), state)


def test_stages_with_results_on_disk() -> None:
    """A run keeps the images of the result, and what an earlier run kept."""
    run = finished().run
    assert run is not None
    assert run.stages == ["align", "score", "select", "pack"]
    assert run.image_stage == "align"
    assert planned(RunState(), until="upscale").on_disk == ["upscale"]
    kept = finished(recipe=replace(TINY, keep_stages=("denoise",)))
    assert planned(kept).description().stages == ["denoise", "align", "score", "select", "pack"]
    assert planned(kept, until="denoise").description().stages == ["denoise", "align", "score", "select", "pack"]
    assert planned(kept, until="denoise").on_disk == ["denoise"]


def test_a_shorter_run_counts_what_is_complete_beyond_it() -> None:
    """Results beyond the last stage that is asked for stay, so the summary includes them."""
    counts = StageCounts(photos=16, batches=4, kept=16, rejected=0)
    begun = finished()
    stages = {
        name: replace(state, mark=StageMark(fingerprint=state.provenance.fingerprint, **asdict(counts)))
        for name, state in begun.stages.items()
        if state.provenance
    }
    files = {"selection.csv": 1, "celebahq-64x64.h5": 1}
    complete = replace(begun, stages=stages, files=files)
    assert planned(complete, until="align").until == "pack"
    assert planned(replace(complete, files={"selection.csv": 1}), until="align").until == "select"
    assert planned(replace(complete, files={"celebahq-64x64.h5": 1}), until="align").until == "score"
    assert planned(replace(complete, files={}), until="select").until == "select"
    lacks = replace(stages["score"], batches=frozenset({0, 1, 2}))
    plan = planned(replace(complete, stages={**stages, "score": lacks}), until="align")
    assert (plan.until, plan.on_disk) == ("align", ["align"])
    assert [stage.name for stage in plan.stored_photo_stages] == ["align"]
    assert plan.dataset_stages == []
    assert planned(begun).batches_left == set()
    assert planned(replace(complete, stages={**stages, "score": lacks})).batches_left == {3}


@pytest.mark.parametrize(("photos", "per_batch", "batches"), [(1, 4, 1), (10, 4, 3), (640, 10, 64), (5000, 16, 313)])
def test_photos_per_batch(photos: int, per_batch: int, batches: int) -> None:
    """Small sources have small batches, so that every worker has some."""
    [photo, *_] = read_celeba(SAMPLE).photos
    many = tuple(replace(photo, id=f"{number}", file=f"{number}.jpg") for number in range(photos))
    request = make_request(replace(read_celeba(SAMPLE), photos=many), "run", recipe=TINY)
    plan = BuildPlan(request, RunState())
    assert (plan.batch_photos, plan.batches) == (per_batch, batches)


def test_a_longer_run_uses_the_batches_that_are_full() -> None:
    state = finished(limit=6)
    plan = planned(state, limit=10)
    assert plan.grows
    assert (plan.unchanged_photos("align"), plan.unchanged_batches("align")) == (6, 1)
    grown = plan.after_growth()
    assert not grown.grows
    assert grown.earlier_photos == 6
    assert grown.state.stage("align").batches == grown.state.stage("score").batches == {0}
    assert not {"select", "pack"} & grown.state.stages.keys()
    assert grown.batches_left == {1, 2}
    assert planned(state, limit=6).after_growth().state == state


def test_other_photos_leave_no_batch_unchanged() -> None:
    state = finished(limit=6)
    for options in ({"ids": ["000002", "000003", "000004", "000005"]}, {"limit": 5}):
        plan = planned(state, **options)
        assert (plan.unchanged_photos("align"), plan.unchanged_batches("align")) == (0, 0)
        assert plan.after_growth().state.stage("align").batches == set()
    damaged = state.stage("align").provenance
    assert damaged is not None
    tables = [{**damaged.ingredients[0], "photos": "6"}, *damaged.ingredients[1:]]
    stages = {"align": StageState(Provenance("", tables), batches=frozenset({0, 1}))}
    assert planned(replace(state, stages=stages), limit=10).unchanged_batches("align") == 0


def test_what_a_redo_deletes() -> None:
    state = replace(finished(), files={"selection.csv": 1, "celebahq-64x64.h5": 1, "summary.json": 1, "mine.txt": 1})
    plan = planned(state, redo="select")
    assert sorted(path.name for path in plan.redone_files()) == [
        "celebahq-64x64-labels.npy",
        "celebahq-64x64.h5",
        "index.html",
        "rejected.csv",
        "selection.csv",
        "summary.json",
    ]
    after = plan.after_redo()
    assert after.state.stages.keys() == {"align", "score"}
    assert after.state.files == {"mine.txt": 1}
    assert planned(state).after_redo().state == state
