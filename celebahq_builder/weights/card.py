"""The model card of a weight file: what it is, how it was made, what was measured, what it cannot do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from celebahq_builder.pretrained import Shape, parameters
from celebahq_builder.weights.figures import Figure
from celebahq_builder.weights.run import Run

BY_HAND = "## What it cannot do"
"""From this heading on a card belongs to who wrote it: replacing the card keeps it."""

_TO_COMPLETE = "- To be completed by who trained it: the pictures it fails on, and what has not been measured."

_LIMITS = {
    "autoencoder": f"""\
- It removes what JPEG leaves behind; it does not invent what the compression threw away.
- It learnt the damage named above and nothing else: expect noise, blur, scaling artefacts, video compression and
  halftone to stay mostly as they are.
- It expects JPEG's block grid to start at the picture's top left corner, as it does in a file; cut photos on
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
        old: the card to replace, or an empty string; its pictures and all from `BY_HAND` on are kept.
    """
    head, heading, by_hand = old.partition(f"\n{BY_HAND}")
    pictures = re.findall(r"^!\[.*", head, flags=re.MULTILINE)
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
    lines = [f"# {name}", "", *(line for picture in pictures for line in (picture, ""))]
    lines += ["| | |", "|---|---|", *(f"| {what} | {_cell(value)} |" for what, value in rows.items() if value), ""]
    lines += ["## Measured", "", measured, "", *_table(figures), ""]
    limits = heading + by_hand if heading else f"\n{BY_HAND}\n\n{_LIMITS[run.shape.architecture]}"
    return "\n".join(lines) + limits


def describe(shape: Shape) -> str:
    """Return what a network is, in words, with its number of parameters."""
    count = parameters(shape)
    size = f"{count:,} parameters" if count < 100_000 else f"{count / 1e6:.2f} M parameters"
    if shape.architecture == "autoencoder":
        widths, blocks = ("/".join(map(str, numbers)) for numbers in (shape.widths, shape.blocks))
        return f"`nets/autoencoder.py`: residual U-shaped autoencoder, {widths} channels, {blocks} blocks, {size}"
    body = f"{shape.blocks[0]} residual blocks of {shape.widths[0]} channels at low resolution"
    noise = f", {shape.widths[1]} channels of noise hashed from the pixels" if len(shape.widths) > 1 else ""
    return f"`nets/srgan.py`, the generator: {body}{noise}, one 4x pixel-shuffle, {size}"


def gflop_per_megapixel(shape: Shape) -> float:
    """Return what a network costs on a picture of 1000x1000 px; a multiplication and an addition are two FLOP.

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
