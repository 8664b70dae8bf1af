"""Photos/s of the photo stages on a GPU, computed from counted work, beside measured ones; no GPU is needed.

``python benchmarks/gpu_model.py [--photos N] [--source CELEBA] [--precision bf16]`` runs the GPU's code on the CPU,
operation by operation, and counts FLOPs, bytes, launches and waits of each stage. The figures follow from these counts
and from the assumptions that it prints first. `gpu_training.py` does the same for a training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from table import Row, finish, shared_data
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from celebahq_builder.imaging import padding, warp
from celebahq_builder.pipeline.batch import GROUP_PHOTOS, THREADS
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import deterministic, photo_context, photo_reader
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.sources.celeba import read_celeba

ASSUMED = {
    "fp32": (30.0, "TFLOP/s of an H100 in fp32 convolutions, effective"),
    "bf16": (150.0, "TFLOP/s of an H100 in bf16 convolutions, effective"),
    "bandwidth": (2.5, "TB/s of its memory, effective"),
    "kernel": (3.0, "us of the shortest kernel"),
    "launch": (8.0, "us of the host per launch, Python included"),
    "wait": (30.0, "us of the host per wait for the device"),
    "read": (4.0, "ms of a core to read, decode and cut a photo"),
    "encode": (38.0, "ms of a core to encode an image as PNG and to write it"),
    "copy": (1.5, "ms of the host to copy a photo to the device and an image back"),
    "switch": (1.25, "times as long for the kernels of several processes, which take turns"),
}
"""Name -> value, and unit and meaning."""

MEASURED_MS = {"denoise": 2.2, "upscale": 5.7, "align": 18.9, "score": 1.2}
MEASURED_PHOTOS_PER_S = {1: 30.9, 8: 100.7, 16: 103.8}
"""Time of stages with one worker, host included, and rates by number of workers: `benchmarks/build.py` on one H200 with
16 cores, in fp32, photos of 400x400 px, torch 2.11, November 2026.

The model is too fast by 3 times for one worker, since the host takes longer for `align` than it assumes. It is too slow
by a fourth for 8 and 16 workers: the bandwidth of an H200 is higher than that of an H100, and the processes hinder each
other less than `switch` assumes.
"""

CORES = 16
PHOTOS_PER_S = 57.0
WAITS = {"denoise": 1, "upscale": 1, "align": 1, "score": 2}
"""Waits of a stage per group of photos: the end of each stage, and the scores."""


@dataclass
class Work:
    """Counts of a stage."""

    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0
    device_s: float = 0.0


class Counter(TorchDispatchMode):
    """Counts the operations of torch as the kernels of a GPU."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.work, self.flops_per_s = Work(), {"fp32": 1e12 * ASSUMED["fp32"][0], "bf16": 1e12 * ASSUMED[precision][0]}
        self.conv = self.flops_per_s["bf16"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # inference mode leaves composite operations whole
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        if func.is_view or func.overloadpacket.__name__.startswith(("empty", "new_empty", "detach", "_local_scalar")):
            return out
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
        size = sum(x.numel() * x.element_size() for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
        speed = self.conv if "conv" in str(func) else self.flops_per_s["fp32"]
        took = max(flops / speed, size / (1e12 * ASSUMED["bandwidth"][0]), 1e-6 * ASSUMED["kernel"][0])
        self.work.flops += flops
        self.work.bytes += size
        self.work.launches += 1
        self.work.device_s += took
        return out


def main() -> None:
    """Count, compute and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=8, help="photos to count, default 8")
    parser.add_argument("--source", type=Path, help="folder in CelebA's layout, default the shared faces")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    asked = parser.parse_args()
    print("Assumptions, none of them measured here:")
    for name, (value, meaning) in ASSUMED.items():
        print(f"    {name:10} {value:8g} {meaning}")
    with deterministic():
        work = count_work(asked.source or shared_data() / "faces", asked.photos, asked.precision)
    finish(rows_of(work, asked.photos))


def count_work(source: Path, count: int, precision: str) -> dict[str, Work]:
    """Return the work of each stage for some photos at 1024x1024, in the code that a GPU runs."""
    warp._sample_by_cv2, warp.CPU_TILE_PX = warp._sample_by_torch, warp.TILE_PX
    padding._correlate_by_conv2d = padding._correlate_by_matrices
    padding.STRIP_ROWS["cpu"] = padding.STRIP_ROWS["cuda"]
    recipe, context = BuildRecipe(), photo_context(1024, "cpu", photo_reader(source / "img_celeba"))
    photos = read_celeba(source).photos[:count]
    crop, *stages = recipe.photo_stages()
    read = [crop.run([Face.unread(photo, i)], recipe.settings(crop), context)[0] for i, photo in enumerate(photos)]
    size = GROUP_PHOTOS["cuda"]
    groups: Sequence[list[Face]] = [read[i : i + size] for i in range(0, len(read), size)]
    work: dict[str, Work] = {}
    for stage in stages:
        settings = recipe.settings(stage)
        with Counter(precision) as counter:
            groups = [stage.run(group, settings, replace(context, batch_windows=16)) for group in groups]
        work[stage.name] = counter.work
    return work


def rows_of(work: dict[str, Work], photos: int) -> list[Row]:
    """Return the counts of each stage and the rates that follow, per photo."""
    assumed = {name: value for name, (value, _) in ASSUMED.items()}
    rows, device_s, host_s = [], 0.0, 1e-3 * assumed["copy"]
    for name, one in work.items():
        waits = WAITS[name] / GROUP_PHOTOS["cuda"]
        host = 1e-6 * (one.launches / photos * assumed["launch"] + waits * assumed["wait"])
        device_s, host_s = device_s + one.device_s / photos, host_s + host
        rows += [
            Row(f"{name}: work", one.flops / photos / 1e9, "GFLOP"),
            Row(f"{name}: memory traffic", one.bytes / photos / 1e9, "GB"),
            Row(f"{name}: launches", one.launches / photos, ""),
            Row(f"{name}: waits", waits, ""),
            Row(f"{name}: device, computed", 1000 * one.device_s / photos, "ms"),
            Row(f"{name}: host, computed", 1000 * host, "ms"),
        ]
        rows.append(Row(f"{name}: device and host, measured on an H200 in fp32", MEASURED_MS[name], "ms"))
    threads_s = 1e-3 * (assumed["read"] + assumed["encode"])
    best = 0.0
    for workers in (1, 4, 8, 16):
        device = device_s * (assumed["switch"] if workers > 1 else 1)
        limits = {
            "the device": 1 / device,
            "launching": workers / max(host_s, device_s if workers == 1 else 0),
            "threads": workers * THREADS["cuda"] / threads_s,
            "cores": CORES / (host_s + threads_s),
        }
        limit, rate = min(limits.items(), key=lambda item: item[1])
        best = max(best, rate)
        rows.append(Row(f"{workers} workers, computed, limited by {limit}", rate, "photos/s"))
        if workers in MEASURED_PHOTOS_PER_S:
            rows.append(Row(f"{workers} workers, measured on an H200", MEASURED_PHOTOS_PER_S[workers], "photos/s"))
    rows.append(Row(f"best rate with {CORES} cores, computed", best, "photos/s", at_least=PHOTOS_PER_S))
    return rows


if __name__ == "__main__":
    main()
