"""Memory and images/s of a ProGAN training on GPUs, computed from counted work; no GPU is needed.

``python benchmarks/gpu_training.py [--resolution 1024]`` runs the steps of the 1-GPU recipe on tensors
without values, and counts FLOPs, bytes, launches and memory. The figures follow from these counts and from the
assumptions that it prints first. It also prints the error of the model where a card was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from table import Row, finish
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from celebahq_builder.models.progan import group_size
from celebahq_builder.pipeline.recipe import bundled_recipe
from celebahq_builder.progan.launch import read_recipe
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.progan.step import Microbatch, ProGANTrainer
from celebahq_builder.training.distributed import SINGLE_PROCESS

RECIPE = "celebahq-1024-1gpu"
PRECISIONS = ("fp32", "bf16")


@dataclasses.dataclass(frozen=True)
class Card:
    """Figures of the data sheet of a GPU, without sparsity."""

    memory_gib: float
    tflops: dict[str, float]
    """TFLOP/s of matrix products by precision: TF32 for fp32, and bf16, both with sums in float32."""
    tb_per_s: float


CARDS = {
    "H100 80 GB": Card(79.6, {"fp32": 495, "bf16": 989}, 3.35),
    "A100 40 GB": Card(39.4, {"fp32": 156, "bf16": 312}, 1.56),
    "RTX 4090 24 GB": Card(23.6, {"fp32": 82.6, "bf16": 165}, 1.01),
    "RTX 4080 16 GB": Card(15.7, {"fp32": 48.7, "bf16": 97.5}, 0.717),
}

LARGE, DAYS = "H100 80 GB", 3.0
"""A card, and the time within which it should train the recipe."""

SMALL = CARDS["RTX 4080 16 GB"]

ASSUMED = {
    "matrix": (0.40, "of the data sheet's TFLOP/s are reached by convolutions and matrix products"),
    "traffic": (0.60, "of the data sheet's bandwidth are reached by all operations"),
    "kernel": (3.0, "us of the shortest kernel"),
    "launch": (50.0, "us of the host per launch, Python and autograd included"),
    "margin": (1.2, "times the counted bytes: fragments, and workspaces of convolutions"),
    "context": (0.6, "GiB of the CUDA context"),
    "fading": (1.05, "times as long for a step while a resolution fades in"),
}
"""Name -> value, and unit and meaning."""

MEASURED = {4: 3988, 8: 3199, 16: 1795, 32: 1040, 64: 510, 128: 180, 256: 86}
"""Images/s of one H100 by resolution: `benchmarks/train.py --precision bf16`, torch 2.11, November 2026."""


@dataclasses.dataclass
class Step:
    """Counts of a training step."""

    images: int
    peak_bytes: int = 0
    kernels: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """For each launch: FLOPs of its convolutions and matrix products, and bytes read and written."""

    def seconds(self, card: Card, precision: str) -> tuple[float, float]:
        """Return the time of the device, and that of the host."""
        per_s = 1e12 * card.tflops[precision] * ASSUMED["matrix"][0]
        bytes_per_s = 1e12 * card.tb_per_s * ASSUMED["traffic"][0]
        shortest = 1e-6 * ASSUMED["kernel"][0]
        device = sum(max(flops / per_s, size / bytes_per_s, shortest) for flops, size in self.kernels)
        return device, 1e-6 * ASSUMED["launch"][0] * len(self.kernels)

    def limit(self, card: Card, precision: str) -> str:
        """Return what takes the time: launches by the host, arithmetic or bandwidth of the device."""
        device, host = self.seconds(card, precision)
        if host > device:
            return "launches"
        arithmetic = sum(flops for flops, _ in self.kernels) / (1e12 * card.tflops[precision] * ASSUMED["matrix"][0])
        return "arithmetic" if arithmetic > device / 2 else "bandwidth"

    def images_per_s(self, card: Card, precision: str) -> float:
        """Return the speed: the slower one of device and host decides."""
        return self.images / max(self.seconds(card, precision))

    @property
    def memory_gib(self) -> float:
        """Memory of a GPU."""
        return self.peak_bytes * ASSUMED["margin"][0] / 2**30 + ASSUMED["context"][0]


Steps = dict[int, dict[int, Step]]
"""Steps by resolution and number of images at once."""

NO_KERNEL = ("device", "empty", "new_empty", "detach", "lift")
"""Operations without a kernel, apart from views."""


class Counter(TorchDispatchMode):
    """Counts the operations of torch as the kernels of a GPU, and the bytes of the tensors that exist."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()
        self.used = 0
        self.step = Step(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            self._add(tensor)
        name = func.overloadpacket.__name__
        used = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if used and not func.is_view and not name.startswith(NO_KERNEL):
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
            size = sum(tensor.numel() * tensor.element_size() for tensor in (*used, *tensors))
            self.step.kernels.append((flops, size))
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.storages:
            self.storages.add(key)
            self.used += size
            self.step.peak_bytes = max(self.step.peak_bytes, self.used)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.storages.remove(key)
        self.used -= size


class GpuStep(ProGANTrainer):
    """A step with the optimizers of a GPU."""

    def reset_optimizers(self) -> None:
        """Forget Adam's moments."""
        self.generator_adam, self.discriminator_adam = (
            torch.optim.Adam(net.parameters(), betas=(0.0, 0.99), eps=1e-8, fused=True)
            for net in (self.generator, self.discriminator)
        )


@contextmanager
def without_values() -> Iterator[Counter]:
    """Let torch compute shapes only, in the operations that it would run on a GPU."""
    norm = functools.partial(nn.utils.get_total_norm, foreach=True)
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(mock.patch.object(nn.Module, "to", lambda module, *_: module))
        stack.enter_context(mock.patch.object(nn.utils, "get_total_norm", norm))
        yield stack.enter_context(Counter())


def count_step(progan: ProGANTrainer, counter: Counter, point: SchedulePoint) -> Step:
    """Return the counts of a step after another one."""
    passes = point.passes(1, progan.recipe.net.stddev_group)
    shape = point.minibatch // passes, progan.recipe.net.colours, point.resolution, point.resolution
    progan.reset_optimizers()
    for number in range(2):
        counter.step = Step(point.minibatch, counter.used)
        progan.step(number, point, [Microbatch(torch.empty(shape)) for _ in range(passes)])
    return counter.step


def sizes_at_once(recipe: ProGANRecipe, point: SchedulePoint) -> list[int]:
    """Return the numbers of images that may be processed at once, the largest first."""
    group = group_size(point.minibatch, recipe.net.stddev_group)
    return [n for n in range(point.minibatch, 0, -1) if point.minibatch % n == 0 and 0 in (n % group, group % n)]


def count_level(progan: ProGANTrainer, counter: Counter, level: int) -> dict[int, Step]:
    """Return the steps of a level by the number of images at once; fewer ones as long as a card needs them."""
    schedule, largest = progan.recipe.schedule, progan.recipe.net.level_max
    begins = schedule.begins(level, largest)
    point = schedule.at(begins + schedule.fade_kimg if begins else 0.0, largest)
    steps = {}
    for images in sizes_at_once(progan.recipe, point):
        steps[images] = count_step(progan, counter, dataclasses.replace(point, per_gpu=images))
        if level < largest and steps[images].memory_gib <= SMALL.memory_gib:
            break
    return steps


def main() -> None:
    """Count, compute and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=1024, help="the largest one that is computed")
    asked = parser.parse_args()
    print("Assumptions:")
    for name, (value, meaning) in ASSUMED.items():
        print(f"    {name:10} {value:8g} {meaning}")
    for name, card in CARDS.items():
        print(f"    {name}: {card.memory_gib:g} GiB, {card.tflops} TFLOP/s, {card.tb_per_s:g} TB/s")
    steps = {precision: count_steps(precision, asked.resolution) for precision in PRECISIONS}
    print_tables(steps)
    rows = days_rows(steps["bf16"])
    finish(rows + error_rows(count_steps("bf16", min(max(MEASURED), asked.resolution), shares_weights=False)))


def count_steps(precision: str, resolution_max: int, shares_weights: bool = True) -> Steps:
    """Return the steps of a precision by resolution and number of images at once."""
    recipe = dataclasses.replace(read_recipe(bundled_recipe(Path(RECIPE), "train")), precision=precision)
    with without_values() as counter:
        progan = GpuStep(recipe, SINGLE_PROCESS)
        progan.shares_weights = shares_weights
        levels = [level for level in recipe.net.levels if 1 << level <= resolution_max]
        return {1 << level: count_level(progan, counter, level) for level in levels}


def print_tables(steps: dict[str, Steps]) -> None:
    """Print counts, then memory and speed of all cards."""
    title = "resolution, precision, images at once, memory in GiB, launches, TFLOP, GB, images/s"
    print(f"\nCounts of a step: {title} of the card with 16 GB")
    for precision, counted in steps.items():
        for resolution, by_size in counted.items():
            for images, step in by_size.items():
                flops, size = (sum(kernel[i] for kernel in step.kernels) for i in (0, 1))
                counts = f"{len(step.kernels):6d} {flops / 1e12:8.3f} {size / 1e9:8.2f}"
                counts += f" {step.images_per_s(SMALL, precision):8.2f}"
                print(f"  {resolution:5d} {precision} {images:4d} {step.memory_gib:6.1f} {counts}")
    resolutions = list(steps["fp32"])
    print(f"\n| images/s | {' | '.join(f'{side}x{side}' for side in resolutions)} |")
    print("|---" * (1 + len(resolutions)) + "|")
    for precision, counted in steps.items():
        for name, card in CARDS.items():
            cells = [cell(by_size, card, precision) for by_size in counted.values()]
            print(f"| {name}, {precision} | {' | '.join(cells)} |")


def cell(by_size: dict[int, Step], card: Card, precision: str) -> str:
    """Return the speed with as many images at once as fit the memory, and their number if it is not the minibatch."""
    fits = [(images, step) for images, step in by_size.items() if step.memory_gib <= card.memory_gib]
    if not fits:
        return "-"
    images, step = fits[0]
    speed = step.images_per_s(card, precision)
    return f"{speed:.3g}" if images == step.images else f"{speed:.3g} ({images} at once)"


def days_rows(steps: Steps) -> list[Row]:
    """Return the time of each resolution of the recipe on the large card in bf16, and of all."""
    schedule, card = read_recipe(bundled_recipe(Path(RECIPE), "train")).schedule, CARDS[LARGE]
    largest = max(steps).bit_length() - 1
    rows, total = [], 0.0
    for resolution, by_size in steps.items():
        level, step = resolution.bit_length() - 1, next(iter(by_size.values()))
        begins = schedule.begins(level, largest)
        ends = schedule.begins(level + 1, largest + 1) if level < largest else schedule.total_kimg
        fading_kimg = schedule.fade_kimg if begins else 0.0
        kimg = ends - begins + fading_kimg * (ASSUMED["fading"][0] - 1)
        days = 1000 * kimg / step.images_per_s(card, "bf16") / 86400
        total += days
        limit = step.limit(card, "bf16")
        rows.append(Row(f"{resolution}x{resolution}: {LARGE}, bf16, computed, limited by {limit}", days, "days"))
    what = f"{schedule.total_kimg / 1000:g} M images: {LARGE}, bf16, computed"
    return [*rows, Row(what, total, "days", at_most=DAYS)]


def error_rows(steps: Steps) -> list[Row]:
    """Return computed speeds of the version that was measured beside the measured ones."""
    card, rows, errors = CARDS[LARGE], [], []
    for resolution, speed in MEASURED.items():
        if resolution in steps:
            computed = next(iter(steps[resolution].values())).images_per_s(card, "bf16")
            errors.append(computed / speed - 1)
            rows.append(Row(f"{resolution}x{resolution}: H100, bf16, measured", speed, "images/s"))
            rows.append(Row("  computed for the version that was measured", computed, "images/s"))
            rows.append(Row("  error", 100 * errors[-1], "%"))
    rows.append(Row("mean of the absolute errors", 100 * sum(map(abs, errors)) / len(errors), "%"))
    return rows


if __name__ == "__main__":
    main()
