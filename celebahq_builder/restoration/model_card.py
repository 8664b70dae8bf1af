"""Model cards of weight files, and the figures that they report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from celebahq_builder.config import from_mapping
from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.landmarks.refiner import CROP_PX
from celebahq_builder.landmarks.training import LandmarkRecipe, LandmarkTask
from celebahq_builder.limits import MAX_LIST_BYTES
from celebahq_builder.models.registry import NetworkShape, StoredDtype, parameter_count
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, AdversarialTask
from celebahq_builder.restoration.pixel_training import PixelRecipe, PixelTask
from celebahq_builder.restoration.task import TrainingRecipe
from celebahq_builder.storage import parse_json, read_text
from celebahq_builder.training.logger import read_lines
from celebahq_builder.training.trained_weights import TrainedWeights

# --- Figures ----------------------------------------------------------------------------------------------------

AnyRecipe = TrainingRecipe | LandmarkRecipe
"""Recipe of a training whose weights can be exported."""

NOT_SCORES = frozenset(
    {
        *("step", "steps_per_s"),
        *(name for task in (PixelTask, AdversarialTask, LandmarkTask) for name in task.loss_names),
    }
)
"""Keys of a training log that are not scores."""


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    >>> Figure("LIVE1, JPEG 10: mean gain", 1.25, "dB", ">= 1.2", "met").key
    'live1_jpeg_10_mean_gain_db'
    """

    what: str
    value: float
    """A finite number."""
    unit: str = ""
    goal: str = ""
    """Threshold as text: ``>= 1.2``."""
    verdict: str = ""
    """``met`` or ``MISSED``."""

    @property
    def key(self) -> str:
        """Name in a registry: lower case letters, digits and underscores, with the unit at the end."""
        return re.sub(r"[^a-z0-9]+", "_", f"{self.what} {self.unit}".lower()).strip("_")


def read_figures(path: Path) -> tuple[Figure, ...]:
    """Read the figures of a JSON file; six digits of each value are kept.

    Args:
        path: of an object of name -> number, or of a list of rows. A row is an object with ``what`` and ``value``, and
            optionally ``unit``, ``goal`` and ``verdict``, as the benchmarks write it.

    Raises:
        RecipeError: the file has another structure, a value is not a finite number, or two figures have one name.
    """
    where = f"`scores` {path}"
    try:
        found = parse_json(read_text(path, MAX_LIST_BYTES))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where} cannot be read as JSON: {error}") from None
    rows = [{"what": name, "value": value} for name, value in found.items()] if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise RecipeError(f"{where} must be an object of name -> number or a list of rows, got {str(found)[:80]}")
    figures = tuple(_figure(row, f"{where}, row {number}") for number, row in enumerate(rows, start=1))
    if not figures:
        raise RecipeError(f"{where} holds no figures; give at least one")
    for key, count in Counter(figure.key for figure in figures).items():
        if count > 1 or not key:
            raise RecipeError(f"{where}: {key[:60]!r} is the name of {count} figure(s); give every figure its own name")
    return figures


def validation_figures(log: Path, step: int) -> tuple[Figure, ...]:
    """Return the scores of one step in the log of a training run, each named ``held_out_<key>``.

    Raises:
        WeightsError: the log cannot be read, lacks scores of that step, or has a score that is not a finite number.
    """
    try:
        lines = [line for line in read_lines(log) if line.get("step") == step]
        scores = {key: value for key, value in lines[-1].items() if key not in NOT_SCORES} if lines else {}
        figures = tuple(
            _figure({"what": f"held_out_{key}", "value": value}, f"{log}, step {step}") for key, value in scores.items()
        )
    except (OSError, AttributeError, RecipeError) as error:
        raise WeightsError(f"{log} cannot be used: {error}; give the figures with `scores`") from None
    if not figures:
        raise WeightsError(f"{log} has no scores of step {step}; give the figures with `scores`")
    return figures


def _figure(row: object, where: str) -> Figure:
    if not isinstance(row, Mapping) or not isinstance(row.get("what"), str):
        raise RecipeError(
            f'{where} must be like {{"what": "LIVE1, gain", "value": 1.1, "unit": "dB"}}, got {str(row)[:80]}'
        )
    known = {key: value for key, value in row.items() if value is not None}
    figure = from_mapping(Figure, known, where=f"{where}, {row['what']}")
    return Figure(figure.what, float(f"{figure.value:.6g}"), figure.unit, figure.goal, figure.verdict)


# --- Cards ------------------------------------------------------------------------------------------------------

MANUAL_SECTION = "## What it cannot do"
"""Text from this heading on is written by hand. A new card keeps it."""

_INPUT_OUTPUT = {
    "autoencoder": "RGB photo of any size, [0, 1]; the same photo without compression artefacts",
    "srgan": "RGB photo of any size, [0, 1]; the same photo at four times its width and height",
    "landmarks": f"RGB crop of {CROP_PX}x{CROP_PX} px around a face, [0, 1]; five points and their expected errors",
}

_TO_COMPLETE = "- To be completed by the author: images on which it fails, and what has not been measured."

_LIMITS = {
    "autoencoder": f"""\
- It removes compression artefacts; it does not restore detail that the compression removed.
- It was trained on the degradation named above. Noise, blur, scaling artefacts, video compression and halftone mostly
  stay as they are.
- It expects the JPEG block grid to start at the top left corner of the image, as it does in a file; crop photos at
  multiples of 16 px.
{_TO_COMPLETE}
""",
    "srgan": f"""\
- The detail that it adds is plausible, not true: it cannot recover detail that the photo does not show.
- It treats everything in its input as detail: remove compression artefacts first.
- Factors other than 4 are reached by resampling its result.
{_TO_COMPLETE}
""",
    "landmarks": f"""\
- It needs first points within the augmentation named above; it does not find faces.
- It learned the convention and the noise of the table that it was trained on; points of other tables may lie elsewhere.
- Hidden points are guesses. Its confidence was learned from the same faces.
{_TO_COMPLETE}
""",
}


def model_card(
    name: str,
    weights: TrainedWeights[AnyRecipe],
    figures: Sequence[Figure],
    *,
    measured: str,
    licence: str,
    data: str,
    dtype: StoredDtype = "float32",
    old: str,
) -> str:
    """Return a model card in Markdown.

    Args:
        name: of the weights.
        weights: the weights and their origin.
        figures: to report.
        measured: sentence before the table of figures.
        licence: of the weights.
        data: description of the training photos.
        dtype: type of the numbers in the weight file.
        old: the card to replace, or an empty string. Its images and its part from `MANUAL_SECTION` on are kept.
    """
    head, heading, manual = old.partition(f"\n{MANUAL_SECTION}")
    images = re.findall(r"^!\[.*", head, flags=re.MULTILINE)
    rows = {
        "network": describe_network(weights.shape),
        "input, output": _INPUT_OUTPUT[weights.shape.architecture],
        "cost": _cost(weights.shape),
        "trained on": f"{weights.photos}: {data}",
        "augmentation" if isinstance(weights.recipe, LandmarkRecipe) else "degradation": "; ".join(
            _degradation(weights.recipe)
        ),
        "started from": f"`{weights.recipe.start}`" if weights.recipe.start else "",
        "command": f"`{weights.command}`" if weights.command else "",
        "steps": f"{weights.step:,}",
        "stored as": f"{dtype}; loading converts to float32" if dtype != "float32" else "",
        "licence": licence,
    }
    lines = [f"# {name}", "", *(line for image in images for line in (image, ""))]
    lines += ["| | |", "|---|---|", *(f"| {what} | {_cell(value)} |" for what, value in rows.items() if value), ""]
    lines += ["## Measured", "", measured, "", *_table(figures), ""]
    limits = heading + manual if heading else f"\n{MANUAL_SECTION}\n\n{_LIMITS[weights.shape.architecture]}"
    return "\n".join(lines) + limits


def describe_network(shape: NetworkShape) -> str:
    """Return a description of a network, with its number of parameters."""
    count = parameter_count(shape)
    size = f"{count:,} parameters" if count < 100_000 else f"{count / 1e6:.2f} M parameters"
    if shape.architecture == "autoencoder":
        widths, blocks = ("/".join(map(str, numbers)) for numbers in (shape.widths, shape.blocks))
        return f"`models/autoencoder.py`: residual U-shaped autoencoder, {widths} channels, {blocks} blocks, {size}"
    if shape.architecture == "landmarks":
        widths, blocks = ("/".join(map(str, numbers)) for numbers in (shape.widths, shape.blocks))
        return f"`models/landmark_network.py`: hourglass with heatmaps, {widths} channels, {blocks} blocks, {size}"
    body = f"{shape.blocks[0]} residual blocks of {shape.widths[0]} channels at low resolution"
    noise = f", {shape.widths[1]} channels of noise hashed from the pixels" if len(shape.widths) > 1 else ""
    return f"`models/srgan.py`, the generator: {body}{noise}, one 4x pixel-shuffle, {size}"


def _cost(shape: NetworkShape) -> str:
    if shape.architecture == "landmarks":
        return f"{gflop(shape, CROP_PX):.3g} GFLOP per crop"
    return f"{gflop(shape, 1000):.3g} GFLOP per input megapixel"


def gflop(shape: NetworkShape, side_px: int) -> float:
    """Return the cost of a network for a square image, in 1e9 floating-point operations.

    A multiplication and an addition are two operations. Convolutions are counted, among them the upscaler's bicubic
    enlargement; interpolation and activations are not.
    """
    with torch.device("meta"):
        net, photo = shape.build().eval(), torch.zeros(1, 3, side_px, side_px)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(photo)
    return float(counter.get_total_flops()) / 1e9


def _degradation(recipe: AnyRecipe) -> Iterator[str]:
    """Yield the degradations or the augmentations of the training photos."""
    if isinstance(recipe, LandmarkRecipe):
        change = recipe.augmentation
        yield (
            f"first points moved by up to {change.shift:.0%} of the crop, scaled by {change.scale:.0%}, rotated by "
            f"{change.rotation_deg:g} degrees"
        )
        for what in ("colour", "grey", "blur", "coarse", "noise", "jpeg", "occlusion"):
            if share := getattr(change, f"{what}_share"):
                yield f"{what} {share:.0%}"
        return
    if isinstance(recipe, PixelRecipe) and recipe.task == "denoise":
        settings = recipe.degradation
        yield f"JPEG quality {settings.quality_min} to {settings.quality_max}"
        yield ", ".join(
            chroma for chroma, share in zip(("4:2:0", "4:2:2", "4:4:4"), settings.sampling_shares, strict=True) if share
        )
        if settings.twice_share:
            rescaled = f", {settings.rescale_share:.0%} of those scaled down between" if settings.rescale_share else ""
            yield f"{settings.twice_share:.0%} compressed twice on shifted grids{rescaled}"
        shares = {"grey": settings.grey_share, "left as they are": settings.clean_share}
        yield from (f"{share:.0%} {what}" for what, share in shares.items() if share)
        return
    yield "downscaling by 4 with an antialiased bicubic filter"
    if not isinstance(recipe, AdversarialRecipe):
        return
    chain = recipe.chain
    if recipe.area_share:
        yield f"in {recipe.area_share:.0%} of the batches with an area filter instead, cleaned by `{chain.weights}`"
    if chain.share:
        quality = f"JPEG quality {chain.quality_min} to {chain.quality_max}"
        yield f"in {chain.share:.0%} of the batches also {quality}, cleaned by `{chain.weights}`"


def _table(figures: Sequence[Figure]) -> Iterator[str]:
    goals = any(figure.goal or figure.verdict for figure in figures)
    yield "| figure | value | goal |" if goals else "| figure | value |"
    yield "|---|---|---|" if goals else "|---|---|"
    for figure in figures:
        cells = [figure.what, f"{figure.value:g} {figure.unit}"]
        if goals:
            unit = "" if not figure.goal or figure.goal.endswith(figure.unit) else f" {figure.unit}"
            cells.append(", ".join(part for part in (f"{figure.goal}{unit}", figure.verdict) if part))
        yield f"| {' | '.join(map(_cell, cells))} |"
    if any(figure.verdict == "MISSED" for figure in figures):
        yield from ("", "These weights do not reach the goals of the rows marked MISSED.")


def _cell(text: str) -> str:
    """Return a text as a cell of a Markdown table: one line, with escaped bars."""
    return " ".join(text.split()).replace("|", r"\|")
