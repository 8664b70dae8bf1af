"""The model card of a weight file, and the figures it reports."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.models.registry import NetworkShape, parameter_count
from celebahq_builder.restoration.publish import Run

NO_SCORES = frozenset({"step", "steps_per_s", "loss", "pixel", "texture", "feature", "adversarial", "discriminator"})
"""What a line of a run's log holds besides scores: its place, the speed, and the losses."""


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    what: str
    value: float
    """Finite; six digits are kept."""
    unit: str = ""
    goal: str = ""
    """What it should be, for people: ``>= 1.2``."""
    verdict: str = ""
    """Whether it is: ``met`` or ``MISSED``."""

    @property
    def key(self) -> str:
        """Its name in a registry: lower case, digits and underscores, the unit last."""
        return re.sub(r"[^a-z0-9]+", "_", f"{self.what} {self.unit}".lower()).strip("_")


def read_figures(path: Path) -> tuple[Figure, ...]:
    """Read the figures of a JSON file: an object of name -> number, or a list of a benchmark's rows.

    A row has ``what`` and ``value``, and may have ``unit``, ``goal`` and ``verdict``.

    Raises:
        RecipeError: not such a file, a value that is no finite number, or two figures of one name.
    """
    where = f"--scores {path}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where} cannot be read as JSON: {error}") from None
    if isinstance(found, Mapping):
        figures = tuple(Figure(name, _number(value, f"{where}: {name}")) for name, value in found.items())
    elif isinstance(found, list):
        figures = tuple(_row(row, f"{where}: row {number}") for number, row in enumerate(found, start=1))
    else:
        raise RecipeError(f"{where} must be an object of name -> number or a list of rows, got {found!r}")
    repeated = [key for key, count in Counter(figure.key for figure in figures).items() if count > 1 or not key]
    if repeated or not figures:
        problem = f"{repeated[0]!r} names more than one figure, or none" if repeated else "it holds no figures"
        raise RecipeError(f"{where}: {problem}; give every figure its own name")
    return figures


def validation(log: Path, step: int) -> tuple[Figure, ...]:
    """Return the scores that a training run's log has of one step, each named ``held_out_<key>``.

    Raises:
        WeightsError: the log lacks that step, cannot be read, or has a score that is no finite number.
    """
    try:
        text = log.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]  # a killed run's last may be cut
        line = [line for line in lines if line["step"] == step][-1]
    except IndexError:
        raise WeightsError(f"{log} has no validation of step {step}; give the figures with --scores") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{log} cannot be read: {error}; give the figures with --scores") from None
    try:
        scores = {
            key: _number(value, f"{log}, step {step}: {key}") for key, value in line.items() if key not in NO_SCORES
        }
    except RecipeError as error:
        raise WeightsError(f"{error}; give the figures with --scores") from None
    if not scores:
        raise WeightsError(f"{log} has no scores of step {step}; give the figures with --scores")
    return tuple(Figure(f"held_out_{key}", value) for key, value in scores.items())


def _row(row: Any, where: str) -> Figure:
    if not isinstance(row, Mapping) or not isinstance(row.get("what"), str):
        raise RecipeError(f'{where} must be like {{"what": "LIVE1, gain", "value": 1.1, "unit": "dB"}}, got {row!r}')
    unit, goal, verdict = (str(row.get(key) or "") for key in ("unit", "goal", "verdict"))
    return Figure(row["what"], _number(row.get("value"), f"{where}, {row['what']}"), unit, goal, verdict)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"{where} must be a finite number, got {value!r}")
    return float(f"{value:.6g}")


BY_HAND = "## What it cannot do"
"""From this heading on a card belongs to who wrote it: replacing the card keeps it."""

_TO_COMPLETE = "- To be completed by who trained it: the images it fails on, and what has not been measured."

_LIMITS = {
    "autoencoder": f"""\
- It removes what JPEG leaves behind; it does not invent what the compression threw away.
- It learnt the damage named above and nothing else: expect noise, blur, scaling artefacts, video compression and
  halftone to stay mostly as they are.
- It expects JPEG's block grid to start at the image's top left corner, as it does in a file; cut photos on
  multiples of 16 px.
{_TO_COMPLETE}
""",
    "srgan": f"""\
- What it adds is likely, not true: a face's detail that the photo does not show cannot be recovered.
- It takes whatever is in its input for detail: clean photos of compression artefacts first.
- Factors other than 4 are reached by resampling its result.
{_TO_COMPLETE}
""",
}


def card(name: str, run: Run, figures: Sequence[Figure], *, measured: str, licence: str, data: str, old: str) -> str:
    """Return a model card in Markdown.

    Args:
        name: of the weights.
        run: what they come from.
        figures: what was measured.
        measured: where the figures come from, as a sentence before their table.
        licence: of the weights.
        data: what they were trained on.
        old: the card to replace, or an empty string; its images and all from `BY_HAND` on are kept.
    """
    head, heading, by_hand = old.partition(f"\n{BY_HAND}")
    images = re.findall(r"^!\[.*", head, flags=re.MULTILINE)
    rows = {
        "network": describe(run.shape),
        "input, output": _IN_OUT[run.shape.architecture],
        "cost": f"{gflop_per_megapixel(run.shape):.3g} GFLOP per input megapixel",
        "trained on": f"{run.photos}: {data}",
        "damage learnt": "; ".join(_damage(run.recipe)),
        "started from": f"`{run.recipe['start']}`" if run.recipe.get("start") else "",
        "command": f"`{run.command}`" if run.command else "",
        "steps": f"{run.step:,}",
        "licence": licence,
    }
    lines = [f"# {name}", "", *(line for image in images for line in (image, ""))]
    lines += ["| | |", "|---|---|", *(f"| {what} | {_cell(value)} |" for what, value in rows.items() if value), ""]
    lines += ["## Measured", "", measured, "", *_table(figures), ""]
    limits = heading + by_hand if heading else f"\n{BY_HAND}\n\n{_LIMITS[run.shape.architecture]}"
    return "\n".join(lines) + limits


def describe(shape: NetworkShape) -> str:
    """Return what a network is, in words, with its number of parameters."""
    count = parameter_count(shape)
    size = f"{count:,} parameters" if count < 100_000 else f"{count / 1e6:.2f} M parameters"
    if shape.architecture == "autoencoder":
        widths, blocks = ("/".join(map(str, numbers)) for numbers in (shape.widths, shape.blocks))
        return f"`nets/autoencoder.py`: residual U-shaped autoencoder, {widths} channels, {blocks} blocks, {size}"
    body = f"{shape.blocks[0]} residual blocks of {shape.widths[0]} channels at low resolution"
    noise = f", {shape.widths[1]} channels of noise hashed from the pixels" if len(shape.widths) > 1 else ""
    return f"`nets/srgan.py`, the generator: {body}{noise}, one 4x pixel-shuffle, {size}"


def gflop_per_megapixel(shape: NetworkShape) -> float:
    """Return what a network costs on an image of 1000x1000 px; a multiplication and an addition are two FLOP.

    Counted over the layers without computing anything; interpolation and activations are left out.
    """
    with torch.device("meta"):
        net, photo = shape.build(), torch.zeros(1, 3, 1000, 1000)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(photo)
    return float(counter.get_total_flops()) / 1e9


_IN_OUT = {
    "autoencoder": "RGB photo of any size, [0, 1]; the same photo without compression artefacts",
    "srgan": "RGB photo of any size, [0, 1]; the same at four times its width and height",
}


def _damage(recipe: dict[str, Any]) -> Iterator[str]:
    """Yield what the training did to its photos, as far as the recipe says."""
    if not str(recipe["task"]).startswith("denoise"):
        yield "reduction to a quarter by antialiased bicubic filtering"
        chain = recipe.get("chain") or {}
        if chain.get("share"):
            quality = f"JPEG quality {chain.get('quality_min')} to {chain.get('quality_max')}"
            yield f"in {chain['share']:.0%} of the batches also {quality}, cleaned by `{chain.get('weights')}`"
        return
    settings = recipe.get("degradation") or {}
    yield f"JPEG quality {settings.get('quality_min', '?')} to {settings.get('quality_max', '?')}"
    chroma = [
        c for c, share in zip(("4:2:0", "4:2:2", "4:4:4"), settings.get("sampling_shares", ()), strict=False) if share
    ]
    if chroma:
        yield ", ".join(chroma)
    if settings.get("twice_share"):
        rescaled = (
            f", {settings['rescale_share']:.0%} of those scaled down between" if settings.get("rescale_share") else ""
        )
        yield f"{settings['twice_share']:.0%} compressed twice on shifted grids{rescaled}"
    for key, words in (("grey_share", "grey"), ("clean_share", "left as they are")):
        if settings.get(key):
            yield f"{settings[key]:.0%} {words}"


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
        yield from ("", "The rows marked missed are goals that these weights do not reach.")


def _cell(text: str) -> str:
    """Return a text as a cell of a Markdown table: one line, no bars."""
    return " ".join(text.split()).replace("|", r"\|")
