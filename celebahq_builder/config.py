"""Strict TOML recipes as frozen dataclasses, and the recipes and weights that come with the project."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from celebahq_builder.errors import RecipeError
from celebahq_builder.limits import MAX_TOML_BYTES
from celebahq_builder.storage import read_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PACKAGE = Path(__file__).resolve().parent


def bundled(name: str) -> Path:
    """Return the folder `pretrained` or `pipelines`: beside the package in a checkout, inside it when installed."""
    installed = _PACKAGE / "_bundled" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


INTEGER_LIMIT = 1 << 63
"""Integers of recipes are smaller, because HDF5 and random generators use 64 bits."""

T = TypeVar("T", bound="DataclassInstance")


def read_toml(path: Path, task: str = "") -> dict[str, object]:
    """Read a TOML file as nested dictionaries.

    Args:
        path: path of the file.
        task: prefix of the value of ``task``; if the file does not exist, the message lists other recipes of this task.

    Raises:
        RecipeError: no such file, too large, not UTF-8, or not TOML.
    """
    return parse_toml(read_toml_text(path, task), path)


def load(cls: type[T], path: Path, overrides: Mapping[str, object] | None = None) -> T:
    """Read the TOML file `path` as an instance of the frozen dataclass `cls`.

    Args:
        overrides: values by dotted key that replace those of the file.

    Raises:
        RecipeError: unreadable file, unknown key, wrong type, or a value that `cls` refuses.
    """
    text = read_toml_text(path)
    values = parse_toml(text, path)
    settings = from_mapping(cls, values, where=str(path), text=text)
    return from_mapping(cls, override(values, overrides), where="`overrides`") if overrides else settings


def read_toml_text(path: Path, task: str = "") -> str:
    """Return the text of a TOML file; arguments and errors are those of `read_toml`."""
    try:
        return read_text(path, MAX_TOML_BYTES)
    except FileNotFoundError:
        others = sorted(path.parent.glob("*.toml"))
        near = [one.name for one in others if not task or str(read_toml(one).get("task")).startswith(task)]
        hint = f"; {path.parent} has {', '.join(near)}" if near else ""
        raise RecipeError(f"recipe {path} does not exist{hint}") from None
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror}; give a TOML file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path} cannot be read as TOML: {error}") from None


def parse_toml(text: str, path: Path) -> dict[str, object]:
    """Return the values in the text of the TOML file `path`; errors are those of `read_toml`."""
    try:
        if any(line.count(".") > 500 for line in text.splitlines()):  # the time of tomllib grows with the square
            raise RecursionError
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or an integer of more than 4300 digits
        raise RecipeError(f"recipe {path} cannot be read as TOML: {error}") from None
    except RecursionError:
        raise RecipeError(f"recipe {path} cannot be read as TOML: nested too deeply") from None


def from_mapping(
    cls: type[T], values: Mapping[str, object], *, where: str, text: str = "", table: tuple[str, ...] = ()
) -> T:
    """Build the dataclass `cls` from nested mappings, strictly.

    Args:
        values: values from TOML; keys are field names, tables are nested dataclasses.
        where: source of the values, for messages; usually a path.
        text: the TOML text, for line numbers in messages.
        table: names of the table that holds `values`, outermost first.

    Raises:
        RecipeError: unknown or missing key, wrong type, or a ValueError of the dataclass itself.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    arguments: dict[str, object] = {}
    for key, value in values.items():
        place = _place(where, text, table, key)
        if key not in fields:
            raise RecipeError(f"{place}: unknown key {_dotted((*table, key))}{_nearest(key, fields)}")
        arguments[key] = _convert(hints[key], value, place=place, where=where, text=text, table=(*table, key))
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in arguments and no_default:
            raise RecipeError(f"{where}: key {_dotted((*table, name))} is missing")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise RecipeError(f"{_place(where, text, table, None)}: {error}") from None


def override(values: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return nested tables with new values of some dotted keys; neither argument is changed.

    >>> override({"schedule": {"minibatch": 16, "first": 4}}, {"schedule.minibatch": 8})
    {'schedule': {'minibatch': 8, 'first': 4}}
    """
    changed = dict(values)
    for dotted, value in overrides.items():
        key, _, rest = dotted.partition(".")
        table = changed.get(key)
        changed[key] = override(table if isinstance(table, Mapping) else {}, {rest: value}) if rest else value
    return changed


def parse_overrides(texts: Iterable[str]) -> dict[str, object]:
    """Return values by dotted key from texts of the form ``KEY=VALUE``; values are those of TOML.

    A value that is a single word needs no quotes, because shells remove them.

    Raises:
        RecipeError: the text has no key, or its value is not TOML.

    >>> parse_overrides(["schedule.minibatch=8", "upscale.when=always", "keep_stages=['crop']"])
    {'schedule.minibatch': 8, 'upscale.when': 'always', 'keep_stages': ['crop']}
    """
    overrides: dict[str, object] = {}
    for text in texts:
        key, equals, written = text.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+){0,9}", key):
            raise RecipeError(f"{_shown(text)} is not KEY=VALUE, such as schedule.minibatch=8")
        try:
            table = tomllib.loads(f"value = {written}")
        except (ValueError, RecursionError):
            table = {"value": written} if re.fullmatch(r"[\w./:+-]+", written) else {}
        if table.keys() != {"value"}:
            raise RecipeError(f"{key}={_shown(written)}: the value is not TOML; texts are written as '\"a b\"'")
        overrides[key] = table["value"]
    return overrides


def format_overrides(overrides: Mapping[str, object] | None) -> list[str]:
    """Return values by dotted key as texts that `parse_overrides` reads.

    >>> format_overrides({"schedule.minibatch": 8, "start": "a b"})
    ['schedule.minibatch=8', 'start="a b"']
    """
    return [f"{key}={_toml(value)}" for key, value in (overrides or {}).items()]


def _toml(value: object) -> str:
    """Return a value as TOML writes it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def to_mapping(settings: DataclassInstance) -> dict[str, object]:
    """Return a settings dataclass as nested JSON values, in field order."""
    values: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(settings), default=os.fspath))
    return values


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested tables as one table with dotted keys.

    >>> flatten({"align": {"size_px": 1}})
    {'align.size_px': 1}
    """
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _convert(hint: Any, value: object, *, place: str, where: str, text: str, table: tuple[str, ...]) -> Any:
    """Return a value of a recipe as the type of its field."""
    nested = functools.partial(_convert, place=place, where=where, text=text)

    def error(expected: str, got: str = "") -> RecipeError:
        return RecipeError(f"{place}: {_dotted(table)} must {expected}, got {got or _shown(value)}")

    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise error("be a table")
        return from_mapping(hint, value, where=where, text=text, table=table)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else nested(next(h for h in args if h is not type(None)), value, table=table)
    if origin is typing.Literal:
        if value not in args:
            allowed = ", ".join(map(str, args))
            raise RecipeError(f"{place}: {_dotted(table)} must be one of {allowed}; got {_shown(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise error("be a list")
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(hints) != len(value):
            raise error(f"have {len(hints)} values", str(len(value)))
        pairs = zip(hints, value, strict=True)
        return tuple(nested(h, v, table=(*table[:-1], f"{table[-1]}#{i}")) for i, (h, v) in enumerate(pairs))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise error("be a table")
        return {key: nested(args[1], one, table=(*table, key)) for key, one in value.items()}
    if isinstance(value, int) and not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
        raise error("have 64 bits as TOML's integers")
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise error("be a finite number")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise error(f"be {hint.__name__}")
    return value


def _shown(value: object) -> str:
    """Return a value for a message; a long one is cut."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _dotted(names: tuple[str, ...]) -> str:
    """Return a key for a message, without ``#1``, the index in an array of tables."""
    return ".".join(name.partition("#")[0][:100] for name in names)


def _nearest(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key[:100], known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"


def _place(where: str, text: str, table: tuple[str, ...], key: str | None) -> str:
    """Return the file and, where a search of the text finds it, the line of a key."""
    current: tuple[str, ...] = ()
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[{1,2}([^\[\]]+)\]", line)
        if header:
            current = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if line.lstrip().startswith("[["):
                name = ".".join(current)
                count = seen[name] = seen.get(name, -1) + 1
                current = (*current[:-1], f"{current[-1]}#{count}")
            if current == ((*table, key) if key is not None else table):
                return f"{where}:{number}"
        elif key is not None and current == table:
            name = re.sub(r"^\s*[\"']?", "", line)
            if name.startswith(key) and re.match(r"[\"']?\s*=", name[len(key) :]):
                return f"{where}:{number}"
    return where
