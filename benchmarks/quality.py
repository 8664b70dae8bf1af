"""The quality score: effect of damage, of changes that must not matter, and of who is shown.

``python benchmarks/quality.py [--faces N]`` prints every figure beside its threshold. N faces go through either way
of alignment, the slow exact one among them: some 5 s a photo.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scoring.damage import DAMAGES, WORSE, Pixels, rounded
from scoring.faces import aligned
from table import Row, finish, shared_data

from celebahq_builder.imaging.geometry import PaddingPlan
from celebahq_builder.imaging.padding import pad_photo
from celebahq_builder.imaging.quality_score import quality_score

REPEATS = 20
LARGEST_MS = 40.0
OTHERS = 32
"""Photos of 512x512 px that the formula's constants were not chosen on."""

PADDED_SHARE = 0.15
"""Share of the crop that the photo lacks, on one side."""


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=50, help="photos aligned by either way, default 50")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = shared_data()
    real = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((data / "celebahq_1024").glob("*.jpg"))]
    scores = np.array([score(image) for image in real])
    rows = damage_rows(real, scores) + invariance_rows(real, scores) + padding_rows(real, scores)
    rows += other_rows(data)
    rows += preference_rows(scores, data, asked.faces)
    rows.append(Row("1024x1024, one core: CPU time", milliseconds(real[0]), "ms", at_most=LARGEST_MS))
    finish(rows)


def score(image: Pixels) -> float:
    """Return the score of an RGB image uint8 [S, S, 3]."""
    return quality_score(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))).score


def damage_rows(real: list[Pixels], scores: NDArray[np.float64]) -> list[Row]:
    """Return for each damage the share of images that it lowers, and whether more of it costs more."""
    found = {}
    rows = []
    for name, (damage, least) in DAMAGES.items():
        worse = [score(damage(image, np.random.default_rng(i))) for i, image in enumerate(real)]
        found[name] = np.array(worse)
        rows.append(Row(f"{name}: share scored below the original", float((found[name] < scores).mean()), "", least))
        rows.append(Row(f"{name}: mean share of the original's score", float((found[name] / scores).mean()), ""))
    for less, more in WORSE:
        gap = float(found[less].mean() - found[more].mean())
        rows.append(Row(f"mean score, {less} less {more}", gap, "", at_least=0.0))
    return rows


def other_rows(data: Path) -> list[Row]:
    """Return the share of other photos that each damage lowers: the constants were chosen on the CelebA-HQ images.

    At 512 px the same damage covers twice as much of the image, and nothing above that size is there to be lost.
    """
    files = sorted((data / "photos" / "train").glob("*.jpg"))
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in files[:: max(len(files) // OTHERS, 1)][:OTHERS]]
    whole = np.array([score(photo) for photo in photos])
    rows = []
    for name, (damage, _) in DAMAGES.items():
        worse = np.array([score(damage(photo, np.random.default_rng(i))) for i, photo in enumerate(photos)])
        rows.append(Row(f"{len(photos)} other photos, 512 px, {name}: share below", float((worse < whole).mean()), ""))
    return rows


def invariance_rows(real: list[Pixels], scores: NDArray[np.float64]) -> list[Row]:
    """Return the largest change of the score under what does not make an image worse."""
    changes = {
        "mirrored": lambda p: p[:, ::-1],
        "turned by 90 degrees": lambda p: np.rot90(p),
        "turned by 180 degrees": lambda p: p[::-1, ::-1],
    }
    rows = []
    for name, change in changes.items():
        moved = [abs(score(change(p)) / s - 1) for p, s in zip(real, scores, strict=True)]
        rows.append(Row(f"{name}: largest change of the score", 100 * max(moved), "%", at_most=1.0))
    dim = [rounded(60 + 0.5 * p.astype(np.float64)) for p in real]  # room for what follows without clipping
    base = [score(p) for p in dim]
    for name, gain, shift in (
        ("brightness +40", 1.0, 40.0),
        ("contrast x 1.3", 1.3, -40.0),
        ("contrast x 0.7", 0.7, 0.0),
    ):
        moved = [abs(score(rounded(p * gain + shift)) / s - 1) for p, s in zip(dim, base, strict=True)]
        rows.append(Row(f"{name}: largest change of the score", 100 * max(moved), "%", at_most=1.0))
    return rows


def padding_rows(real: list[Pixels], scores: NDArray[np.float64]) -> list[Row]:
    """Return how far padding alone moves the score, beside the distance of neighbouring deciles."""
    side = real[0].shape[0]
    missing = round(PADDED_SHARE * side)
    moved = []
    for image, before in zip(real, scores, strict=True):
        photo = torch.from_numpy(np.ascontiguousarray(image[:, missing:].transpose(2, 0, 1)))
        room = round(0.3 * side)
        padded = pad_photo(photo, PaddingPlan(room, room, room, room), 0.02 * side)
        crop = padded[:, room : room + side, room - missing : room - missing + side]
        moved.append(abs(quality_score(crop.contiguous()).score - before))
    deciles = np.diff(np.quantile(scores, np.linspace(0.1, 0.9, 9)))
    return [
        Row(
            f"{PADDED_SHARE:.0%} of the crop padded: median change by median decile step",
            float(np.median(moved) / np.median(deciles)),
            "",
            at_most=1.0,
        )
    ]


def preference_rows(scores: NDArray[np.float64], data: Path, count: int) -> list[Row]:
    """Return how surely real CelebA-HQ images score above crops of ordinary photos."""
    rows = []
    for method, least in (("exact", 0.95), ("paper", None)):
        others = np.array([quality_score(pixels).score for pixels in aligned(data, method, count)])
        name = f"CelebA-HQ against {len(others)} crops, method = {method}"
        rows.append(Row(f"{name}: AUC", auc(scores, others), "", least))
        rows.append(Row(f"{name}: mean score of the crops", float(others.mean()), ""))
    rows.append(Row("CelebA-HQ: mean score", float(scores.mean()), ""))
    return rows


def auc(high: Iterable[float], low: Iterable[float]) -> float:
    """Return the probability that one of `high` is above one of `low`, ties counting half."""
    difference = np.subtract.outer(np.fromiter(high, float), np.fromiter(low, float))
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def milliseconds(image: Pixels) -> float:
    """Return the median CPU time of one score."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        quality_score(pixels)
        times.append(time.process_time() - began)
    return 1000 * float(np.median(times))


if __name__ == "__main__":
    main()
