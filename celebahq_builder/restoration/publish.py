"""Export the best weights of a training run to a registry."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table
from torch import Tensor

from celebahq_builder.config import from_mapping, to_mapping
from celebahq_builder.errors import RecipeError, WeightsError
from celebahq_builder.models.registry import Entry, Shape, load_tensors, not_finite, registry
from celebahq_builder.restoration.model_card import card, read_figures, validation
from celebahq_builder.storage import NewFiles, sha256, write_atomic

METADATA = ("step", "shape", "recipe", "command", "photos")
"""Keys of the metadata that a training writes into its weight file; `shape` and `recipe` are JSON."""


@dataclass(frozen=True)
class Run:
    """The best weights of a training run, with their origin."""

    tensors: dict[str, Tensor]
    shape: Shape
    step: int
    """Steps of training behind them."""
    recipe: dict[str, Any]
    """As plain values; has the key ``task``."""
    command: str
    photos: str
    """How many, as ``308 photos, 8 held out``."""


def read_run(folder: Path) -> Run:
    """Read ``weights.safetensors`` of a training run's folder.

    Raises:
        WeightsError: missing, damaged, without the metadata of its origin, of another network than its metadata
            says, or with values that are not finite.
    """
    path = folder / "weights.safetensors"
    try:
        data = path.read_bytes()  # once: a training that still runs may put a better file in its place
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror}; give the --out folder of a training that has validated once"
        ) from None
    try:
        tensors = load_safetensors(data)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}; train again") from None
    metadata = _metadata(data)
    missing = [key for key in METADATA if key not in metadata]
    if missing:
        raise WeightsError(
            f"{path} lacks the metadata {', '.join(missing)}: the run was made by an older version; resume it by its "
            "command until better weights are found, or train again in another --out"
        )
    shape, recipe, step = _origin(metadata, path)
    net = shape.build()
    load_tensors(net, data, path)
    if wrong := not_finite(net):
        raise WeightsError(f"{path}: {wrong} has values that are not finite; lower learning_rate and train again")
    return Run(tensors, shape, step, recipe, metadata["command"], metadata["photos"])


def _origin(metadata: dict[str, str], path: Path) -> tuple[Shape, dict[str, Any], int]:
    try:
        shape = from_mapping(Shape, json.loads(metadata["shape"]), where=f"{path}, metadata shape")
        recipe = dict(json.loads(metadata["recipe"]))
        str(recipe["task"])
        return shape, recipe, int(metadata["step"])
    except RecipeError as error:
        raise WeightsError(f"{error}; train again") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{path} has damaged metadata ({error!r}); train again") from None


def _metadata(data: bytes) -> dict[str, str]:
    """Return the string metadata of a sound safetensors file: its header is JSON behind its length in 8 bytes."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__", {}))


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
        with NewFiles() as files:
            for path, content in ((paths.weights, tensors), (paths.card, described.encode())):
                write = write_atomic if path.exists() else files.write  # replaced only where that was asked for
                write(path, content)
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
