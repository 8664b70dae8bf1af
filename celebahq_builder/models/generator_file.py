"""The file of a trained ProGAN generator, ``generator.safetensors``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from celebahq_builder.config import from_mapping
from celebahq_builder.errors import RecipeError, WeightsError, first_line
from celebahq_builder.models.progan import Architecture, GeneratorNetwork
from celebahq_builder.models.weight_file import read_weights
from celebahq_builder.storage import parse_json, sha256, write_atomic

FORMAT = "progan-generator-1"

TENSORS_DIGEST = "tensors_sha256"
"""Metadata key of the digest of the tensors; files of early versions lack it."""


def export_generator(
    folder: Path, generator: GeneratorNetwork, level: int, alpha: float, about: Mapping[str, object]
) -> Path:
    """Write ``generator.safetensors`` and its metadata as ``generator.json``; return the path of the first.

    Args:
        folder: of the run.
        generator: the averaged generator.
        level: level that it was trained up to.
        alpha: weight of that level, in (0, 1].
        about: more metadata, as JSON values: kimg, data, recipe, versions.

    Raises:
        DiskFull: no space is left.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    facts = {
        "format": FORMAT,
        "architecture": dataclasses.asdict(generator.architecture),
        "level": level,
        "alpha": alpha,
        TENSORS_DIGEST: digest(tensors),
        **about,
    }
    data = save(tensors, {"progan": json.dumps(facts)})  # safetensors orders several entries at random
    path = folder / "generator.safetensors"
    write_atomic(path, data)
    listed = {**facts, "sha256": sha256(data), "size_bytes": len(data)}
    write_atomic(folder / "generator.json", (json.dumps(listed, indent=1, sort_keys=True) + "\n").encode())
    return path


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator and what its file says about its training."""

    network: GeneratorNetwork
    """The averaged generator, in evaluation mode, without gradients."""
    level: int
    """Level that it was trained up to; log2 of the resolution of its images."""
    alpha: float
    """Weight of that level, from 0 to 1."""
    kimg: float | None = None
    """Thousands of real images that it was trained on, if known."""
    data: Mapping[str, object] | None = None
    """Identity of the training data, if known."""


def load_generator(path: Path, device: torch.device) -> TrainedGenerator:
    """Read a generator.

    Args:
        path: of ``generator.safetensors``, or of the folder of its run.
        device: of the generator.

    Raises:
        WeightsError: there is no such file, it is of another format, or it is damaged.
    """
    file = path / "generator.safetensors" if path.is_dir() else path
    if not file.exists():
        raise WeightsError(f"{file} does not exist; expected a run of celebahq train, or its generator.safetensors")
    metadata, tensors = read_weights(file, "export it again, or get a new copy")
    try:
        facts = parse_json(metadata.get("progan", "{}"))
        found = facts.get("format") if isinstance(facts, dict) else None
        if not isinstance(facts, dict) or found != FORMAT:
            raise WeightsError(f"{file} is not a generator of celebahq train: format {found}, not {FORMAT}")
        architecture = from_mapping(Architecture, facts["architecture"], where="architecture")
        level, alpha, kimg, data = int(facts["level"]), float(facts["alpha"]), facts.get("kimg"), facts.get("data")
        if level not in architecture.levels or not 0 <= alpha <= 1:
            raise ValueError(f"level = {level} and alpha = {alpha} do not fit {architecture.resolution} px")
        if not isinstance(kimg, int | float | None) or not isinstance(data, dict | None):
            raise TypeError("kimg or data have another type")
        network = build_generator(architecture, tensors, device)
        if facts.get(TENSORS_DIGEST, wanted := digest(tensors)) != wanted:
            raise WeightsError(f"{file} is damaged: its tensors are not those that were written; export it again")
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecipeError) as error:
        reason = first_line(error)
        raise WeightsError(f"{file} was written by another version, or changed ({reason}); export it again") from None
    return TrainedGenerator(network, level, alpha, kimg, data)


def build_generator(
    architecture: Architecture, tensors: Mapping[str, Tensor], device: torch.device
) -> GeneratorNetwork:
    """Return a generator in evaluation mode, without gradients, with a copy of these weights.

    Raises:
        RuntimeError: the tensors belong to another network.
    """
    with torch.device("meta"):  # compares names and shapes before memory is taken for the network
        GeneratorNetwork(architecture).load_state_dict(tensors, assign=True)
    network = GeneratorNetwork(architecture)
    network.load_state_dict(tensors)
    return network.to(device).eval().requires_grad_(False)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of contiguous tensors on the CPU, with their names, types and shapes.

    >>> digest({"a": torch.ones(2)}) == digest({"a": torch.ones(2)[:, None]})
    False
    """
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
