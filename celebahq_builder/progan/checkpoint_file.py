"""One file of a checkpoint: tensors and what is told of them, whole, and known to be as they were written."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from celebahq_builder.errors import TrainingError
from celebahq_builder.files import as_storage_error

DIGEST = "sha256"
"""Where the metadata hold the digest of the tensors; older checkpoints have none."""


class Damaged(ValueError):
    """A file that is not whole, or not what was written."""


def write(path: Path, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
    """Write a safetensors file: whole under its name, or not there at all.

    Raises:
        DiskFull: no space left.
        TrainingError: it cannot be written for another reason.
    """
    own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(own, partial, {**meta, DIGEST: digest(own)})
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
    """Return what the system said: safetensors tells it in words alone."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 0, str(error))


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
