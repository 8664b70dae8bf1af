"""Runs of builds: the comparison of their files, tables of some photos of the sample, their processes."""

import contextlib
import csv
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from celebahq_builder.pipeline.build import build
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.photo import COLUMNS
from tests.conftest import FAST, SMALL

ROOT = Path(__file__).parents[2]
"""Folder of the project."""

PHOTOS = 15
"""Photos of the sample with usable rows."""


def files(out: Path) -> dict[str, bytes]:
    """Return all files of a run but the logs of times and the report, which shows times."""
    names = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    others = (".celebahq-lock", "timings.jsonl", "report/", "landmarks/", "shards/")
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(others)}


def assert_same(out: Path, other: Path) -> None:
    found, expected = files(out), files(other)
    assert found.keys() ^ expected.keys() == set()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert list(find_problems(out)) == []
    folders = [path for path in (out / "stages").rglob("*") if path.is_dir()]
    assert all(any(folder.iterdir()) for folder in folders)


def hdf5_bytes(out: Path) -> bytes:
    return Workspace(out).hdf5_path(64).read_bytes()


def photos_computed(out: Path) -> int:
    """Return the number of photos that worker processes took through the stages, in all runs of a directory."""
    lines = map(json.loads, Workspace(out).timings_path.read_text().splitlines())
    return sum(line["photos"] for line in lines if "batch" in line)


def write_landmarks(path: Path, landmarks: Mapping[str, Iterable[float]]) -> Path:
    """Write a landmark table of some files."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *COLUMNS])
        writer.writerows([name, *numbers] for name, numbers in landmarks.items())
    return path


def write_table(path: Path, places: Sequence[int], shift_px: float = 0.0) -> Path:
    """Write a table of some photos of the sample."""
    photos = [read_celeba(SMALL).photos[place] for place in places]
    return write_landmarks(path, {photo.file: [n + shift_px for n in photo.landmarks] for photo in photos})


def build_table(table: Path, out: Path, **options: object) -> None:
    source = read_folder(SMALL / "img_celeba", table)
    build(source, out, **{"recipe": FAST, "workers": 1, "device": "cpu", **options})


def tables(out: Path) -> tuple[str, str]:
    """Return the tables of selected and of other photos."""
    workspace = Workspace(out)
    return workspace.selection_path.read_text(), workspace.rejected_path.read_text()


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that still run, from Linux's /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)
