"""Make what a training run found usable by name: a weight file, its entry in a registry, and a model card."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from safetensors.torch import save
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.files import sha256, write_atomic
from celebahq_builder.pretrained import Entry, registry
from celebahq_builder.recipe import from_mapping, to_mapping
from celebahq_builder.weights.card import card
from celebahq_builder.weights.figures import read_figures, validation
from celebahq_builder.weights.run import Run, read_run

NEW_REGISTRY = (
    "# Weights by name; each has a model card beside it. Loading checks the SHA-256 before the bytes are used.\n"
)


@dataclass(frozen=True)
class Exported:
    """The files of exported weights."""

    weights: Path
    registry: Path
    card: Path
    setting: str
    """What names them in a build's recipe: ``denoise.weights`` or ``upscale.weights``."""


def export(
    run_folder: Path,
    name: str,
    to: Path,
    *,
    licence: str,
    data: str,
    scores: Path | None = None,
    replace: bool = False,
) -> Exported:
    """Write ``NAME.safetensors``, the entry ``[NAME]`` of ``registry.toml`` and ``NAME.md`` into a folder.

    The registry is written last: killed before, the weights are not in it, or not as they are now, and `pretrained`
    refuses them until the export is repeated.

    Args:
        run_folder: of the training.
        name: letters, digits, ``-`` and ``_``.
        to: folder of the registry; made if need be.
        licence: of the weights.
        data: what they were trained on.
        scores: a JSON file of figures, see `figures.read_figures`; None takes those of the run's validation.
        replace: whether weights of that name may be there already.

    Raises:
        RecipeError: a name or a text that cannot be used, or a malformed registry or scores file.
        WeightsError: unusable weights, a name that is taken, or a folder that cannot be written.
        WorkspaceError: no space left, or the disk is gone.
    """
    _check_words(name, licence, data)
    run = read_run(run_folder)
    figures = read_figures(scores) if scores else validation(run_folder / "log.jsonl", run.step)
    said = f"From `{scores.name}`:" if scores else f"Mean over the run's held-out photos at step {run.step:,}:"
    setting = "denoise.weights" if run.shape.architecture == "autoencoder" else "upscale.weights"
    paths = Exported(to / f"{name}.safetensors", to / "registry.toml", to / f"{name}.md", setting)
    if to.resolve() == run_folder.resolve():
        raise WeightsError(f"--to {to} is the run's own folder, whose files would be replaced; give another one")
    if to.exists() and not to.is_dir():
        raise WeightsError(f"--to {to} is a file; give a folder")
    _check_free(name, paths, replace)
    tensors = save(run.tensors, {"step": str(run.step)})  # one key: the order of more would differ from call to call
    values = {figure.key: figure.value for figure in figures}
    new = _entry(run, paths, tensors, licence, data, values)
    registered = with_entry(_text(paths.registry) or NEW_REGISTRY, name, new, where=paths.registry)
    described = card(name, run, figures, measured=said, licence=licence, data=data, old=_text(paths.card))
    try:
        write_atomic(paths.weights, tensors)
        write_atomic(paths.card, described.encode())
        write_atomic(paths.registry, registered.encode())
    except OSError as error:
        raise WeightsError(f"{to} cannot be written: {error.strerror}; choose another --to") from None
    return paths


def with_entry(text: str, name: str, new: Entry, *, where: Path) -> str:
    """Return the TOML text of a registry with an entry added or replaced; all else stays, comments too.

    Raises:
        WeightsError: the text is laid out in a way that cannot be edited without harm.
    """
    try:
        document = tomlkit.parse(text)
        if name not in document:
            document[name] = _as_table({})
        _update(document[name], to_mapping(new))
        edited = tomlkit.dumps(document)
        before, after = tomllib.loads(text), tomllib.loads(edited)
        sound = from_mapping(Entry, after[name], where=name) == new and {**before, name: after[name]} == after
    except (TOMLKitError, tomllib.TOMLDecodeError, RecipeError):
        sound = False
    if not sound:
        raise WeightsError(f"{where} cannot be edited as it is laid out; give every entry its own [NAME] table in it")
    return edited


def _update(table: Any, values: Mapping[str, Any]) -> None:
    """Make a table of tomlkit hold just these values, and keep its comments."""
    tail = _cut_tail(table)
    for key in [key for key in table if key not in values]:
        del table[key]
    for key, value in values.items():
        if key in table and isinstance(value, Mapping):
            _update(table[key], value)
        elif table.get(key) != value:
            table[key] = value if not isinstance(value, Mapping) else _as_table(value, inline=key == "shape")
    for item in tail:
        table.add(item)


def _cut_tail(table: Any) -> list[Any]:
    """Take the comments behind a table's last key out of it: they are about the table that follows."""
    tail: list[Any] = []
    while isinstance(table, Table) and table.value.body and table.value.body[-1][0] is None:
        tail.insert(0, table.value.body.pop()[1])
    return tail


def _as_table(values: Mapping[str, Any], *, inline: bool = False) -> Any:
    table = tomlkit.inline_table() if inline else tomlkit.table()
    table.update(values)
    return table


def _check_words(name: str, licence: str, data: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise RecipeError(f"--name {name!r} must be made of letters, digits, - and _: it names files and a table")
    for option, text in (("--licence", licence), ("--data", data)):
        if not text.strip() or not text.isprintable():
            raise RecipeError(f"{option} {text!r} must be one line of text")


def _check_free(name: str, paths: Exported, replace: bool) -> None:
    """Raise if the export would replace what it may not."""
    known = registry(paths.registry.parent) if paths.registry.exists() else {}
    for other, one in known.items():
        if other != name and (paths.registry.parent / one.file).resolve() == paths.weights.resolve():
            raise WeightsError(f"{paths.weights} belongs to [{other}] of {paths.registry}; give another --name")
    there = [str(path) for path in (paths.weights, paths.card) if path.exists()]
    if (name in known or there) and not replace:
        what = f"[{name}] of {paths.registry}" if name in known else there[0]
        raise WeightsError(f"{what} is there already; --replace replaces it, or give another --name")


def _entry(run: Run, paths: Exported, tensors: bytes, licence: str, data: str, scores: dict[str, float]) -> Entry:
    return Entry(
        file=paths.weights.name,
        sha256=sha256(tensors),
        size_bytes=len(tensors),
        shape=run.shape,
        licence=licence,
        data=f"{run.photos}: {data}",
        command=run.command,
        scores=scores,
    )


def _text(path: Path) -> str:
    """Return a text file's content, or an empty string where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read as text: {error}; move it away, or give another --name") from None
