"""Safetensors files with a digest of their tensors, and the ProGAN generator as such a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from celebahq_builder.errors import TrainingError, WeightsError
from celebahq_builder.models.progan import Architecture, Generator
from celebahq_builder.storage import as_storage_error, partial_path, sha256, write_atomic

DIGEST = "sha256"
"""Where the metadata hold the digest of the tensors; older checkpoints have none."""


class Damaged(ValueError):
    """A file that is not whole, or not what was written."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file: whole under its name, or not there at all.

    Raises:
        DiskFull: no space left.
        TrainingError: it cannot be written for another reason.
    """
    own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(own, partial, metadata)
        partial.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        told = as_storage_error(_system_error(error), path)
        if not isinstance(told, OSError):
            raise told from error
        raise TrainingError(f"{path} could not be written: {error}; see to its folder, then run again") from error


def _system_error(error: OSError | SafetensorError) -> OSError:
    """Return the error of the system, which safetensors has in its message only."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 0, str(error))


def write(path: Path, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
    """Write a safetensors file: whole under its name, or not there at all.

    Raises:
        DiskFull: no space left.
        TrainingError: it cannot be written for another reason.
    """
    own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    save_tensors(path, own, {**meta, DIGEST: digest(own)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, on the CPU, and its metadata.

    Raises:
        Damaged: it is torn, or its tensors are not those that were written.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise Damaged(str(error)) from None
    if meta.get(DIGEST, wanted := digest(tensors)) != wanted:
        raise Damaged("its numbers are not those that were written")
    return tensors, meta


def digest(tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 of contiguous tensors on the CPU, with their names, types and shapes."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


FORMAT = "progan-generator-1"

TENSORS_DIGEST = "tensors_sha256"
"""Where the metadata hold the digest of the tensors; older files have none."""


def export(folder: Path, generator: Generator, level: int, alpha: float, about: dict[str, Any]) -> Path:
    """Write ``generator.safetensors`` and, for people, ``generator.json`` into a folder.

    Args:
        folder: of the run.
        generator: the averaged one.
        level: that it has been trained up to.
        alpha: how much of that level is in.
        about: what else is to be known: kimg, data, recipe, versions.
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
    data = save(tensors, {"progan": json.dumps(facts)})  # of several entries safetensors would choose the order
    path = folder / "generator.safetensors"
    write_atomic(path, data)
    listed = {**facts, "sha256": sha256(data), "size_bytes": len(data)}
    write_atomic(folder / "generator.json", (json.dumps(listed, indent=1, sort_keys=True) + "\n").encode())
    return path


def load_generator(path: Path, device: torch.device) -> tuple[Generator, int, float]:
    """Read a generator, from its file or from the folder of its run.

    Returns:
        The network in evaluation mode, the level and the alpha it was trained up to.

    Raises:
        WeightsError: no such file, not a generator's, or damaged.
    """
    generator, facts = read_generator(path, device)
    return generator, int(facts["level"]), float(facts["alpha"])


def read_generator(path: Path, device: torch.device) -> tuple[Generator, dict[str, Any]]:
    """Read a generator and what its file says of it: level, alpha, kimg, data; otherwise as `load_generator`."""
    file = path / "generator.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; expected a run of celebahq train, or its generator.safetensors")
    try:
        with safe_open(file, "pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("progan", "{}"))
            tensors: dict[str, Tensor] = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read: {error}; export it again, or get it anew") from None
    if facts.get("format") != FORMAT:
        raise WeightsError(f"{file} is no generator of celebahq train; expected {FORMAT}, got {facts.get('format')}")
    try:
        generator = Generator(Architecture(**facts["architecture"]))
        generator.load_state_dict(tensors)
        _ = int(facts["level"]), float(facts["alpha"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{file} was written by another version, or altered ({reason}); export it again") from None
    if facts.get(TENSORS_DIGEST, wanted := digest(tensors)) != wanted:
        raise WeightsError(f"{file} is damaged: its numbers are not those that were written; export it again")
    return generator.to(device).eval().requires_grad_(False), facts
