"""Precision of landmarks beside the manual ones of 200 photos: detector, averaged, refined.

``python benchmarks/landmarks.py [--refiner RUN] [--json FILE]`` prints every figure beside its threshold. RUN is the
folder of a training of ``celebahq train-landmarks`` on CELEBAHQ_SHARED/data/faces, whose every fifth row is held out;
these rows are the test. Without --refiner, the variable CELEBAHQ_REFINER names it; without both, the rows of the
refiner are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from table import Row, finish, shared_data

from celebahq_builder.imaging.geometry import Points
from celebahq_builder.landmarks.detector import DetectedFace, FaceDetector
from celebahq_builder.landmarks.refiner import CLOSE, Refiner
from celebahq_builder.landmarks.training import LandmarkErrors, landmark_errors, median_errors
from celebahq_builder.sources.celeba import CelebA

MODEL = "face_detection_yunet_2026may.onnx"

DETECTOR_MS = 30
"""Largest CPU time of the detector per photo of 400 px."""

AVERAGED = LandmarkErrors(nme=0.07, side_percent=3.8, rotation_deg=1.2)
"""Largest medians of the landmarks averaged over several views."""

REFINED = LandmarkErrors(nme=0.05, side_percent=2.5, rotation_deg=0.8)
"""Largest medians of the refiner."""

DOUBTFUL = 0.9
"""A refined face of less confidence is doubtful."""


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refiner", type=Path, help="folder of a training, default the variable CELEBAHQ_REFINER")
    parser.add_argument("--json", type=Path, help="also write the rows there, for a model card")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = shared_data()
    photos, true = held_out_faces(data / "faces")
    detector = FaceDetector(data / "models" / MODEL)
    found = [detector.detect(photo) for photo in photos]  # the first call allocates
    began = time.process_time()
    found = [detector.detect(photo) for photo in photos]
    detected_ms = 1000 * (time.process_time() - began) / len(photos)
    first = [nearest(faces, points) for faces, points in zip(found, true, strict=True)]
    began = time.process_time()
    averaged = [face and detector.refine(photo, face) for photo, face in zip(photos, first, strict=True)]
    averaged_ms = 1000 * (time.process_time() - began) / len(photos)
    points = [face and face.landmarks for face in averaged]
    rows = error_rows("detector", [face and face.landmarks for face in first], true)
    rows.append(Row("detector: CPU time per photo", detected_ms, "ms", at_most=DETECTOR_MS))
    rows += error_rows("averaged", points, true, AVERAGED)
    rows.append(Row("averaged: CPU time per face", averaged_ms, "ms"))
    refiner = asked.refiner or os.environ.get("CELEBAHQ_REFINER")
    if refiner:
        rows += refined_rows(Refiner.load(refiner), photos, points, true)
    if asked.json:
        asked.json.write_text(json.dumps([row.mapping() for row in rows], indent=1))
    finish(rows)


def held_out_faces(root: Path) -> tuple[list[NDArray[np.uint8]], list[Points]]:
    """Return the photos, uint8 [H, W, 3], and the manual landmarks of every fifth row."""
    source = CelebA(root)
    chosen = source.photos[::5]
    photos = [np.asarray(Image.open(source.folder / photo.file).convert("RGB")) for photo in chosen]
    return photos, [photo.points for photo in chosen]


def nearest(faces: list[DetectedFace], true: Points) -> DetectedFace | None:
    """Return the face whose landmarks are nearest to the true ones; None if there is none."""
    return min(faces, key=lambda face: float(np.hypot(*(face.landmarks - true).T).mean()), default=None)


def error_rows(
    name: str, found: list[Points | None], true: list[Points], most: LandmarkErrors | None = None
) -> list[Row]:
    """Return the share of faces that were found, and the median errors of their landmarks."""
    errors = [landmark_errors(one, other) for one, other in zip(found, true, strict=True) if one is not None]
    median = median_errors(errors)
    rows = [Row(f"{name}: found", 100 * len(errors) / len(true), "%")]
    for what, unit in (("nme", ""), ("side_percent", "%"), ("rotation_deg", "degrees")):
        label = f"{name}: {what.partition('_')[0]}, median"
        rows.append(Row(label, getattr(median, what), unit, at_most=most and getattr(most, what)))
    return rows


def close_share(found: Points, true: Points) -> float:
    """Return the share of landmarks that are within a tenth of the eye distance of the true ones."""
    distance = np.hypot(*(found - true).T) / np.hypot(*(true[1] - true[0]))
    return float((distance < CLOSE).mean())


def refined_rows(
    refiner: Refiner, photos: list[NDArray[np.uint8]], first: list[Points | None], true: list[Points]
) -> list[Row]:
    """Return the errors after refinement, the time, and the confidence beside the share of close points."""
    began = time.process_time()
    results = [
        None if points is None else refiner.refine(photo, points) for photo, points in zip(photos, first, strict=True)
    ]
    cost_ms = 1000 * (time.process_time() - began) / len(photos)
    rows = error_rows("refined", [one and one[0] for one in results], true, REFINED)
    # --- The confidence is a probability, so its mean is the share of points that are close
    refined = [(*one, other) for one, other in zip(results, true, strict=True) if one]
    close = np.array([close_share(points, other) for points, _, other in refined])
    confidence = np.array([one for _, one, _ in refined])
    doubtful = confidence < DOUBTFUL
    for name, chosen in (("all faces", np.full(len(close), True)), (f"confidence < {DOUBTFUL:g}", doubtful)):
        if chosen.any():
            rows.append(Row(f"refined, {name} ({chosen.sum()}): points within 0.1", 100 * close[chosen].mean(), "%"))
            rows.append(Row(f"refined, {name}: mean confidence", 100 * confidence[chosen].mean(), "%"))
    rows.append(Row("refined: CPU time per face", cost_ms, "ms"))
    return rows


if __name__ == "__main__":
    main()
