"""The stages of a build, in the order in which a photo passes them.

A stage is a class in a file of this folder. `METHODS` lists each by its `name`, as ``file.Class``. Recipes, the command
line, workers, fingerprints, manifests and the report follow from these lists.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celebahq_builder.pipeline.stage import AnyStage

METHODS = {
    "paper": {
        "crop": "crop.CropStage",
        "denoise": "denoise.DenoiseStage",
        "upscale": "upscale.UpscaleStage",
        "align": "align.AlignStage",
        "score": "score.ScoreStage",
        "select": "select.SelectStage",
        "pack": "pack.PackStage",
    },
    "exact": {
        "crop": "exact.ExactCropStage",
        "upscale": "exact.ExactUpscaleStage",
        "align": "exact.ExactAlignStage",
        "score": "score.ScoreStage",
        "select": "select.SelectStage",
        "pack": "pack.PackStage",
    },
}
"""``paper``: the method of the paper, with networks; ``exact``: the authors' public tool, to the last bit."""


def stage_names() -> tuple[str, ...]:
    """Return the names of the stages of all methods, in order; imports no stage.

    >>> stage_names()
    ('crop', 'denoise', 'upscale', 'align', 'score', 'select', 'pack')
    """
    return tuple(dict.fromkeys(name for stages in METHODS.values() for name in stages))


@functools.cache
def load_stages(method: str) -> tuple[AnyStage, ...]:
    """Import the stages of a method and return them in order."""
    parts = (reference.split(".") for reference in METHODS[method].values())
    stages = tuple(getattr(import_module(f"{__name__}.{module}"), name)() for module, name in parts)
    assert tuple(stage.name for stage in stages) == tuple(METHODS[method]), "a key of METHODS is not the stage's name"
    return stages
