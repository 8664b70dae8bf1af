"""The interface of a training that `training.loop` runs: its recipe, its photos, its networks, its steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from celebahq_builder.config import load, override, read_toml
from celebahq_builder.errors import RecipeError, TrainingError
from celebahq_builder.image_set import Pixels
from celebahq_builder.limits import MAX_CHECKPOINT_BYTES
from celebahq_builder.models.registry import NetworkShape, find_entry, load_network
from celebahq_builder.models.weight_file import to_channels_last
from celebahq_builder.training.distributed import DistributedContext

IN_MEMORY_BYTES = 4 * 2**30
"""Decoded photos, or crops of them, up to this total are kept in memory. The others are decoded again for every use."""

PHOTO_LIMIT = "the limit for training photos"
"""Name of the largest number of pixels, for messages."""

PARAMETERS_MAX = MAX_CHECKPOINT_BYTES // 16
"""Largest number of parameters of all networks of a training. A checkpoint holds up to four float32 values of each: the
parameter, its average, and two moments of Adam."""

Batch = TypeVar("Batch")
T = TypeVar("T")

Scores = dict[str, float]
"""Results of a validation, by name with unit."""

SampleRows = list[list[Pixels]]
"""Sample images of one size, uint8 [H, W, 3]; each row shows one photo."""


class LoopRecipe(Protocol):
    """Settings that the loop uses; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def steps(self) -> int:
        """Number of steps."""

    @property
    def ema(self) -> float:
        """Decay per step of the averaged weights. The averaged weights are validated and exported."""

    @property
    def validate_every(self) -> int:
        """Steps between validations. Each validation writes a checkpoint."""


class Photos:
    """The photos of a training."""

    training: Sequence[object]
    held_out: Sequence[object]
    """Photos for validation."""
    digest: str
    """Hash that identifies the photos in a checkpoint."""

    @property
    def summary(self) -> str:
        """The numbers of photos as text: ``300 photos, 8 held out``."""
        return f"{len(self.training)} photos, {len(self.held_out)} held out"


def split(photos: Sequence[T], held_out: int) -> tuple[list[T], list[T]]:
    """Return training photos and held-out photos.

    The split is deterministic: every k-th photo is held out, with k = photos // `held_out`.

    >>> split("abcdef", 2)
    (['b', 'c', 'e', 'f'], ['a', 'd'])
    """
    positions = {i * (len(photos) // held_out) for i in range(held_out)}
    return [photo for i, photo in enumerate(photos) if i not in positions], [photos[i] for i in sorted(positions)]


class Task(ABC, Generic[Batch]):
    """The networks of a training, their data, and one training step."""

    Recipe: ClassVar[type[LoopRecipe]]
    """Class of its recipes."""
    recipe: LoopRecipe
    config: Mapping[str, object]
    """All that decides the weights, except the photos, as plain values."""
    photos: Photos
    shape: NetworkShape
    """Shape of `network`."""
    network: nn.Module
    """The network whose weights are averaged, validated and exported; one of `networks`."""
    networks: Mapping[str, nn.Module]
    """All networks of the training, by name."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    """The optimizer of each network, by its name."""
    loss_names: tuple[str, ...]
    """Names of the values that `training_step` returns."""

    @abstractmethod
    def __init__(self, recipe: Any, photos: Path, context: DistributedContext) -> None:
        """Read the photos and make the networks.

        Args:
            recipe: instance of `Recipe`.
            photos: folder of the photos.
            context: the processes that share each batch. Rank 0 validates and writes.
        """

    @abstractmethod
    def draw_batch(self, step: int) -> Batch:
        """Return this process's share of the batch of a step, on the CPU; worker processes call it, too."""

    @abstractmethod
    def training_step(self, step: int, batch: Batch) -> Tensor:
        """Update all networks once.

        Returns:
            The losses, float [len(loss_names)], without gradients.
        """

    def export_network(self, averaged: nn.Module) -> nn.Module:
        """Return the network that is validated and exported, made from the averaged one, which is not changed."""
        return averaged

    @abstractmethod
    def validate(self, net: nn.Module) -> tuple[Scores, SampleRows]:
        """Return the scores of a network on the held-out photos, and sample images."""

    def selection_score(self, scores: Scores) -> float | None:
        """Return the number that selects the best weights, higher is better; None: the last weights are exported."""
        return None


AnyTask: TypeAlias = Task[Any]
Tasks = Mapping[str, type[AnyTask]]
"""Trainings by the key ``task`` of their recipes."""


def load_recipe(
    path: Path, kind: str, tasks: Tasks, overrides: Mapping[str, object], start: str | None
) -> tuple[type[AnyTask], LoopRecipe]:
    """Read a training recipe.

    Args:
        path: of the recipe.
        kind: prefix of the recipe's key ``task``.
        tasks: trainings of this kind.
        overrides: values by dotted key that replace those of the recipe.
        start: weights to start from, NAME or DIR/NAME of a registry; None takes those of the recipe.

    Returns:
        The training that the recipe describes, and the recipe.

    Raises:
        RecipeError: the recipe is malformed, or of another kind of training.
    """
    overrides = {**overrides, **({"start": start} if start else {})}
    name = str(override(read_toml(path, kind), overrides).get("task", ""))
    if not name.startswith(kind):
        raise RecipeError(f"{path}: task = {name}; this command trains task = {kind}, choose another `recipe`")
    task = tasks.get(name) or tasks[kind]
    return task, load(task.Recipe, path, overrides)


# --- The networks with which a training begins ------------------------------------------------------------------


def check_size(make_networks: Callable[[], Iterable[nn.Module]]) -> None:
    """Raise a RecipeError if networks have more than `PARAMETERS_MAX` parameters, before memory is taken for them.

    `make_networks` is called on the device ``meta``.
    """
    with torch.device("meta"):
        count = sum(parameter.numel() for network in make_networks() for parameter in network.parameters())
    if count > PARAMETERS_MAX:
        raise RecipeError(
            f"the networks of the recipe have {count:,} parameters, and {PARAMETERS_MAX:,} can be trained at most; "
            "choose smaller networks"
        )


def start_weights(name: str, shape: NetworkShape, config: dict[str, object]) -> Mapping[str, Tensor]:
    """Return the weights from which a training starts, and add their hash to its config.

    Args:
        name: NAME or DIR/NAME of a registry; empty for none.
        shape: of the network to train.
        config: see `training.interface.Task`.

    Raises:
        TrainingError: the weights belong to a network of another shape.
        WeightsError: the weights are unknown or damaged.
    """
    if not name:
        return {}
    known = find_entry(name)
    if known.shape != shape:
        raise TrainingError(f"start = {name} is {known.shape}, the recipe's net is {shape}")
    config["start_sha256"] = known.sha256
    return load_network(name).state_dict()


def initial_network(shape: NetworkShape, start: Mapping[str, Tensor], seed: int, device: torch.device) -> nn.Module:
    """Return a network to train, in channels-last memory format; weights that `start` lacks are random.

    Raises:
        RecipeError: the network is too large.
    """
    check_size(lambda: [shape.build()])
    torch.manual_seed(seed)
    net = shape.build()
    net.load_state_dict(net.state_dict() | dict(start))
    return to_channels_last(net, device)
