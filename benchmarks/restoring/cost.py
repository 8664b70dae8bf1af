"""Rows of what both networks cost together: time, memory, arithmetic; and whether their tiles can be told."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from table import Row
from torch.utils.flop_counter import FlopCounterMode

from celebahq_builder.imaging.tiles import run_tiled
from restoring.images import Network, live1, tensor

FACE_PX = 450
PART_PX = 128
FACE_S = 4.0
MEMORY_GB = 1.2
SEAM = 1
"""Largest difference between tiled and untiled results, grey levels."""

HUGE = (8000, 6000)
"""A photo of 48 megapixels whose face just needs upscaling, the worst that can come."""

BUILD_ONE = """
import sys
from pathlib import Path
import torch
from celebahq_builder.parallel import peak_memory_bytes
from celebahq_builder.sources.photo import Photo
from celebahq_builder.pipeline.photo_context import photo_context, photo_reader
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.recipe import BuildRecipe
torch.set_num_threads(1)
photo = Photo(id="huge", file=sys.argv[2], landmarks=tuple(map(float, sys.argv[3].split(","))))
recipe, face = BuildRecipe(), Face.unread(photo, 0)
context = photo_context(recipe.resolution, "cpu", photo_reader(Path(sys.argv[1])))
for stage in recipe.photo_stages()[:3]:
    [face] = stage.run([face], recipe.settings(stage), context)
print(face.pixels.shape[1], face.pixels.shape[2], peak_memory_bytes() / 1024**3)
"""


def cost_rows(denoiser: Network, upscaler: Network, data: Path) -> list[Row]:
    """Return time and memory of one face, the seams, and the arithmetic per megapixel."""
    rows = [_time_row(denoiser, upscaler), *_memory_rows()]
    photo = tensor(live1(data)[0])
    for name, net, scale, tile_px in (("denoiser", denoiser, 1, 128), ("upscaler", upscaler, 4, 96)):
        whole, tiled = (
            run_tiled(net, photo, scale=scale, tile_px=px, context_px=net.context_px, stride_px=net.STRIDE_PX)
            for px in (4096, tile_px)
        )
        seam = int((whole.int() - tiled.int()).abs().max())
        rows.append(Row(f"{name}: tiles of {tile_px} px against none, worst", seam, "levels", at_most=SEAM))
        rows.append(Row(f"{name}: GFLOP per input megapixel", _gflop_per_megapixel(net), ""))
    return rows


def upscaler_cost_rows(upscalers: dict[str, Network]) -> list[Row]:
    """Return arithmetic and processor time of each upscaler; the time of a face is computed from that of a part."""
    rows = []
    for name, net in upscalers.items():
        part = torch.zeros(1, 3, PART_PX, PART_PX)
        with torch.inference_mode():
            net(part)  # the first run selects kernels
            began = time.process_time()
            net(part)
        seconds = (time.process_time() - began) * (FACE_PX / PART_PX) ** 2
        rows.append(Row(f"{name}: processor time of a {FACE_PX}x{FACE_PX} region", seconds, "s"))
        rows.append(Row(f"{name}: GFLOP per input megapixel", _gflop_per_megapixel(net), ""))
    return rows


def _gflop_per_megapixel(net: Network) -> float:
    side_px = 64
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, side_px, side_px))
    return counter.get_total_flops() / side_px**2 / 1e3


def _time_row(denoiser: Network, upscaler: Network) -> Row:
    face = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, FACE_PX, FACE_PX), dtype=np.uint8))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for net, scale, tile_px in ((denoiser, 1, 512), (upscaler, 4, 256)):
            run_tiled(net, face, scale=scale, tile_px=tile_px, context_px=net.context_px, stride_px=net.STRIDE_PX)
        seconds.append(time.perf_counter() - began)
    return Row(f"one {FACE_PX}x{FACE_PX} region, both networks, 1 core", min(seconds), "s", at_most=FACE_S)


def _memory_rows() -> list[Row]:
    """Build one face of a huge photo in a process of its own, as a worker would, up to the upscaled region."""
    with tempfile.TemporaryDirectory() as folder:
        width, height = HUGE
        noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(HUGE, Image.Resampling.BILINEAR).save(Path(folder) / "huge.jpg", quality=90)
        landmarks = _landmarks(width / 2, height / 2, side=1000)
        arguments = [sys.executable, "-c", BUILD_ONE, folder, "huge.jpg", ",".join(map(str, landmarks))]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    rows, columns, peak = done.stdout.split()
    title = f"a face of {width}x{height} px, upscaled region {columns}x{rows}: peak memory"
    return [Row(title, float(peak), "GiB", at_most=MEMORY_GB)]


def _landmarks(x: float, y: float, side: float) -> list[float]:
    """Return landmarks of an upright face whose crop has about this side: 4 eye distances or 3.6 eye-mouth ones."""
    eye, mouth = side / 4 / 2, side / 3.6
    return [x - eye, y, x + eye, y, x, y + mouth / 2, x - eye, y + mouth, x + eye, y + mouth]
