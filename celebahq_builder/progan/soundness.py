"""Whether a training is still one: its figures of a tick, and the weights that it would save."""

from __future__ import annotations

import math

import torch

from celebahq_builder.progan.players import Players

EXPLODED = 1e6
"""No loss and no score of a training that goes well is as large. The drift term holds scores of real pictures to some
500; the largest target of the penalty in use, 750, makes scores differ by some 10,000."""

BOUNDED = ("generator_loss", "discriminator_loss", "score_real", "score_fake")
"""The figures that `EXPLODED` is about: penalty and gradient grow with the square of what they are taken of."""


def unsound(figures: dict[str, float], players: Players) -> str | None:
    """Return what is wrong with a training, in words for a message; None where nothing is.

    Args:
        figures: means over a tick, by the names of `players.STATISTICS`.
        players: whose weights must be finite: the last step may have spoilt them and not yet shown it.
    """
    told = ", ".join(f"{name} {value:g}" for name, value in figures.items())
    if not all(map(math.isfinite, figures.values())):
        return f"is not finite ({told})"
    if any(abs(figures[name]) > EXPLODED for name in BOUNDED):
        return f"has exploded ({told})"
    if not _finite(players):
        return f"left weights that are not finite ({told})"
    return None


@torch.no_grad()
def _finite(players: Players) -> bool:
    weights: list[torch.Tensor] = [*players.generator.parameters(), *players.discriminator.parameters()]
    largest = torch._foreach_norm(weights, float("inf"))
    return bool(torch.stack(list(largest)).isfinite().all())
