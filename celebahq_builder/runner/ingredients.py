"""What each stage's result depends on, and so what tells whether an old one still holds."""

from __future__ import annotations

from typing import Any

from celebahq_builder.pretrained import entry
from celebahq_builder.recipe import to_mapping
from celebahq_builder.runner.request import Request
from celebahq_builder.source.photo import Source
from celebahq_builder.stages import align, denoise, exact, official, pack, region, score, select, upscale
from celebahq_builder.stages.recipe import STAGES
from celebahq_builder.workspace import Ingredients


def ingredients(request: Request, source: Source) -> dict[str, Ingredients]:
    """Return what each stage's result depends on: its version, settings and weights, and all of that upstream."""
    recipe = request.recipe
    resolution: dict[str, Any] = {"resolution": recipe.resolution}
    own: dict[str, dict[str, Any]] = {
        "source": {
            "photos": len(source.photos),
            "limit": request.limit,
            "ids": request.ids,
            "sha256": source.sha256(),
        },
        "region": {"version": region.VERSION, **to_mapping(recipe.region), **resolution},
        "denoise": {"version": denoise.VERSION, **to_mapping(recipe.denoise), **_hash(recipe.denoise.weights)},
        "upscale": {"version": upscale.VERSION, **to_mapping(recipe.upscale), **_hash(recipe.upscale.weights)},
        "align": {"version": align.VERSION, **to_mapping(recipe.align), **resolution},
        "score": {"version": score.VERSION, **to_mapping(recipe.score)},
        "select": {"version": select.VERSION, **to_mapping(recipe.select)},
        "pack": {"version": pack.VERSION, **to_mapping(recipe.pack)},
    }
    if recipe.method == "exact":
        steps = {"method": recipe.method, "exact_version": exact.VERSION}
        own["region"] |= steps
        own["denoise"], own["upscale"], own["align"] = dict(steps), dict(steps), {**steps, **resolution}
        if any(photo.listed for photo in source.photos):
            own["align"] |= {"official_version": official.VERSION, "deltas": "added" if request.deltas else "none"}
    if recipe.pack.order == "shuffled":
        own["pack"]["seed"] = recipe.seed
    table = [{"name": name, **values} for name, values in own.items()]
    return {name: table[: i + 2] for i, name in enumerate(STAGES)}


def _hash(weights: str) -> dict[str, str]:
    return {"weights_sha256": entry(weights).sha256}
