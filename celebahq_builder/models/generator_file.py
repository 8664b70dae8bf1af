"""The file of a trained ProGAN generator, ``generator.safetensors``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from celebahq_builder.errors import WeightsError
from celebahq_builder.models.progan import Architecture, GeneratorNetwork
from celebahq_builder.storage import sha256, write_atomic

FORMAT = "progan-generator-1"

TENSORS_DIGEST = "tensors_sha256"
"""Metadata key of the digest of the tensors; the first files have none."""


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


def load_generator(path: Path, device: torch.device) -> tuple[GeneratorNetwork, int, float]:
    """Read a generator in evaluation mode, the level and the alpha that it was trained up to.

    Args:
        path: of ``generator.safetensors``, or of the folder of its run.
        device: of the generator.

    Raises:
        WeightsError: there is no such file, it is of another format, or it is damaged.
    """
    generator, facts = read_generator(path, device)
    return generator, int(facts["level"]), float(facts["alpha"])


def read_generator(path: Path, device: torch.device) -> tuple[GeneratorNetwork, dict[str, Any]]:
    """Read a generator in evaluation mode and all metadata of its file; see `load_generator`."""
    file = path / "generator.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; expected a run of celebahq train, or its generator.safetensors")
    try:
        with safe_open(file, "pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("progan", "{}"))
            tensors: dict[str, Tensor] = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read: {error}; export it again, or get a new copy") from None
    if facts.get("format") != FORMAT:
        raise WeightsError(f"{file} is not a generator of celebahq train: format {facts.get('format')}, not {FORMAT}")
    try:
        generator = GeneratorNetwork(Architecture(**facts["architecture"]))
        generator.load_state_dict(tensors)
        _ = int(facts["level"]), float(facts["alpha"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{file} was written by another version, or changed ({reason}); export it again") from None
    if facts.get(TENSORS_DIGEST, wanted := digest(tensors)) != wanted:
        raise WeightsError(f"{file} is damaged: its tensors are not those that were written; export it again")
    return generator.to(device).eval().requires_grad_(False), facts


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
