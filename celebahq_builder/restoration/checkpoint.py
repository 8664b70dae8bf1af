"""Checkpoints of a restoration training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from celebahq_builder.config import flatten
from celebahq_builder.errors import TrainingError
from celebahq_builder.models.generator_file import save_tensors

Trained = dict[str, tuple[nn.Module, torch.optim.Adam]]
"""The networks that a run trains, each with its optimiser, by name."""

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state of a parameter."""


class Checkpoint:
    """Weights, averaged weights, Adam's moments and the step of one run, in ``checkpoint.safetensors``.

    A run trains one network or, with an adversary, two; the first one named is the one whose weights are averaged
    and exported.

    Beside the checkpoint lies ``weights.safetensors``, the weights with the best score so far, averaged and
    finished, with all that a registry wants to know of them.
    """

    def __init__(self, folder: Path, nets: Trained, recipe: dict[str, Any], about: dict[str, str]) -> None:
        self.nets, self.recipe, self.about = nets, recipe, about
        self.net = next(iter(nets.values()))[0]
        self.averaged = copy.deepcopy(self.net).requires_grad_(False)
        self.step = 0
        self.best = float("-inf")
        self.path = folder / "checkpoint.safetensors"
        self.best_path = folder / "weights.safetensors"

    @classmethod
    def open(cls, folder: Path, nets: Trained, recipe: dict[str, Any], about: dict[str, str] | None = None) -> Self:
        """Return the run's state: the one on disk, or a fresh one.

        Args:
            folder: of the run.
            nets: each network of the run with its optimiser, by name.
            recipe: what the run depends on, as plain values.
            about: what else the exported weights say of themselves.

        Raises:
            TrainingError: the folder holds a run of another recipe; names the first key that differs.
        """
        state = cls(folder, nets, recipe, about or {})
        if state.path.exists():
            state._restore()
        return state

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the averaged weights towards those of the first network."""
        averaged: list[Tensor] = list(self.averaged.parameters())
        current: list[Tensor] = list(self.net.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def save(self, step: int, score: float, final: nn.Module | None = None) -> None:
        """Write the state after `step` steps; and the weights to export, if `score` is the best so far.

        Args:
            step: how many steps there have been.
            score: of the weights to export; higher is better.
            final: network with those weights; None for the averaged ones.
        """
        self.step = step
        if score > self.best:
            self.best = score
            about = {**self.about, "recipe": json.dumps(self.recipe), "step": str(step)}
            save_tensors(self.best_path, dict((final or self.averaged).state_dict()), about)
        tensors = {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        for name, (net, optimiser) in self.nets.items():
            tensors |= {f"{name}.{k}": v for k, v in net.state_dict().items()}
            for parameter_name, parameter in net.named_parameters():
                moments = optimiser.state[parameter]
                tensors |= {f"{name}.adam.{key}.{parameter_name}": moments[key] for key in MOMENTS}
        meta = {"step": str(step), "best": repr(self.best), "recipe": json.dumps(self.recipe)}
        save_tensors(self.path, tensors, meta)

    def _restore(self) -> None:
        try:
            with safe_open(self.path, "pt") as file:
                meta = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise TrainingError(
                f"{self.path} is damaged ({error}); delete it to start over, or use another --out"
            ) from None
        if not {"recipe", "step", "best"} <= meta.keys():
            raise TrainingError(f"{self.path} is not a checkpoint of a run; delete it to start over")
        old, new = flatten(json.loads(meta["recipe"])), flatten(json.loads(json.dumps(self.recipe)))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise TrainingError(
                    f"{self.path.parent} was trained with {key} = {old.get(key)}, this run asks {new.get(key)}; "
                    "use another --out"
                )
        self.averaged.load_state_dict(_under("averaged.", tensors))
        for name, (net, optimiser) in self.nets.items():
            own = _under(f"{name}.", tensors)
            net.load_state_dict({key: value for key, value in own.items() if not key.startswith("adam.")})
            for parameter_name, parameter in net.named_parameters():
                optimiser.state[parameter] = {
                    key: own[f"adam.{key}.{parameter_name}"].to(parameter.device if key != "step" else "cpu")
                    for key in MOMENTS
                }
        self.step, self.best = int(meta["step"]), float(meta["best"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
