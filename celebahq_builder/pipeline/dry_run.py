"""The plan of a build as text: settings, what is done, what is left, and the disk space that it needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from celebahq_builder.config import flatten, to_mapping
from celebahq_builder.outcome import counted
from celebahq_builder.pipeline.growth import checked_plan, outdated_results
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.pipeline.request import BuildOptions, make_request
from celebahq_builder.pipeline.stage import DatasetStage
from celebahq_builder.progress import size
from celebahq_builder.sources.official import archives
from celebahq_builder.sources.photo import PhotoSource

PNG_BYTES = 1.3
"""Bytes of an aligned face as a PNG file per pixel."""


def dry_run(source: PhotoSource, out: Path | str, **options: Unpack[BuildOptions]) -> list[str]:
    """Return what `build` would do with the same arguments, as lines of text; nothing is written.

    Args:
        source: see `build.build`.
        out: see `build.build`.
        options: the other arguments of `build.build`.

    Returns:
        Settings with their origins, what is done, what is left, and the disk space that it needs.

    Raises:
        CelebAHQError: as `build.build` raises before any work.
    """
    plan = checked_plan(make_request(source, out, **options)).after_redo()
    outdated = outdated_results(plan)
    deleted = [f"deleted: results of {outdated}"] if outdated.ids else []
    return [*describe_plan(plan.after_growth()), *deleted]


def describe_plan(plan: BuildPlan) -> Iterator[str]:
    """Yield the plan in lines for people: settings with their sources, stages, disk space."""
    request, source = plan.request, plan.request.source
    yield "settings:"
    for key, value in flatten(to_mapping(request.recipe)).items():
        yield f"  {key} = {json.dumps(value)}  ({request.origins.get(key, 'default')})"
    unusable = f"; {len(source.rejected)} rejected by the table" if source.rejected else ""
    yield f"photos: {source.counts} in {source.folder}{unusable}"
    yield from (f"warning: {warning}" for warning in source.warnings)
    if any(photo.listed for photo in source.photos):
        deltas = (
            f"from {len(archives(request.deltas))} archives in {request.deltas}" if request.deltas else "none given"
        )
        yield f"image list: MD5s of all photos are checked; deltas: {deltas}"
    if plan.earlier_photos:
        results = f"the results of about {counted(plan.earlier_photos, source.counts.unit)}"
        yield f"growth: {results} are in {request.workspace.root}, and are used"
    yield "stages:"
    for name in plan.stage_names[: plan.stage_names.index(plan.until) + 1]:
        yield f"  {name}: {_describe_stage(plan, name)}"
    if shard := request.shard:
        batches = shard.batches(plan.batches)
        left = plan.batches_left.intersection(batches)
        yield f"shard {shard}: {len(left)} of its {len(batches)} batches are left; another command selects and packs"
    parent = next(
        path for path in (request.workspace.root, *request.workspace.root.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(parent).free
    left_bytes = round(_disk_bytes(plan))
    work = f"about {size(left_bytes)} still to be written" if left_bytes else "nothing still to be written"
    yield f"disk: {work}, {size(free)} free in {parent}"


def _describe_stage(plan: BuildPlan, name: str) -> str:
    if name not in plan.on_disk:
        done = all(plan.is_complete(later) for later in plan.on_disk if later in plan.photo_stage_names)
        return "result is not stored" if done else "to do; result is not stored"
    if plan.is_complete(name):
        return "complete"
    if name in plan.photo_stage_names:
        return f"{len(plan.state.stage(name).batches)} of {plan.batches} batches done"
    return "to do"


def _disk_bytes(plan: BuildPlan) -> float:
    """Estimate what a run will write: PNG files, and the files of the stages that work on all photos."""
    recipe, photos = plan.request.recipe, len(plan.request.source.photos)
    batches_done = len(plan.state.stage(plan.image_stage).batches)
    photos_done = min(max(batches_done * plan.batch_photos, plan.earlier_photos), photos)
    images_left = photos - photos_done if plan.image_stage in plan.on_disk else 0
    disk_bytes = images_left * recipe.resolution**2 * PNG_BYTES
    for stage in recipe.stages():
        if isinstance(stage, DatasetStage):
            settings = recipe.settings(stage)
            photos = stage.most_kept(settings, photos)
            if stage.name in plan.on_disk and not plan.is_complete(stage.name):
                disk_bytes += stage.estimate_bytes(settings, photos, recipe.resolution)
    return disk_bytes
