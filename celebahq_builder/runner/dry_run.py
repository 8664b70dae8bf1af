"""What a run would do, told without doing it."""

from __future__ import annotations

import json
import shutil

from celebahq_builder.formats.deltas import archives
from celebahq_builder.recipe import flatten, to_mapping
from celebahq_builder.runner.plan import Plan
from celebahq_builder.runner.request import Request
from celebahq_builder.source.photo import Source
from celebahq_builder.stages.recipe import PHOTO_STAGES, BuildRecipe


def dry_run(request: Request, source: Source) -> list[str]:
    """Return what a run would do, in lines: settings with their origins, what is done, what is left, disk needed.

    Raises:
        FingerprintMismatch: the directory holds results of other settings or photos.
    """
    plan = Plan(request, source)
    workspace, recipe = plan.workspace, plan.recipe
    lines = ["settings:"]
    for key, value in flatten(to_mapping(recipe)).items():
        lines.append(f"  {key} = {json.dumps(value)}  ({request.origins.get(key, 'default')})")
    lines.append(f"photos: {len(source.photos)} in {source.folder}; {len(source.rejected)} rejected by the table")
    lines += [f"warning: {warning}" for warning in source.warnings]
    if any(photo.listed for photo in source.photos):
        there = f"from {len(archives(request.deltas))} archives in {request.deltas}" if request.deltas else "none given"
        lines.append(f"image list: MD5s of all photos are checked; deltas: {there}")
    plan.check()
    lines.append("stages:")
    left = 0
    for name in plan.on_disk:
        stage = workspace.stage(name)
        done = len(stage.batches_done())
        complete = stage.is_complete(plan.ingredients[name])
        if name == "align":
            left = len(source.photos) - min(done * plan.batch_photos, len(source.photos))
        state = (
            "complete" if complete else f"{done} of {plan.batches} batches done" if name in PHOTO_STAGES else "to do"
        )
        lines.append(f"  {name}: {state}")
    need = _disk_bytes(recipe, left, 0 if workspace.hdf5_path(recipe.resolution).exists() else len(source.photos))
    parent = next(p for p in (request.out, *request.out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    lines.append(f"disk: about {need / 1e9:.1f} GB still to be written, {free / 1e9:.1f} GB free in {parent}")
    return lines


def _disk_bytes(recipe: BuildRecipe, images_left: int, to_pack: int) -> float:
    """Estimate what a run will write: PNGs of 1.3 bytes per pixel, and what real CelebA-HQ takes as a pyramid."""
    pixels = recipe.resolution**2
    pyramid = {"none": 4.0, "gzip": 2.7, "blosc2": 2.4}[recipe.pack.compression]
    return images_left * pixels * 1.3 + min(to_pack, recipe.select.keep) * pixels * pyramid
