"""Make the images of README and model cards from the embedded sample: ``python benchmarks/images.py [x.jpg ...]``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from celebahq_builder.imaging.geometry import crop_from_landmarks
from celebahq_builder.imaging.image_grid import image_grid
from celebahq_builder.imaging.image_io import encode_jpeg, open_rgb, pil_to_array
from celebahq_builder.imaging.tiles import run_tiled
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.models.registry import load_network, read_registry
from celebahq_builder.outcome import Rejection
from celebahq_builder.pipeline.build import align
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import photo_context, photo_reader
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.restoration.degradation import apply_jpeg
from celebahq_builder.sources.celeba import read_celeba

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "sample" / "celeba"
PANEL_PX = 400
FACE_PX = 150
PHOTO = "000013"
"""The photo of `stages.jpg`: JPEG quality 20, tilted."""

TURNED = (("000001", 18.0, 0.45, 40), ("000006", -14.0, 0.5, 60), ("000007", 16.0, 0.7, 30))
"""Photos that `faces.jpg` shows a second time: id, rotation in degrees, scale, JPEG quality."""


def main() -> None:
    """Write the images that the command line names, by default all."""
    torch.set_num_threads(1)
    images: dict[str, Callable[[], list[np.ndarray]]] = {
        "docs/faces.jpg": faces,
        "pretrained/stages.jpg": stages,
        "pretrained/denoiser.jpg": denoiser,
    }
    for name in sorted(name for name in read_registry() if name.startswith("upscaler")):
        images[f"pretrained/{name}.jpg"] = partial(upscaler, name)
    for path, make in images.items():
        if not sys.argv[1:] or Path(path).name in sys.argv[1:]:
            (ROOT / path).write_bytes(encode_jpeg(np.concatenate(make(), axis=2), quality=88))


def faces() -> list[np.ndarray]:
    """Return a labelled grid: the usable photos of the sample, and those of `TURNED`, each beside its result."""
    shown = []
    for photo in read_celeba(SAMPLE).photos:
        with suppress(Rejection):
            image = open_rgb((SAMPLE / "img_celeba" / photo.file).read_bytes(), 10**8)[0].convert("RGB")
            shown.append((image, np.reshape(photo.landmarks, (5, 2))))
    for name, angle, scale, quality in TURNED:
        photo = next(photo for photo in read_celeba(SAMPLE).photos if photo.id == name)
        image = open_rgb((SAMPLE / "img_celeba" / photo.file).read_bytes(), 10**8)[0].convert("RGB")
        shown.append(turned(image, np.reshape(photo.landmarks, (5, 2)), angle, scale, quality))
    panels = []
    for image, landmarks in shown:
        with suppress(Rejection):
            result = as_image(align(np.asarray(image), landmarks, restore=True))
            panels += [with_crop(image, landmarks), result.resize((FACE_PX, FACE_PX), Image.Resampling.BOX)]
    assert len(panels) == 32, "16 photos, each with its result"
    pairs = [np.concatenate([*map(pil_to_array, panels[i : i + 2])], axis=2) for i in range(0, 32, 2)]
    gap = FACE_PX // 8
    grid = image_grid(pairs, columns=4, gap_px=gap)
    title = Image.new("RGB", (grid.shape[2], FACE_PX // 6), "white")
    for i in range(8):
        x = i // 2 * (2 * FACE_PX + gap) + i % 2 * FACE_PX
        font = ImageFont.load_default(size=FACE_PX // 9)
        ImageDraw.Draw(title).text((x, 0), ("photo and crop", "result")[i % 2], "black", font)
    return [np.concatenate([pil_to_array(title), grid], axis=1)]


def turned(
    image: Image.Image, landmarks: np.ndarray, angle: float, scale: float, quality: int
) -> tuple[Image.Image, np.ndarray]:
    """Return a photo and its landmarks, rotated by an angle in degrees, cut to the photo, reduced, and compressed."""
    size = np.array(image.size)
    # Only pixels of the photo: the largest upright rectangle of the same shape within the rotated one.
    radians, longer = np.deg2rad(abs(angle)), max(size) / min(size)
    inner = size / (np.cos(radians) + longer * np.sin(radians))
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    points = (landmarks + 0.5 - size / 2) @ np.array([[cosine, -sine], [sine, cosine]])
    rotated = image.rotate(angle, Image.Resampling.BICUBIC)
    rotated = rotated.crop((*np.ceil((size - inner) / 2).astype(int), *np.floor((size + inner) / 2).astype(int)))
    small = rotated.resize(tuple(round(scale * side) for side in rotated.size), Image.Resampling.BOX)
    ratio = np.array(small.size) / np.array(rotated.size)
    points = (points + size / 2 - np.ceil((size - inner) / 2)) * ratio - 0.5
    return Image.fromarray(apply_jpeg(np.ascontiguousarray(small), quality)), points


def with_crop(image: Image.Image, landmarks: np.ndarray) -> Image.Image:
    """Return the upright part of a photo around a face, with the crop drawn on it; grey is outside the photo."""
    crop = crop_from_landmarks(landmarks)
    corner, side = crop.quad.mean(axis=0) - 0.75 * crop.side, 1.5 * crop.side
    box, size = (*corner, *(corner + side)), (FACE_PX, FACE_PX)
    part = image.transform(size, Image.Transform.EXTENT, box, Image.Resampling.BICUBIC, fillcolor="#ccc")
    outline = [tuple(point) for point in (crop.quad - corner) * FACE_PX / side]
    ImageDraw.Draw(part).polygon(outline, outline="#00e050", width=2)
    return part


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


def detail_of_a_face() -> np.ndarray:
    """Return 160x160 px of the first photo."""
    return pil_to_array(open_rgb((SAMPLE / "img_celeba" / "000001.jpg").read_bytes(), 10**8)[0])[:, 176:336, 288:448]


def as_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels [3, H, W] as an image of Pillow."""
    return Image.fromarray(pixels.transpose(1, 2, 0))


def denoiser() -> list[np.ndarray]:
    """Return JPEG 20, the network's result, and the original."""
    face = detail_of_a_face()
    damaged = apply_jpeg(np.ascontiguousarray(face.transpose(1, 2, 0)), 20).transpose(2, 0, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(damaged))
    result = run_tiled(load_network("denoiser"), pixels, scale=1, tile_px=512, context_px=112, stride_px=8)
    return [enlarge(p, Image.Resampling.NEAREST) for p in (damaged, result.numpy(), face)]


def upscaler(name: str) -> list[np.ndarray]:
    """Return bicubic enlargement, the network's result, and the original."""
    face = detail_of_a_face()
    image = as_image(face)
    small = pil_to_array(image.resize((face.shape[2] // 4, face.shape[1] // 4), Image.Resampling.BICUBIC))
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
    return pil_to_array(as_image(pixels).resize((PANEL_PX, PANEL_PX), how))


if __name__ == "__main__":
    main()
