"""Verified weights by name: registry.toml, SHA-256 checks, and loading of the networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from celebahq_builder.config import bundled, from_mapping, read_toml
from celebahq_builder.errors import CelebAHQError, RecipeError, WeightsError
from celebahq_builder.models.autoencoder import Autoencoder
from celebahq_builder.models.srgan import SRGenerator

Architecture = Literal["autoencoder", "srgan"]


@dataclass(frozen=True)
class NetworkShape:
    """Which network, and how large; enough to build it."""

    architecture: Architecture
    widths: tuple[int, ...]
    """Channels: of each of the autoencoder's three levels; of the generator, and perhaps of its noise."""
    blocks: tuple[int, ...]
    """Residual blocks of each level."""

    def __post_init__(self) -> None:
        widths, blocks = ((3,), 3) if self.architecture == "autoencoder" else ((1, 2), 1)
        if len(self.widths) not in widths or len(self.blocks) != blocks:
            raise ValueError(
                f"{self.architecture} needs {' or '.join(map(str, widths))} widths and {blocks} blocks; "
                f"got widths = {list(self.widths)}, blocks = {list(self.blocks)}"
            )

    def build(self) -> Autoencoder | SRGenerator:
        """Return the network with fresh weights."""
        if self.architecture == "autoencoder":
            return Autoencoder(self.widths, self.blocks)  # type: ignore[arg-type]
        return SRGenerator(self.widths[0], self.blocks[0], *self.widths[1:])


@dataclass(frozen=True)
class RegistryEntry:
    """One weight file of the registry."""

    file: str
    sha256: str
    size_bytes: int
    shape: NetworkShape
    licence: str
    data: str
    """What it was trained on."""
    command: str
    """The command line that trains it again."""
    scores: dict[str, float] = field(default_factory=dict)
    """Measured figures: name with unit -> value."""


def read_registry(folder: Path | None = None) -> dict[str, RegistryEntry]:
    """Return all entries of ``registry.toml`` in `folder`, by default the bundled one, by name.

    Raises:
        RecipeError: the registry is missing or malformed.
    """
    path = (folder or bundled("pretrained")) / "registry.toml"
    if not path.exists():
        raise RecipeError(f"{path} does not exist; `celebahq weights export` makes a folder with a registry")
    tables = read_toml(path)
    text = path.read_text(encoding="utf-8")
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise RecipeError(f"{path}: {name} must be a table, got {values!r}")
    return {
        name: from_mapping(RegistryEntry, values, where=str(path), text=text, table=(name,))
        for name, values in tables.items()
    }


def locate(name: str, folder: Path | None = None) -> tuple[Path, str]:
    """Return the folder of the registry that `name` is to be found in, and the entry's name there.

    Args:
        name: ``NAME``, or ``DIR/NAME`` for the entry NAME of ``DIR/registry.toml``; DIR as any path, from the root
            or from the working directory.
        folder: where a ``NAME`` without DIR is looked for; None is the bundled registry's.
    """
    directory, slash, own = name.rpartition("/")
    if slash:
        return Path(directory or "/"), own
    return folder or bundled("pretrained"), name


def find_entry(name: str, folder: Path | None = None) -> RegistryEntry:
    """Return the registry's entry for ``NAME`` or ``DIR/NAME``, see `locate`.

    Raises:
        WeightsError: there is no such registry, or none of that name in it.
        RecipeError: the registry is malformed.
    """
    place, own = locate(name, folder)
    path = place / "registry.toml"
    if not path.exists():
        raise WeightsError(
            f"weights {name!r} were looked for in {path}, which does not exist; `celebahq weights export RUN --to DIR "
            f"--name NAME` makes DIR/NAME, bundled are {', '.join(sorted(read_registry()))}"
        )
    known = read_registry(place)
    if own not in known:
        raise WeightsError(
            f"no weights are called {name!r}; the registry has {', '.join(sorted(known)) or 'none'} ({path}); "
            "give one of these, or DIR/NAME for those of another registry"
        )
    return known[own]


def load_network(
    name: str, device: torch.device | str = "cpu", folder: Path | None = None
) -> Autoencoder | SRGenerator:
    """Return the network ``NAME`` or ``DIR/NAME`` with its weights, in eval mode, without gradients, channels last.

    Args:
        name: see `locate`.
        device: where the network is to be.
        folder: where a ``NAME`` without DIR is looked for; None is the bundled registry's.

    Raises:
        WeightsError: unknown name, missing file, a hash that differs, or tensors that do not fit the network.
        RecipeError: the registry is malformed.
    """
    known = find_entry(name, folder)
    path = locate(name, folder)[0] / known.file
    net = known.shape.build()
    load_tensors(net, read_verified(path, known.sha256), path)
    net.eval().requires_grad_(False)
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def read_verified(path: Path, sha256: str) -> bytes:
    """Return the bytes of a weight file whose SHA-256 is `sha256`.

    Raises:
        WeightsError: the file is missing or its hash differs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"weight file {path} cannot be read: {error.strerror}; check out the project, or export the weights, again"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"weight file {path} has SHA-256 {found}, the registry says {sha256}: it was altered or cut short; "
            "check out the project, or export the weights, again"
        )
    return data


def load_tensors(net: nn.Module, data: bytes, path: Path) -> None:
    """Copy the tensors of a safetensors file into `net`, all of them and no others.

    Raises:
        WeightsError: not a safetensors file, or of another network.
    """
    try:
        net.load_state_dict(load_safetensors(data))
    except SafetensorError as error:
        raise WeightsError(f"weight file {path} is not a safetensors file: {error}") from None
    except RuntimeError as error:
        raise WeightsError(
            f"weight file {path} belongs to another network: {str(error).splitlines()[1].strip()}"
        ) from None


def parameter_count(shape: NetworkShape) -> int:
    """Return how many numbers a network has to learn."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in shape.build().parameters())


def nonfinite_tensor(net: nn.Module) -> str:
    """Return the name of a tensor of `net` that holds an infinity or a NaN; an empty string if there is none."""
    return next((name for name, tensor in net.state_dict().items() if not tensor.isfinite().all()), "")


HEAD = ("name", "network", "parameters", "size", "licence", "scores")

SCORES = 3
"""Figures of an entry that the table shows."""


def table_lines(folder: Path | None = None) -> Iterator[str]:
    """Yield the registry of a folder, by default the bundled one, as lines of a table.

    Raises:
        RecipeError: the registry is missing or malformed.
    """
    rows = [HEAD, *(_row(name, known) for name, known in read_registry(folder).items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def verify_weights(names: Sequence[str] = (), folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield name and problem of each entry asked for, by default all of the registry; no problem is an empty string.

    Args:
        names: ``NAME`` or ``DIR/NAME``, see `pretrained.locate`.
        folder: of the registry that a ``NAME`` is looked for in; None is the bundled one.

    Raises:
        RecipeError: no names are given and the registry is missing or malformed.
    """
    for name in names or read_registry(folder):
        yield name, _problem(name, folder)


def _row(name: str, known: RegistryEntry) -> tuple[str, ...]:
    widths, blocks = ("/".join(map(str, numbers)) for numbers in (known.shape.widths, known.shape.blocks))
    network = f"{known.shape.architecture} {widths}, {blocks} blocks"
    shown = [f"{key} {value:g}" for key, value in known.scores.items()]
    scores = ", ".join(shown[:SCORES]) + (f", {len(shown) - SCORES} more" if len(shown) > SCORES else "")
    return name, network, f"{parameter_count(known.shape):,}", f"{known.size_bytes / 1e6:.2f} MB", known.licence, scores


def _problem(name: str, folder: Path | None) -> str:
    try:
        known = find_entry(name, folder)
        path = locate(name, folder)[0] / known.file
        if path.is_file() and path.stat().st_size != known.size_bytes:
            return f"{path} has {path.stat().st_size} bytes, the registry says {known.size_bytes}"
        wrong = nonfinite_tensor(load_network(name, folder=folder))
    except CelebAHQError as error:
        return str(error)
    return f"{path}: {wrong} has values that are not finite" if wrong else ""
