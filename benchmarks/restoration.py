"""Quality and cost of the bundled restoration networks: LIVE1 for the denoiser, Set5 and Set14 for the upscaler.

``python benchmarks/restoration.py [--pretrained DIR]`` prints every figure beside its threshold.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from table import Row, finish, shared_data
from torch import Tensor

from celebahq_builder.imaging.fidelity import psnr, psnr_y
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.nets.autoencoder import Autoencoder
from celebahq_builder.nets.srgan import Generator
from celebahq_builder.pretrained import load
from celebahq_builder.training.degradation import jpeg

GAIN_DB = {10: 1.2, 20: 1.2, 40: 1.1, 60: 0.8, 80: None, 90: -0.02}
"""JPEG quality -> least gain in RGB PSNR over the JPEG itself, mean over LIVE1; None is reported only."""
CLEAN_DB = 45.0
TWICE_DB = 0.8
"""Least gain after two compressions, 30 then 75, on grids shifted by (3, 5)."""
BICUBIC_DB = {"Set5": 1.5, "Set14": 1.0}
UPSCALER_DB = {"Set5": 31.2, "Set14": 27.9}
FACE_PX = 450
FACE_S = 4.0


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, help="folder of registry.toml, default the bundled one")
    folder = parser.parse_args().pretrained
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = shared_data() / "benchmarks"
    denoiser, upscaler = load("denoiser", folder=folder), load("upscaler-psnr", folder=folder)
    rows = [*denoiser_rows(denoiser, data / "LIVE1"), *upscaler_rows(upscaler, data), *cost_rows(denoiser, upscaler)]
    finish(rows)


def denoiser_rows(net: Autoencoder | Generator, folder: Path) -> list[Row]:
    """Return the gains over the JPEG itself on LIVE1."""
    photos = [read(path) for path in sorted(folder.glob("*.*")) if path.suffix.lower() in (".bmp", ".png")]
    rows = []
    for quality, least in GAIN_DB.items():
        gains = [gain(net, jpeg(photo, quality), photo) for photo in photos]
        rows.append(Row(f"LIVE1 ({len(photos)}), JPEG {quality}: mean gain", float(np.mean(gains)), "dB", least))
        rows.append(Row(f"LIVE1, JPEG {quality}: worst gain", min(gains), "dB", -0.02 if quality == 90 else None))
    twice = []
    for photo in photos:
        first = jpeg(photo, 30)[3:, 5:]
        twice.append(gain(net, jpeg(first, 75), photo[3:, 5:]))
    rows.append(Row("LIVE1, JPEG 30, shifted (3, 5), JPEG 75: gain", float(np.mean(twice)), "dB", TWICE_DB))
    harm = [psnr(restore(net, photo), tensor(photo)) for photo in photos]
    rows.append(Row("LIVE1, clean: PSNR of result to input, worst", min(harm), "dB"))
    return rows


def upscaler_rows(net: Autoencoder | Generator, data: Path) -> list[Row]:
    """Return Y-PSNR on the official low-resolution files, and the gain over bicubic."""
    rows = []
    for name, least in UPSCALER_DB.items():
        scores, plain = [], []
        for path in sorted((data / name).glob("*_LR.png")):
            low = read(path)
            high = tensor(read(path.with_name(path.name.replace("_LR", "_HR"))))
            result = restore(net, low, scale=4)
            height, width = min(result.shape[1], high.shape[1]), min(result.shape[2], high.shape[2])
            bicubic = Image.fromarray(low).resize((low.shape[1] * 4, low.shape[0] * 4), Image.Resampling.BICUBIC)
            scores.append(psnr_y(result[:, :height, :width], high[:, :height, :width]))
            plain.append(psnr_y(tensor(np.asarray(bicubic))[:, :height, :width], high[:, :height, :width]))
        rows.append(Row(f"{name} x4 ({len(scores)}): Y-PSNR", float(np.mean(scores)), "dB", least))
        rows.append(Row(f"{name} x4: bicubic", float(np.mean(plain)), "dB"))
        above = float(np.mean(scores) - np.mean(plain))
        rows.append(Row(f"{name} x4: above bicubic", above, "dB", BICUBIC_DB[name]))
    return rows


def cost_rows(denoiser: Autoencoder | Generator, upscaler: Autoencoder | Generator) -> list[Row]:
    """Return the time of one median face through both networks, on one core."""
    face = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, FACE_PX, FACE_PX), dtype=np.uint8))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run_tiled(denoiser, face, scale=1, tile_px=512, context_px=48, stride_px=8)
        run_tiled(upscaler, face, scale=4, tile_px=256, context_px=16, stride_px=1)
        seconds.append(time.perf_counter() - began)
    return [Row(f"one {FACE_PX}x{FACE_PX} region, both networks, 1 core", min(seconds), "s", at_most=FACE_S)]


def gain(net: Autoencoder | Generator, damaged: np.ndarray, clean: np.ndarray) -> float:
    """Return the gain in PSNR over the damaged picture, dB."""
    return psnr(restore(net, damaged), tensor(clean)) - psnr(tensor(damaged), tensor(clean))


def restore(net: Autoencoder | Generator, picture: np.ndarray, scale: int = 1) -> Tensor:
    """Return a network's result, uint8 [3, H, W]."""
    return run_tiled(net, tensor(picture), scale=scale, tile_px=512, context_px=48, stride_px=net.STRIDE_PX)


def tensor(picture: np.ndarray) -> Tensor:
    """Return an RGB picture as uint8 [3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def read(path: Path) -> np.ndarray:
    """Return a picture as uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    main()
