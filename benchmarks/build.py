"""A whole build of 1000 real faces: photos/s, peak memory, disk space, and the time of a second run.

``python benchmarks/build.py [--out WORK] [--limit N] [--workers N]`` prints every figure beside its threshold. The run
directory is kept, so that what it made can be looked at; an interrupted benchmark resumes, but then tells no speed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from table import Row, finish, shared_data

ROOT = Path(__file__).parents[1]
KEEP = 300
RERUN_S = 5.0
DEMO_S = 90.0
MEMORY_MIB = 1200


def main() -> None:
    """Build, build again, verify, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work-benchmark"))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rows = []
    demo = ["--celeba-root", "tests/sample/celeba", "--recipe", "pipelines/demo.toml", "--out", options.out / "demo"]
    if not (options.out / "demo").exists():
        rows.append(Row("embedded sample, all stages", seconds(demo), "s", at_most=DEMO_S))
    faces = shared_data() / "faces"
    work = options.out / "faces"
    command = ["--celeba-root", faces, "--out", work, "--keep", min(KEEP, options.limit)]
    command += ["--workers", options.workers, "--limit", options.limit]
    if not work.exists():
        took = seconds(command)
        rows.append(Row(f"{options.limit} faces, {options.workers} workers", options.limit / took, "photos/s"))
        rows.append(Row("  in all", took, "s"))
    rows.append(Row("the same command again", seconds(command), "s", at_most=RERUN_S))
    rows += result_rows(work, options.limit, min(KEEP, options.limit))
    finish(rows)


def result_rows(work: Path, photos: int, keep: int) -> list[Row]:
    """Return the figures that the finished run left behind."""
    summary = json.loads((work / "summary.json").read_text())
    accounted = summary["kept"] + summary["rejected"] + summary["failed"]
    rows = [
        Row("kept", summary["kept"], "photos", keep, keep),
        Row("kept + rejected + failed", accounted, "photos", photos),
    ]
    for line in (work / "timings.jsonl").read_text().splitlines():
        for who, size in json.loads(line).get("peak_memory_bytes", {}).items():
            rows.append(Row(f"peak memory, {who}", size / 2**20, "MiB", at_most=MEMORY_MIB))
    size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    rows.append(Row("on disk in all", size / 1e6, "MB"))
    rows += [Row(f"  {path.name}", path.stat().st_size / 1e6, "MB") for path in sorted(work.glob("*.h5"))]
    rows.append(Row("  report/index.html", (work / "report" / "index.html").stat().st_size / 1e6, "MB"))
    verified = subprocess.run([sys.executable, "-m", "celebahq_builder", "verify", work], cwd=ROOT, check=False)
    rows.append(Row("celebahq verify, exit code", verified.returncode, "", at_most=0))
    return rows


def seconds(arguments: list[object]) -> float:
    """Return how long a build takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "build.py", *map(str, arguments)], cwd=ROOT, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
