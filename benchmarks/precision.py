"""Networks in bf16 against fp32: loss of PSNR, order of the scores, and time.

``python benchmarks/precision.py [--photos N] [--device D] [--source CELEBA]`` prints every figure beside its threshold.
The CPU works with one thread, as a worker does.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from restoring.images import live1, low_and_high, restore, tensor
from scipy.stats import spearmanr
from table import Row, finish, shared_data
from torch import Tensor

from celebahq_builder.config import from_mapping
from celebahq_builder.device_errors import synchronize
from celebahq_builder.metrics.fidelity import psnr, psnr_y
from celebahq_builder.models.registry import load_network
from celebahq_builder.outcome import QualityScore, Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import deterministic, photo_context, photo_reader
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.restoration.degradation import apply_jpeg
from celebahq_builder.sources.celeba import read_celeba

PRECISIONS = {
    "fp32": {"denoise": "fp32", "upscale": "fp32"},
    "upscaler in bf16": {"denoise": "fp32", "upscale": "bf16"},
    "both in bf16": {"denoise": "bf16", "upscale": "bf16"},
}
LOSS_DB = 0.03
LOSS_OF_ORDER = 1.0  # in thousandths: Spearman's coefficient is at least 0.999
JPEG_QUALITY = 40


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=40, help="photos to build in both precisions, default 40")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--source", type=Path, help="folder in CelebA's layout, default the shared faces")
    asked = parser.parse_args()
    with deterministic():
        rows = psnr_rows(shared_data()) if asked.source is None else []
        finish([*rows, *score_rows(asked.source or shared_data() / "faces", asked.photos, asked.device)])


def psnr_rows(data: Path) -> list[Row]:
    """Return the loss of PSNR of both networks, mean over their test images."""
    denoiser, upscaler = load_network("denoiser"), load_network("upscaler-gan")
    damaged = [(apply_jpeg(photo, JPEG_QUALITY), photo) for photo in live1(data)]
    pairs = [*low_and_high(data, "Set5"), *low_and_high(data, "Set14")]
    rows = []
    for name, measure in (
        ("denoiser, LIVE1", lambda: [psnr(restore(denoiser, low), tensor(high)) for low, high in damaged]),
        ("upscaler-gan, Set5 and Set14", lambda: [psnr_y(restore(upscaler, a), tensor(b)) for a, b in pairs]),
    ):
        full, half = measure(), in_bf16(measure)
        rows.append(Row(f"{name}: PSNR in fp32", float(np.mean(full)), "dB"))
        rows.append(Row(f"{name}: loss in bf16", float(np.mean(full) - np.mean(half)), "dB", at_most=LOSS_DB))
    return rows


def in_bf16(measure: Callable[[], list[float]]) -> list[float]:
    """Return figures of networks on the CPU that compute their convolutions in bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        return measure()


def score_rows(source: Path, count: int, device: str) -> list[Row]:
    """Return how the scores and images of faces differ from those in fp32, and the time of the networks."""
    photos, context = read_celeba(source).photos, photo_context(1024, device, photo_reader(source / "img_celeba"))
    scores: defaultdict[str, list[float]] = defaultdict(list)
    distances: defaultdict[str, list[float]] = defaultdict(list)
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for photo in photos:
        images: list[Tensor] = []
        for name, chosen in PRECISIONS.items():
            settings = {stage: {"precision": precision} for stage, precision in chosen.items()}
            recipe = from_mapping(BuildRecipe, settings, where=name)
            faces = [Face.unread(photo, 0)]
            try:
                for stage in recipe.photo_stages():
                    began = time.perf_counter()
                    faces = stage.run(faces, recipe.settings(stage), context)
                    synchronize(context.device)
                    seconds[name, stage.name] += time.perf_counter() - began
            except Rejection:
                break
            scores[name].append(faces[0].record[QualityScore].score)
            images.append(faces[0].pixels.float())
            distances[name].append(float((images[0] - images[-1]).abs().mean()))
        if len(scores["both in bf16"]) == count:
            break
    rows = []
    for name in PRECISIONS:
        if name != "fp32":
            order = float(spearmanr(scores["fp32"], scores[name]).statistic)
            what = f"{len(scores[name])} faces at 1024x1024, {name}"
            rows.append(
                Row(f"{what}: 1000 (1 - Spearman of the scores)", 1000 * (1 - order), "", at_most=LOSS_OF_ORDER)
            )
            rows.append(Row(f"{what}: mean difference", float(np.mean(distances[name])), "levels"))
        for stage_name in ("denoise", "upscale"):
            took = 1000 * seconds[name, stage_name] / len(scores[name])
            rows.append(Row(f"  {stage_name}, {name}", took, "ms/photo"))
    return rows


if __name__ == "__main__":
    main()
