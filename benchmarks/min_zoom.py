"""Faces that need little zoom, with the upscaler and without it: quality scores, distance to the truth, and time.

``python benchmarks/min_zoom.py [--faces N] [--zooms Z ...] [--resolution R] [--sheets DIR]`` reduces large faces,
compresses them as JPEG, and builds them in both ways. It prints the means for each zoom, then for each threshold
`upscale.min_zoom`. With ``--sheets``, it writes details of the results at 100 %: the truth, without the upscaler, with
it. Times are processor times of one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from restoring.images import read, tensor
from table import Row, finish, shared_data
from torch import Tensor

from celebahq_builder.config import from_mapping
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import Points, crop_from_landmarks
from celebahq_builder.imaging.image_grid import image_grid
from celebahq_builder.imaging.image_io import encode_jpeg, encode_png
from celebahq_builder.imaging.quality_score import quality_score
from celebahq_builder.landmarks.find import find_landmarks
from celebahq_builder.metrics.fidelity import psnr
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import deterministic, photo_context
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo

ZOOMS = (1.1, 1.15, 1.25, 1.5, 2.0)
THRESHOLDS = (1.0, 1.15, 1.25, 1.5, 2.0)
WAYS = {"direct": {"min_zoom": 1000.0}, "network": {}}
"""Settings of the upscaler: no face passes it, and all faces with a zoom above 1 do."""
JPEG_QUALITY = 92
FACE_MIN_PX = 300
MARGIN = 0.25
"""Mirrored margin around an aligned face, in its side lengths, so that its crop needs no padding."""
DETAILS = ((0.38, 0.46), (0.5, 0.72), (0.5, 0.12))
"""Centres of the details on the sheets, in side lengths of the result: an eye, the mouth, hair."""
DETAIL_PX = 224
SHEET_ROWS = 10


@dataclass(frozen=True)
class LargeFace:
    """A face with at least as many pixels as its result."""

    name: str
    image: Pixels
    landmarks: Points
    resolution: int
    """Side length of the result in px: the largest power of 2 that the crop has."""


@dataclass(frozen=True)
class Result:
    """A face that was built in one of the ways, compared with the truth."""

    pixels: Tensor
    score: float
    psnr_db: float
    seconds: float
    """Processor time of upscaling and alignment."""


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=40, help="faces to build, default 40")
    parser.add_argument("--zooms", type=float, nargs="+", default=ZOOMS)
    parser.add_argument("--resolution", type=int, default=1024, help="largest side length of a result, default 1024")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="folder for details of the results, made if missing")
    asked = parser.parse_args()
    with deterministic():
        faces = list(large_faces(shared_data(), asked.resolution))[: asked.faces]
        finish(measure(faces, asked.zooms, asked.sheets))


def large_faces(data: Path, largest: int) -> Iterator[LargeFace]:
    """Yield aligned faces of CelebA-HQ, faces of press photos, and one of the embedded sample."""
    for path in sorted((data / "celebahq_1024").glob("*.jpg")):
        image = read(path)
        margin = round(MARGIN * len(image))
        wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
        yield large_face(path.stem, wide, landmarks_of_square(len(wide) / 2, len(image)), largest)
    with tempfile.TemporaryDirectory() as folder:
        found = find_landmarks(
            data / "own",
            Path(folder) / "own.csv",
            min_face_px=FACE_MIN_PX,
            workers=1,
            model=next((data / "models").glob("*.onnx")),
        )
        for number, (file, numbers) in enumerate(found.rows):
            yield large_face(f"own-{number}", read(data / "own" / file), np.reshape(numbers, (5, 2)), largest)
    sample = Path(__file__).parents[1] / "tests" / "sample" / "celeba"
    photo = read_celeba(sample).photos[0]
    yield large_face("sample", read(sample / "img_celeba" / photo.file), np.reshape(photo.landmarks, (5, 2)), largest)


def large_face(name: str, image: Pixels, landmarks: Points, largest: int) -> LargeFace:
    """Return a face with the largest resolution that it has pixels for, at most `largest`."""
    side = crop_from_landmarks(landmarks.astype(float)).side + 1e-6
    return LargeFace(name, image, landmarks.astype(float), min(largest, 2 ** int(np.log2(side))))


def landmarks_of_square(centre: float, side: float) -> Points:
    """Return landmarks [5, 2] whose crop is the upright square of this side length around (centre, centre)."""
    eye, mouth = side / 8, side / 4
    x, y = centre - 0.5, centre - 0.5 - 0.1 * mouth
    return np.array([[x - eye, y], [x + eye, y], [x, y + mouth / 2], [x - eye, y + mouth], [x + eye, y + mouth]])


def measure(faces: Sequence[LargeFace], zooms: Sequence[float], sheets: Path | None) -> list[Row]:
    """Return the figures of each zoom, then of each threshold."""
    results: defaultdict[tuple[float, str], list[Result]] = defaultdict(list)
    rows = []
    truths = [truth(face) for face in faces]
    scores = [quality_score(one).score for one in truths]
    rows.append(Row(f"{len(faces)} faces: score of the truth", float(np.mean(scores)), ""))
    for zoom in zooms:
        for face, true in zip(faces, truths, strict=True):
            for way, result in build(face, true, zoom).items():
                results[zoom, way].append(result)
        if sheets:
            write_sheets(sheets, zoom, truths, results[zoom, "direct"], results[zoom, "network"])
        rows += zoom_rows(zoom, results[zoom, "direct"], results[zoom, "network"])
    for threshold in THRESHOLDS:
        chosen = [one for zoom in zooms for one in results[zoom, "direct" if zoom <= threshold else "network"]]
        name = f"min_zoom = {threshold:g}, all zooms"
        rows.append(Row(f"{name}: score", float(np.mean([one.score for one in chosen])), ""))
        rows.append(Row(f"{name}: upscale and align", float(np.mean([one.seconds for one in chosen])), "s/photo"))
    return rows


def zoom_rows(zoom: float, direct: Sequence[Result], network: Sequence[Result]) -> list[Row]:
    """Return the means of both ways at one zoom, and the spread of the change of the score."""
    rows = []
    for way, some in (("direct", direct), ("network", network)):
        name = f"zoom {zoom:g}, {way}"
        rows.append(Row(f"{name}: score", float(np.mean([one.score for one in some])), ""))
        rows.append(Row(f"{name}: PSNR", float(np.mean([one.psnr_db for one in some])), "dB"))
        rows.append(Row(f"{name}: upscale and align", float(np.mean([one.seconds for one in some])), "s/photo"))
    changes = [one.score - other.score for one, other in zip(direct, network, strict=True)]
    rows.append(Row(f"zoom {zoom:g}, direct - network: lowest change of the score", min(changes), ""))
    rows.append(Row(f"zoom {zoom:g}, direct - network: highest change of the score", max(changes), ""))
    return rows


def truth(face: LargeFace) -> Tensor:
    """Return the aligned face from all its pixels, uint8 [3, R, R]."""
    whole = first_face(face.landmarks, encode_png(tensor(face.image).numpy()), face.resolution)
    return run_stage("align", whole, BuildRecipe(resolution=face.resolution)).pixels


def build(face: LargeFace, true: Tensor, zoom: float) -> dict[str, Result]:
    """Return the results of both ways for a face that was reduced so far that it needs a zoom."""
    scale = face.resolution / zoom / crop_from_landmarks(face.landmarks).side
    height, width = (round(scale * length) for length in face.image.shape[:2])
    reduced = cv2.resize(face.image, (width, height), interpolation=cv2.INTER_AREA)
    landmarks = (face.landmarks + 0.5) * (width / face.image.shape[1], height / face.image.shape[0]) - 0.5
    recipe = BuildRecipe(resolution=face.resolution)
    given = first_face(landmarks, encode_jpeg(tensor(reduced).numpy(), JPEG_QUALITY), face.resolution)
    clean = run_stage("denoise", given, recipe)
    results = {}
    for way, settings in WAYS.items():
        began = time.process_time()
        own = from_mapping(BuildRecipe, {"resolution": face.resolution, "upscale": settings}, where=way)
        aligned = run_stage("align", run_stage("upscale", clean, own), recipe)
        took = time.process_time() - began
        results[way] = Result(aligned.pixels, quality_score(aligned.pixels).score, psnr(aligned.pixels, true), took)
    return results


def first_face(landmarks: Points, photo: bytes, resolution: int) -> Face:
    """Return the crop of a photo that is held in memory."""
    unread = Face.unread(Photo("photo", "photo.jpg", tuple(landmarks.flatten())), 0)
    return run_stage("crop", unread, BuildRecipe(resolution=resolution), photo)


def run_stage(name: str, face: Face, recipe: BuildRecipe, photo: bytes = b"") -> Face:
    """Return a face after a stage."""
    [stage] = [stage for stage in recipe.photo_stages() if stage.name == name]
    context = photo_context(recipe.resolution, "cpu", lambda _: photo)
    return stage.run([face], recipe.settings(stage), context)[0]


def write_sheets(
    folder: Path, zoom: float, truths: Sequence[Tensor], direct: Sequence[Result], network: Sequence[Result]
) -> None:
    """Write details of all faces; each row shows the truth, the result without the upscaler, and that with it."""
    folder.mkdir(parents=True, exist_ok=True)
    triples = [(true, one.pixels, other.pixels) for true, one, other in zip(truths, direct, network, strict=True)]
    for first in range(0, len(triples), SHEET_ROWS):
        rows = [np.concatenate([*map(details, triple)], axis=2) for triple in triples[first : first + SHEET_ROWS]]
        sheet = image_grid(rows, columns=1, gap_px=8)
        (folder / f"zoom-{zoom:g}-{first // SHEET_ROWS}.png").write_bytes(encode_png(sheet))


def details(pixels: Tensor) -> np.ndarray:
    """Return details of a result side by side, uint8 [3, `DETAIL_PX`, 3 `DETAIL_PX`]."""
    size = pixels.shape[1]
    corners = [[round(min(max(size * at - DETAIL_PX / 2, 0), size - DETAIL_PX)) for at in centre] for centre in DETAILS]
    return np.concatenate([pixels[:, y : y + DETAIL_PX, x : x + DETAIL_PX].numpy() for x, y in corners], axis=2)


if __name__ == "__main__":
    main()
