"""Alignment: the default way's time against the exact one's, from the upscaled region to 1024x1024, on one core.

``python benchmarks/align.py [--photos N]`` prints every figure beside its threshold. The exact way is the public
tool's, through Pillow, numpy and scipy; the photos are of the real test set, half of them padded.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from table import Row, finish, shared_data

from celebahq_builder.imaging.geometry import plan_padding
from celebahq_builder.outcome import Rejection
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import photo_context, photo_reader
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.stages.align import AlignRecord
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo

METHODS = ("paper", "exact")
AT_MOST = {"padded": 0.1, "not padded": 1 / 3}
"""The default way's time as a share of the exact way's."""


class Steps:
    """The stages of a method, one at a time; the denoiser changes no size and is left out."""

    def __init__(self, method: str, folder: Path) -> None:
        self.recipe = BuildRecipe(method=method)
        self.stages = {stage.name: stage for stage in self.recipe.photo_stages()}
        self.context = photo_context(self.recipe.resolution, "cpu", photo_reader(folder))

    def crop(self, photo: Photo) -> Face:
        """Return a photo after the first stage."""
        return self.take("crop", Face.unread(photo, 0))

    def take(self, name: str, face: Face) -> Face:
        """Return a face after a stage."""
        stage = self.stages[name]
        return stage.run([face], self.recipe.settings(stage), self.context)[0]


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=40, help="photos to align, default 40")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    finish(time_rows(shared_data(), asked.photos))


def time_rows(data: Path, count: int) -> list[Row]:
    """Return the times of both ways, for photos whose crop leaves the photo and for the others."""
    folder = data / "faces" / "img_celeba"
    photos = read_celeba(data / "faces").photos
    steps = {method: Steps(method, folder) for method in METHODS}
    seconds: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)
    for photo in chosen(steps["paper"], photos, count):
        regions = [steps[method].take("upscale", steps[method].crop(photo)) for method in METHODS]
        results = [timed(steps[method], region) for method, region in zip(METHODS, regions, strict=True)]
        kind = "padded" if results[0][0].record[AlignRecord].padded else "not padded"
        seconds[kind].append(tuple(result[1] for result in results))
    rows = []
    for kind, most in AT_MOST.items():
        if not seconds[kind]:
            continue  # fewer rows than asked for show it
        fast, slow = np.array(seconds[kind]).mean(axis=0)
        name = f"{len(seconds[kind])} photos, {kind}"
        rows.append(Row(f"{name}: default way", float(fast), "s"))
        rows.append(Row(f"{name}: exact way", float(slow), "s"))
        rows.append(Row(f"{name}: default by exact", float(fast / slow), "", at_most=most))
    return rows


def chosen(steps: Steps, photos: Sequence[Photo], count: int) -> list[Photo]:
    """Return photos, half of them with crops that leave the photo, half of them, if there are as many, without."""
    leaving, staying = [], []
    for photo in photos:
        try:
            face = steps.crop(photo)
        except Rejection:
            continue
        left, top, right, bottom = face.margin
        width, height = face.pixels.shape[2] - left - right, face.pixels.shape[1] - top - bottom
        padding = plan_padding(face.quad - (left, top), width, height, face.border, round(0.3 * face.side))
        (staying if padding is None else leaving).append(photo)
        if min(len(leaving), len(staying)) >= count // 2:
            break
    few = staying[: count // 2]
    return few + leaving[: count - len(few)]


def timed(steps: Steps, face: Face) -> tuple[Face, float]:
    """Return the aligned face and the CPU time that it took."""
    began = time.process_time()
    result = steps.take("align", face)
    return result, time.process_time() - began


if __name__ == "__main__":
    main()
