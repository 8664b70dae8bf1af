"""Time of FID, KID and IS, and of the features that they need: ``python benchmarks/inception.py``.

Features are drawn at random, in the numbers of the literature: 50,000 of 2048, 100 subsets of 1,000, 10 splits. The
network has random weights, which take as long as the real ones; its figure is for 16 images of 1024x1024 on two threads
of a CPU. On a busy machine, compare the processor times.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from table import Row, finish

from celebahq_builder.metrics.inception import Inception
from celebahq_builder.metrics.inception_metrics import (
    FeatureMoments,
    frechet_distance,
    inception_score,
    kernel_inception_distance,
    polynomial_mmd2,
)

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.metrics.inception_file import write_random

IMAGES, FEATURES, CLASSES, THREADS = 50_000, 2048, 1008, 2


def timed(what: str, do: Callable[[], object], at_most: float | None = None) -> list[Row]:
    """Return the time that something takes."""
    began, clock = time.perf_counter(), time.process_time()
    do()
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    return [Row(what, wall, "s", at_most=at_most), Row("  processor time", cpu, "s")]


def moments(features: torch.Tensor) -> FeatureMoments:
    """Return the moments of features that come 64 at a time."""
    found = FeatureMoments()
    for part in torch.split(features, 64):
        found.add(part)
    return found


def main() -> None:
    """Measure all of it."""
    torch.set_num_threads(THREADS)
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(IMAGES, FEATURES, generator=rng) for _ in range(2))
    some, others = moments(a[:10_000]), moments(b[:10_000])
    rows = timed("moments of 10,000 features", lambda: moments(a[:10_000]))
    rows += timed("Frechet distance of 2048 dimensions", lambda: frechet_distance(some, others), at_most=60)
    rows += timed("KID, 100 subsets of 1,000", lambda: kernel_inception_distance(a, b), at_most=60)
    exact = polynomial_mmd2(a[:1000].double(), b[:1000].double())
    off = abs(polynomial_mmd2(a[:1000], b[:1000]) - exact)
    rows.append(Row("  of one subset: off its value in float64, x 1e6", off * 1e6, "", at_most=1))
    rows += timed("IS of 50,000", lambda: inception_score(torch.randn(IMAGES, CLASSES, generator=rng)), at_most=30)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        network = Inception(path, sha256=write_random(path))
    images = torch.randint(0, 256, (16, 3, 1024, 1024), dtype=torch.uint8, generator=rng)
    network(images[:2])
    began = time.perf_counter()
    network(images)
    rows.append(Row("features of images of 1024x1024", 16 / (time.perf_counter() - began), "images/s"))
    finish(rows)


if __name__ == "__main__":
    main()
