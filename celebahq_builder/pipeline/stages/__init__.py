"""The stages of a build, in the order in which a photo passes them.

A stage is a class in a file of this folder. `METHODS` lists it as ``file.Class``; its name is the class's in lower
case. Recipes, the command line, workers, fingerprints, manifests and the report follow from these lists.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celebahq_builder.pipeline.stage import Stage

METHODS = {
    "paper": (
        "crop.Crop",
        "denoise.Denoise",
        "upscale.Upscale",
        "align.Align",
        "score.Score",
        "select.Select",
        "pack.Pack",
    ),
    "exact": (
        "exact.Crop",
        "exact.Upscale",
        "exact.Align",
        "score.Score",
        "select.Select",
        "pack.Pack",
    ),
}
"""``paper``: the method of the paper, with networks; ``exact``: the authors' public tool, to the last bit."""


def stage_names(method: str | None = None) -> tuple[str, ...]:
    """Return the names of a method's stages in order, or of the stages of all methods; imports no stage.

    >>> stage_names("exact")
    ('crop', 'upscale', 'align', 'score', 'select', 'pack')
    """
    listed = METHODS[method] if method else [reference for stages in METHODS.values() for reference in stages]
    return tuple(dict.fromkeys(reference.partition(".")[2].lower() for reference in listed))


@functools.cache
def load_stages(method: str) -> tuple[Stage[Any], ...]:
    """Import the stages of a method and return them in order."""
    parts = (reference.split(".") for reference in METHODS[method])
    return tuple(getattr(import_module(f"{__name__}.{module}"), name)() for module, name in parts)
