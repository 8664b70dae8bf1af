"""Export of trained weights: weight file, registry entry and model card."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
import torch
from safetensors.torch import save
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item, Table
from torch import Tensor

from celebahq_builder import restoration
from celebahq_builder.config import from_mapping, to_mapping
from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.landmarks import training
from celebahq_builder.models.registry import (
    REGISTRY_FILE,
    Architecture,
    RegistryEntry,
    nonfinite_tensor,
    read_registry,
)
from celebahq_builder.restoration.model_card import AnyRecipe, model_card, read_figures, validation_figures
from celebahq_builder.storage import NewFiles, delete_partial_of, holds_bytes, read_text, sha256, write_atomic
from celebahq_builder.training.trained_weights import TrainedWeights

NEW_REGISTRY = "# Weights by name. Each has a model card. Loading verifies the SHA-256 before the bytes are used.\n"

RECIPES: dict[str, type[AnyRecipe]] = {
    **{name: task.Recipe for name, task in restoration.TASKS.items()},
    **{name: task.Recipe for name, task in training.TASKS.items()},
}
"""Class of the recipe by its key ``task``."""

SETTINGS: dict[Architecture, str] = {"autoencoder": "denoise.weights", "srgan": "upscale.weights", "landmarks": ""}
"""Key of a build's recipe that names weights of an architecture; empty if there is none."""


@dataclass(frozen=True)
class ExportedWeights:
    """The files of exported weights."""

    weights: Path
    registry: Path
    card: Path
    setting: str
    """Key of a build's recipe that names the weights: ``denoise.weights`` or ``upscale.weights``; empty for weights of
    landmarks."""


def export(
    run: Path,
    name: str,
    to: Path,
    *,
    licence: str,
    data: str,
    scores: Path | None = None,
    half: bool = False,
    replace: bool = False,
) -> ExportedWeights:
    """Export the best weights of a training run to a registry.

    Writes ``NAME.safetensors``, ``NAME.md`` and, last, the entry ``[NAME]`` of ``registry.toml``. After an interrupted
    export, the registry either lacks the weights or has another hash, so they are not loaded until the export is
    repeated.

    Args:
        run: folder of the training run.
        name: of the weights: letters, digits, ``-`` and ``_``.
        to: folder of the registry; it is created if it does not exist.
        licence: of the weights, one line.
        data: description of the training photos, one line.
        scores: JSON file of figures, see `model_card.read_figures`. None: the scores of the last validation.
        half: store float16 instead of float32, in half the bytes. Loading converts to float32.
        replace: allow weights of that name to be replaced. The manual part of their card is kept.

    Raises:
        RecipeError: a name or text cannot be used, or the registry or the file of figures is malformed.
        WeightsError: the weights cannot be used, a value does not fit into float16, the name is taken, or the folder
            cannot be written.
        WorkspaceError: no space is left, or the file system failed.
    """
    _check_texts(name, licence, data)
    trained = TrainedWeights.read(run, RECIPES)
    figures = read_figures(scores) if scores else validation_figures(run / "log.jsonl", trained.step)
    setting = SETTINGS[trained.shape.architecture]
    files = ExportedWeights(to / f"{name}.safetensors", to / REGISTRY_FILE, to / f"{name}.md", setting)
    if os.path.realpath(to) == os.path.realpath(run):
        raise WeightsError(f"{to} is the folder of the run, whose files would be replaced; choose another `to`")
    if to.exists() and not to.is_dir():
        raise WeightsError(f"{to} is a file; choose a folder as `to`")
    _check_entry(name, files, replace)
    # --- Contents of the three files
    tensors = _as_float16(trained.tensors, run) if half else trained.tensors
    weights = save(tensors, {"step": str(trained.step)})  # one key only: safetensors writes several in random order
    entry = RegistryEntry(
        file=files.weights.name,
        sha256=sha256(weights),
        size_bytes=len(weights),
        shape=trained.shape,
        licence=licence,
        data=f"{trained.photos}: {data}",
        command=trained.command,
        dtype="float16" if half else "float32",
        scores={figure.key: figure.value for figure in figures},
    )
    registry = set_entry(_read_text(files.registry) or NEW_REGISTRY, name, entry, where=files.registry)
    kind = "Median" if trained.shape.architecture == "landmarks" else "Mean"
    source = f"From `{scores.name}`:" if scores else f"{kind} over the run's held-out photos at step {trained.step:,}:"
    old = _read_text(files.card)
    card = model_card(name, trained, figures, measured=source, licence=licence, data=data, dtype=entry.dtype, old=old)
    # --- Files
    contents = {files.weights: weights, files.card: card.encode()}
    taken = [path for path, content in contents.items() if os.path.lexists(path) and not holds_bytes(path, content)]
    if taken and not replace:
        raise WeightsError(f"{taken[0]} exists and is not overwritten; give `replace`, or choose another `name`")
    try:
        with NewFiles() as new:
            for path, content in contents.items():
                write = write_atomic if path in taken else new.write  # replaced only if the user asked for it
                write(path, content)
            write_atomic(files.registry, registry.encode())
        for path in (*taken, files.registry):
            delete_partial_of(path)
    except OSError as error:
        raise WeightsError(f"{to} cannot be written: {error.strerror}; choose another `to`") from None
    return files


def _as_float16(tensors: Mapping[str, Tensor], run: Path) -> dict[str, Tensor]:
    """Return tensors with float16 in place of floating-point numbers of other types.

    Raises:
        WeightsError: a finite value is too large for float16.
    """
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if name := nonfinite_tensor(halves):
        raise WeightsError(
            f"{run}: {name} has the absolute value {tensors[name].abs().max().item():.6g}; float16 holds up to "
            f"{torch.finfo(torch.float16).max:g}; export without `half`"
        )
    return halves


def _check_texts(name: str, licence: str, data: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise RecipeError(f"`name` {name!r} must consist of letters, digits, - and _, because it names files")
    for argument, text in (("`licence`", licence), ("`data`", data)):
        if not text.strip() or not text.isprintable():
            raise RecipeError(f"{argument} {text!r} must be one line of text")


def _check_entry(name: str, files: ExportedWeights, replace: bool) -> None:
    """Raise if the registry has an entry that the export may not replace."""
    folder = files.registry.parent
    known = read_registry(folder) if files.registry.exists() else {}
    for other, entry in known.items():
        if other != name and os.path.realpath(folder / entry.file) == os.path.realpath(files.weights):
            raise WeightsError(f"{files.weights} belongs to [{other}] of {files.registry}; choose another `name`")
    if name in known and not replace:
        raise WeightsError(
            f"[{name}] of {files.registry} exists and is not overwritten; give `replace`, or choose another `name`"
        )


def _read_text(path: Path) -> str:
    """Return the contents of a text file, or an empty string if it does not exist."""
    try:
        return read_text(path)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read as text: {error}; move it away, or choose another `name`") from None


# --- Registry text ----------------------------------------------------------------------------------------------


def set_entry(text: str, name: str, entry: RegistryEntry, *, where: Path) -> str:
    """Add or replace an entry in the text of the registry `where`; other entries and all comments do not change.

    Raises:
        WeightsError: the text has a layout that cannot be edited safely.
    """
    try:
        document = tomlkit.parse(text)
        if name not in document:
            document[name] = tomlkit.table()
        values = to_mapping(entry)
        if entry.dtype == "float32":
            del values["dtype"]  # the default
        _update(document[name], values)
        edited = tomlkit.dumps(document)
        before, after = tomllib.loads(text), tomllib.loads(edited)
        correct = (
            from_mapping(RegistryEntry, after[name], where=name) == entry and {**before, name: after[name]} == after
        )
    except (TOMLKitError, tomllib.TOMLDecodeError, RecipeError):
        correct = False
    if not correct:
        raise WeightsError(f"{where} has a layout that cannot be edited; give every entry its own [NAME] table in it")
    return edited


def _update(table: Any, values: Mapping[str, object]) -> None:
    """Set the keys of a tomlkit table to just these values, and keep its comments."""
    tail = _remove_tail(table)
    for key in [key for key in table if key not in values]:
        del table[key]
    for key, value in values.items():
        if key in table and isinstance(value, Mapping):
            _update(table[key], value)
        elif isinstance(value, Mapping):
            table[key] = tomlkit.inline_table() if key == "shape" else tomlkit.table()
            table[key].update(value)
        elif table.get(key) != value:
            table[key] = value
    for item in tail:
        table.append(None, item)


def _remove_tail(table: Any) -> list[Item]:
    """Remove the comments after the last key of a table, which belong to the next table, and return them."""
    tail: list[Item] = []
    while isinstance(table, Table) and table.value.body and table.value.body[-1][0] is None:
        tail.insert(0, table.value.body.pop()[1])
    return tail
