"""Files of one data set that are called shards: which of a folder belong together, and their order."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

from celebahq_builder.errors import FormatError

log = logging.getLogger(__name__)

NUMBERED = re.compile(r"(?P<name>.*?)(?P<number>\d+)(?:-of-(?P<count>\d+)(?:-[0-9A-Za-z]+)?)?")
"""``NAME-000000``, ``000000``, ``train-00000-of-00030``, ``train-00000-of-00006-bae07ad6d4d89a77``."""

SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")
"""Names of files without numbers that are splits, not parts of one set."""

LABEL_TABLES = ("metadata.csv", "metadata.jsonl", "labels.csv", "labels.txt", "dataset.json")
"""Files beside shards that often hold labels, and are not read."""


def shard_files(path: Path, endings: tuple[str, ...], split: str | None) -> list[Path]:
    """Return the files of a set in the order of their numbers, or of their names if these have no numbers.

    Args:
        path: a single file, or the folder of one set, or of several sets that are splits.
        endings: of the files, with their dots.
        split: name of the split to take from a folder: that of its files, without number.

    Raises:
        FormatError: there are no such files, one is not a regular file, a file of the set is missing or occurs twice,
            or there are several sets and `split` is None.
    """
    if not path.is_dir():
        if not path.is_file():
            raise FormatError(f"{path} is not a file or folder" if path.exists() else f"{path} does not exist")
        if split is not None:
            raise FormatError(f"{path} is a single file, and `split` is for a folder of several splits; leave it out")
        return [path]
    names = sorted(one.name for one in path.iterdir() if not one.name.startswith("."))
    files = [name for name in names if name.endswith(endings)]
    if not files:
        raise FormatError(f"{path} holds no files ending in {endings[0]}; give their folder, or one of them")
    special = next((name for name in files if not (path / name).is_file()), None)
    if special is not None:
        raise FormatError(f"{path / special} is not a regular file; remove it")
    sets: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for name in files:
        stem = name.removesuffix(next(ending for ending in endings if name.endswith(ending)))
        match = NUMBERED.fullmatch(stem)
        if match:
            key = (match["name"].rstrip("-_."), match["name"], match["count"] or "")
        else:
            key = (stem, stem, "") if stem.lower() in SPLITS else ("", "", "no numbers")
        sets.setdefault(key, []).append((int(match["number"]) if match else len(sets.get(key, ())), name))
    chosen = [key for key in sets if split in (None, key[0])]
    if len(chosen) != 1:
        some = ", ".join(f"{sets[key][0][1]} ({key[0]})" if key[0] else sets[key][0][1] for key in sets)
        names_of = " or ".join(dict.fromkeys(key[0] for key in sets if key[0]))
        advice = f"choose one of them by `split` {names_of}" if len(sets) > 1 and names_of else "leave `split` out"
        fault = f"holds several sets, of {some}" if split is None else f"has {len(chosen)} sets named {split}: {some}"
        raise FormatError(f"{path} {fault[:500]}; {advice[:300]}, or give a folder of one set")
    found = sets[chosen[0]]
    _check_complete(path, found, chosen[0][2], known=len(files))
    _log_others(path, [name for name in names if name not in files])
    return [path / name for _, name in sorted(found)]


def _check_complete(path: Path, found: list[tuple[int, str]], count: str, known: int) -> None:
    if count == "no numbers" or (known == 1 and not count):
        return
    by_number: dict[int, str] = {}
    for number, name in found:
        if number in by_number:
            fault = f"holds {by_number[number]} and {name}, two files of number {number}"
            raise FormatError(f"{path} {fault}; remove the one that is not of the set")
        by_number[number] = name
    numbers = range(int(count)) if count else range(min(by_number), max(by_number) + 1)
    missing = next((number for number in numbers if number not in by_number), None)
    if missing is not None:
        number, name = found[0]
        digits = re.search(rf"0*{number}(?!\d)", name)
        width = len(digits[0]) if digits else 1
        several = f" of {int(count)}" if count else ""
        lacks = f"lacks number {missing:0{width}d}{several} of the set of {name}"
        raise FormatError(f"{path} {lacks}; get or make it again, or number the files without a gap")
    extra = next((name for number, name in by_number.items() if number not in numbers), None)
    if extra is not None:
        raise FormatError(f"{path} holds {extra}, whose number is not one of {int(count)} files; remove it")


def _log_others(path: Path, others: list[str]) -> None:
    tables = [name for name in others if name in LABEL_TABLES]
    if tables:
        log.warning("warning: %s is not read; labels must be in the shards themselves", path / tables[0])
    rest = Counter(Path(name).suffix.lower() or "no ending" for name in others if name not in tables)
    if rest:
        some = ", ".join(f"{times} {suffix}" for suffix, times in rest.most_common(5))
        log.info("%s: ignored %d other files: %s", path, rest.total(), some)
