"""Make the images of README and model cards from the embedded sample: ``python benchmarks/images.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from celebahq_builder.imaging.image_io import encode_jpeg, open_rgb, pil_to_array
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.models.registry import load_network, read_registry
from celebahq_builder.pipeline.batch import photo_context, photo_reader
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.restoration.photos import apply_jpeg
from celebahq_builder.sources.celeba import read_celeba

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "sample" / "celeba"
PANEL_PX = 400
PHOTO = "000013"
"""The photo of the README: JPEG quality 20, tilted."""


def main() -> None:
    """Write the images into pretrained/."""
    torch.set_num_threads(1)
    save("stages.jpg", [*stages()])
    face = pil_to_array(open_rgb((SAMPLE / "img_celeba" / "000001.jpg").read_bytes(), 10**8)[0])[:, 176:336, 288:448]
    save("denoiser.jpg", denoiser(face))
    for name in sorted(name for name in read_registry() if name.startswith("upscaler")):
        save(f"{name}.jpg", upscaler(face, name))


def stages() -> list[np.ndarray]:
    """Return a photo's crop after each stage, then the same detail of it."""
    photo = next(p for p in read_celeba(SAMPLE).photos if p.id == PHOTO)
    recipe, face, faces = BuildRecipe(), Face.unread(photo, 0), []
    context = photo_context(recipe.resolution, "cpu", photo_reader(SAMPLE / "img_celeba"))
    for stage in recipe.photo_stages():
        if stage.example_title:
            [face] = stage.run([face], recipe.settings(stage), context)
            faces.append(face)
    whole = [warp_quad(f.pixels, f.quad, PANEL_PX).numpy() for f in faces]
    detail = []
    for f in faces:
        right, down = f.quad[3] - f.quad[0], f.quad[1] - f.quad[0]
        corner = f.quad[0] + 0.25 * right + 0.26 * down
        part = np.stack([corner, corner + 0.5 * down, corner + 0.5 * (down + right), corner + 0.5 * right])
        detail.append(warp_quad(f.pixels, part, PANEL_PX).numpy())
    return [np.concatenate(pair, axis=1) for pair in zip(whole, detail, strict=True)]


def denoiser(face: np.ndarray) -> list[np.ndarray]:
    """Return JPEG 20, the network's result, and the original."""
    damaged = apply_jpeg(np.ascontiguousarray(face.transpose(1, 2, 0)), 20).transpose(2, 0, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(damaged))
    result = run_tiled(load_network("denoiser"), pixels, scale=1, tile_px=512, context_px=112, stride_px=8)
    return [enlarge(p, Image.Resampling.NEAREST) for p in (damaged, result.numpy(), face)]


def upscaler(face: np.ndarray, name: str) -> list[np.ndarray]:
    """Return bicubic enlargement, the network's result, and the original."""
    image = Image.fromarray(face.transpose(1, 2, 0))
    small = np.asarray(image.resize((face.shape[2] // 4, face.shape[1] // 4), Image.Resampling.BICUBIC)).transpose(
        2, 0, 1
    )
    pixels = torch.from_numpy(np.ascontiguousarray(small))
    net = load_network(name)
    result = run_tiled(net, pixels, scale=4, tile_px=256, context_px=net.context_px, stride_px=1)
    return [
        enlarge(small, Image.Resampling.BICUBIC),
        enlarge(result.numpy(), Image.Resampling.NEAREST),
        enlarge(face, Image.Resampling.NEAREST),
    ]


def enlarge(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    """Return an image at the panel's size."""
    return np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).resize((PANEL_PX, PANEL_PX), how)).transpose(2, 0, 1)


def save(name: str, panels: list[np.ndarray]) -> None:
    """Write panels side by side."""
    (ROOT / "pretrained" / name).write_bytes(encode_jpeg(np.concatenate(panels, axis=2), quality=88))


if __name__ == "__main__":
    main()
