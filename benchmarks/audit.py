"""Copies that an audit finds, people that it confuses, and its time: ``python benchmarks/audit.py``.

1,000 faces of CelebA are aligned as those of CelebA-HQ, at 256x256. The audit must not report any pair of them, nor a
face with the mirror image of another, as near duplicates: a million pairs. 400 of the faces are copied, each in several
ways. The audit should find all copies, except those marked as hard, which have no threshold. The usual hash of 64 bits
is measured beside ours: the smallest distance of two people, and the largest distance of a copy.

Speed: all pairs of 30,000 hashes, and a complete audit of 120 images of 1024x1024, made of the 28 real CelebA-HQ
images, with its peak memory.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from table import Row, finish, shared_data

from celebahq_builder.imaging.geometry import crop_from_landmarks
from celebahq_builder.imaging.image_io import open_rgb, pil_to_array
from celebahq_builder.imaging.pyramid import build_pyramid
from celebahq_builder.inspect.duplicates import (
    DISTANCE,
    LIKENESS,
    MIRROR,
    Hashes,
    bits,
    distances,
    grey,
    likeness,
    near_pairs,
    perceptual_hashes,
)

Pixels = NDArray[np.uint8]

SIDE, COPIED = 256, 400
HASHES = 30_000
LARGE = 120


def aligned() -> list[Pixels]:
    """Return CelebA's faces upright, uint8 [256, 256, 3], mirrored beyond the photo."""
    root, faces = shared_data() / "faces", []
    for row in (root / "Anno" / "list_landmarks_celeba.txt").read_text().splitlines()[2:]:
        name, *numbers = row.split()
        photo = cv2.imread(str(root / "img_celeba" / name))
        quad = crop_from_landmarks(np.array(numbers, float).reshape(5, 2)).quad
        wider = np.hypot(*(quad[3] - quad[0])) / SIDE
        if wider > 1:
            photo = cv2.GaussianBlur(photo, (0, 0), 0.5 * np.sqrt(wider**2 - 1) + 1e-3)
        corners = np.array([[0, 0], [0, SIDE], [SIDE, 0]], np.float32) - np.float32(0.5)
        turn = cv2.getAffineTransform(quad[[0, 1, 3]].astype(np.float32) - np.float32(0.5), corners)
        faces.append(cv2.warpAffine(photo, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101))
    return faces


def moved(face: Pixels, number: int, share: float = 0.0, degrees: float = 0.0, zoom: float = 1.0) -> Pixels:
    """Return a face shifted in some direction, turned and enlarged."""
    turn = cv2.getRotationMatrix2D(((SIDE - 1) / 2, (SIDE - 1) / 2), degrees, zoom)
    direction = np.random.default_rng(number).uniform(0, 2 * np.pi)
    turn[:, 2] += share * SIDE * np.array([np.cos(direction), np.sin(direction)])
    return cv2.warpAffine(face, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)


def jpeg(face: Pixels, quality: int) -> Pixels:
    """Return a face after JPEG."""
    return cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def scaled(face: Pixels, side: int) -> Pixels:
    """Return a face reduced and enlarged again."""
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


COPIES: dict[str, tuple[float | None, Callable[[Pixels, int], Pixels]]] = {
    "JPEG 50": (0.99, lambda face, _: jpeg(face, 50)),
    "JPEG 20": (0.99, lambda face, _: jpeg(face, 20)),
    "a quarter of the side, and back": (0.99, lambda face, _: scaled(face, SIDE // 4)),
    "mirrored, JPEG 50": (0.99, lambda face, _: jpeg(np.ascontiguousarray(face[:, ::-1]), 50)),
    "grey": (0.99, lambda face, _: cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)),
    "20 levels lighter": (0.99, lambda face, _: cv2.add(face, np.full_like(face, 20))),
    "shifted by 1 %": (0.99, lambda face, n: moved(face, n, 0.01)),
    "enlarged by 3 %": (0.95, lambda face, n: moved(face, n, zoom=1.03)),
    "turned by 2 degrees": (0.95, lambda face, n: moved(face, n, degrees=2)),
    "shifted by 2 % (hard)": (None, lambda face, n: moved(face, n, 0.02)),
    "turned by 3 degrees, enlarged by 5 % (hard)": (None, lambda face, n: moved(face, n, degrees=3, zoom=1.05)),
}


def small(faces: list[Pixels]) -> NDArray[np.float32]:
    """Return the grey levels [n, 32, 32] that an audit sees, rounded as a level is."""
    rgb = np.stack(faces)[..., ::-1].transpose(0, 3, 1, 2)
    return grey(build_pyramid(np.ascontiguousarray(rgb))[3])


def short_hashes(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the customary 64 bits: 8x8 coefficients, whether they are above their median."""
    low = dctn(images, axes=(1, 2), norm="ortho")[:, 1:9, 1:9].reshape(len(images), -1)
    return low > np.median(low, axis=1, keepdims=True)


def quality() -> list[Row]:
    """Compare all faces with each other, and with their copies."""
    faces = aligned()
    images = small(faces)
    hashes = perceptual_hashes(images)
    own = bits(hashes)
    pairs = np.triu_indices(len(faces), 1)
    apart = np.minimum(distances(own, own), distances(own * MIRROR, own))[pairs]
    found = [
        (a, b)
        for some, others in near_pairs(hashes, DISTANCE)
        for a, b in zip(some, others, strict=True)
        if max(likeness(images[a], images[b]), likeness(images[a], images[b][:, ::-1])) >= LIKENESS
    ]
    short = short_hashes(images)
    rows = [
        Row(f"{len(faces)} people: pairs that are taken for one", len(found), "pairs", at_most=0),
        Row(f"{len(faces)} people: nearest two (limit {DISTANCE})", float(apart.min()), "bits", at_least=DISTANCE + 1),
        Row(
            "  64 bits: nearest two",
            min(float((short[a] ^ short[a + 1 :]).sum(1).min()) for a in range(len(faces) - 1)),
            "bits",
        ),
    ]
    for name, (least, change) in COPIES.items():
        copied = small([change(face, n) for n, face in enumerate(faces[:COPIED])])
        theirs = bits(perceptual_hashes(copied))
        far = np.array(
            [
                min(distances(a, b)[0, 0], distances(a * MIRROR, b)[0, 0])
                for a, b in zip(own[:COPIED, None], theirs[:, None], strict=True)
            ]
        )
        like = [max(likeness(a, b), likeness(a, b[:, ::-1])) for a, b in zip(images, copied, strict=False)]
        share = float(((far <= DISTANCE) & (np.array(like) >= LIKENESS)).mean())
        rows.append(Row(f"copies found: {name}", share, "share", at_least=least))
        if name == "shifted by 1 %":
            rows.append(Row("  farthest of them", float(far.max()), "bits"))
            rows.append(
                Row("  64 bits: farthest of them", float((short[:COPIED] ^ short_hashes(copied)).sum(1).max()), "bits")
            )
    return rows


def pairs_of_many() -> list[Row]:
    """Compare 30,000 hashes, of images drawn at random, some of them copies."""
    rng = np.random.default_rng(0)
    hashes: Hashes = rng.integers(0, 256, (HASHES, 32), dtype=np.uint8)
    hashes[:, -1] &= 254
    hashes[HASHES // 2 :: 100] = hashes[: HASHES // 2 : 100]
    began, clock = time.perf_counter(), time.process_time()
    found = sum(len(some) for some, _ in near_pairs(hashes))
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    return [
        Row(f"all pairs of {HASHES} hashes", wall, "s", at_most=60),
        Row("  processor time", cpu, "s"),
        Row("  pairs found, of 150", found, "pairs", at_least=150, at_most=150),
    ]


# The kernel's own mark of this program alone: that of getrusage is also its parent's, of which it is a fork.
LARGE_RUN = """
import sys, time
from pathlib import Path
from celebahq_builder.inspect.audit_report import audit
began, clock = time.perf_counter(), time.process_time()
audit(Path(sys.argv[1]), Path(sys.argv[2]))
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - began, time.process_time() - clock, peak_kb)
"""


def large_images() -> list[Row]:
    """Audit 120 images of 1024x1024 in a process of its own."""
    real = [
        pil_to_array(open_rgb(path.read_bytes(), 1 << 24)[0])
        for path in sorted((shared_data() / "celebahq_1024").glob("*.jpg"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.h5"
        with h5py.File(path, "w") as file:
            for number in range(LARGE):
                face = np.roll(real[number % len(real)], 60 * (number // len(real)), axis=2)
                for level in build_pyramid(face):
                    r = level.shape[-1]
                    data = file.require_dataset(
                        f"data{r}x{r}",
                        (LARGE, 3, r, r),
                        np.uint8,
                        chunks=(1, 3, r, r),
                        compression="gzip",
                        compression_opts=1,
                    )
                    data[number] = level
        run = subprocess.run(
            [sys.executable, "-c", LARGE_RUN, path, Path(folder) / "out"], capture_output=True, text=True, check=True
        )
    wall, cpu, peak = map(float, run.stdout.split())
    return [
        Row(f"audit of {LARGE} images of 1024x1024", LARGE / wall, "images/s", at_least=50),
        Row("  processor time", 1000 * cpu / LARGE, "ms/image"),
        Row("  peak memory", peak / 1e3, "MB", at_most=1000),
    ]


if __name__ == "__main__":
    cv2.setNumThreads(1)
    finish(large_images() + pairs_of_many() + quality())
