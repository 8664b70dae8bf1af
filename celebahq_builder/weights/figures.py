"""Measured figures of a network, from a benchmark's file or a training run's log."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder.errors import RecipeError, WeightsError

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
