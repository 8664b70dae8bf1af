"""A whole build of 1000 real faces: photos/s, peak memory, disk space, and the time of a second run.

``python benchmarks/build.py [--out WORK] [--limit N] [--workers N] [--device D] [--source CELEBA]`` prints every figure
beside its threshold. The run directory is kept, so that what it made can be looked at; an interrupted benchmark
resumes, but then reports no speed.

``python benchmarks/build.py --rate PHOTOS --workers N [N ...]`` measures only the photo stages, for each number of
workers: the source's photos are linked under new names until there are enough, and the rate counts from the moment when
each worker has finished a batch, so neither imports nor the start of a GPU are in it. With ``--precision fp32 bf16``
both precisions of the networks are measured. On a CPU, the speed of the networks stands beside that of a matrix product
in the same precision, which as many processes compute at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from table import Row, finish, shared_data
from torch.utils.flop_counter import FlopCounterMode

from celebahq_builder import parallel
from celebahq_builder.outcome import Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import deterministic, photo_context, photo_reader
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.sources.celeba import read_celeba

ROOT = Path(__file__).parents[1]
KEEP = 300
RERUN_S = 5.0
DEMO_S = 90.0
MEMORY_MIB = 1200
GPU_PHOTOS_PER_S = 57.0
"""202,599 photos in an hour, with one GPU and 16 cores."""
CPU_PHOTOS_PER_S = {"fp32": 1.2, "bf16": 1.8}
"""Goals for 100 shared faces on 2 idle cores with AVX512-BF16 or AMX."""
NETWORKS_SHARE = 55.0
"""Goal for the speed of the networks, in percent of that of a matrix product."""
COUNTED_PHOTOS = 8
"""Photos whose FLOPs are counted."""
MATRIX_SIDE, MATRIX_PRODUCTS = 2048, 30
NETWORK_STAGES = ("denoise", "upscale")


def main() -> None:
    """Build, build again, verify, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work-benchmark"))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--source", type=Path, help="folder in CelebA's layout, default the shared faces")
    parser.add_argument("--rate", type=int, metavar="PHOTOS", help="measure only the photo stages, with so many photos")
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32"], help="with --rate")
    options = parser.parse_args()
    options.out = options.out.resolve()  # commands run in the root of the checkout
    faces = options.source or shared_data() / "faces"
    if options.rate:
        device = parallel.devices(options.device)[0]
        rows = []
        for precision in options.precision:
            best = 0.0
            for workers in options.workers:
                measured = rate_rows(faces, options.rate, workers, options.device, options.out, precision)
                best = max(best, measured[0].value)
                rows += measured
                if device == "cpu":
                    rows += share_rows(faces, options.rate, workers, precision, measured)
            goal = CPU_PHOTOS_PER_S[precision] if device == "cpu" else GPU_PHOTOS_PER_S
            rows.append(Row(f"best rate, {precision}", best, "photos/s", at_least=goal))
        finish(rows)
    rows = []
    demo = ["--celeba-root", "tests/sample/celeba", "--recipe", "pipelines/demo.toml", "--out", options.out / "demo"]
    if not (options.out / "demo").exists():
        rows.append(Row("embedded sample, all stages", seconds(demo), "s", at_most=DEMO_S))
    work = options.out / "faces"
    command = ["--celeba-root", faces, "--out", work, "--keep", min(KEEP, options.limit)]
    command += ["--workers", options.workers[0], "--limit", options.limit, "--device", options.device]
    if not work.exists():
        took = seconds(command)
        rows.append(Row(f"{options.limit} faces, {options.workers[0]} workers", options.limit / took, "photos/s"))
        rows.append(Row("  in all", took, "s"))
    rows.append(Row("the same command again", seconds(command), "s", at_most=RERUN_S))
    rows += result_rows(work, options.limit, min(KEEP, options.limit))
    finish(rows)


def rate_rows(source: Path, photos: int, workers: int, device: str, out: Path, precision: str) -> list[Row]:
    """Return the rate of the photo stages once every worker is warm, and the time of each stage."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        repeated, work = Path(folder) / "source", Path(folder) / "run"
        repeat_source(source, repeated, photos)
        command = ["--celeba-root", repeated, "--out", work, "--until", "score", "--workers", workers]
        networks = [f"--set={stage}.precision={precision}" for stage in NETWORK_STAGES]
        took = seconds([*command, "--device", device, *networks])
        lines = [json.loads(line) for line in (work / "timings.jsonl").read_text().splitlines()]
    batches = [line for line in lines if "batch" in line]
    if len(batches) < 2 * workers:
        sys.exit(f"{len(batches)} batches are too few for {workers} workers; give a larger --rate")
    warm = batches[workers:]
    rate = sum(line["photos"] for line in warm) / max(warm[-1]["unix_s"] - batches[workers - 1]["unix_s"], 0.1)
    name = f"{workers} workers, {device}, {precision}"
    rows = [Row(f"{name}: {photos} photos", rate, "photos/s"), Row("  with the start", took, "s")]
    done = sum(line["photos"] for line in warm)
    for stage in warm[0]["seconds"]:
        rows.append(Row(f"  {stage}", 1000 * sum(line["seconds"][stage] for line in warm) / done, "ms/photo"))
    for line in lines:
        rows += [
            Row(f"  peak memory, {who}", size / 2**20, "MiB") for who, size in line.get("peak_memory_bytes", {}).items()
        ]
    return rows


def share_rows(source: Path, photos: int, workers: int, precision: str, measured: list[Row]) -> list[Row]:
    """Return the speed of the networks in a build beside that of a matrix product."""
    took_s = sum(row.value for row in measured if row.what.strip() in NETWORK_STAGES) / 1000
    flops = network_flops(source, min(photos, COUNTED_PHOTOS))
    peak = sum(parallel.run(matrix_flops_per_s, [precision] * workers, workers=workers)) / workers
    return [
        Row("  networks: work", flops / 1e9, "GFLOP/photo"),
        Row("  networks: speed of a worker", flops / took_s / 1e9, "GFLOP/s"),
        Row(f"  matrix product of {MATRIX_SIDE}x{MATRIX_SIDE}: speed of a worker", peak / 1e9, "GFLOP/s"),
        Row("  share of the matrix product", 100 * flops / took_s / peak, "%", at_least=NETWORKS_SHARE),
    ]


def network_flops(source: Path, count: int) -> float:
    """Return the FLOPs of both networks for a photo, the mean of the first ones that are not rejected."""
    recipe, context = BuildRecipe(), photo_context(1024, "cpu", photo_reader(source / "img_celeba"))
    crop, *stages = [stage for stage in recipe.photo_stages() if stage.name in ("crop", *NETWORK_STAGES)]
    flops = []
    with deterministic():
        for number, photo in enumerate(read_celeba(source).photos[:count]):
            with contextlib.suppress(Rejection):
                faces = crop.run([Face.unread(photo, number)], recipe.settings(crop), context)
                with FlopCounterMode(display=False) as counter:
                    for stage in stages:
                        faces = stage.run(faces, recipe.settings(stage), context)
                flops.append(counter.get_total_flops())
    return sum(flops) / len(flops)


def matrix_flops_per_s(precision: str) -> float:
    """Return the speed of the fastest of some matrix products, on one thread."""
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.rand(MATRIX_SIDE, MATRIX_SIDE).to(dtype) for _ in range(2))
    fastest_s = math.inf
    for _ in range(MATRIX_PRODUCTS):
        began_s = time.perf_counter()
        torch.mm(left, right)
        fastest_s = min(fastest_s, time.perf_counter() - began_s)
    return 2 * MATRIX_SIDE**3 / fastest_s


def repeat_source(source: Path, folder: Path, photos: int) -> None:
    """Write a source in CelebA's layout that has so many photos: those of another one, linked as often as needed."""
    (folder / "img_celeba").mkdir(parents=True)
    (folder / "Anno").mkdir()
    _, header, *rows = (source / "Anno" / "list_landmarks_celeba.txt").read_text().splitlines()
    lines = []
    for number in range(photos):
        file, landmarks = rows[number % len(rows)].split(maxsplit=1)
        name = f"{number:06d}{Path(file).suffix}"
        (folder / "img_celeba" / name).symlink_to((source / "img_celeba" / file).resolve())
        lines.append(f"{name} {landmarks}")
    text = "\n".join([str(photos), header, *lines, ""])
    (folder / "Anno" / "list_landmarks_celeba.txt").write_text(text)


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
