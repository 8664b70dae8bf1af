"""Videos: interpolation in latent space, and the grids of a training."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from celebahq_builder.errors import FormatError, TrainingError
from celebahq_builder.models.progan import Generator
from celebahq_builder.progan import image_grid
from celebahq_builder.storage import as_storage_error, check_free, partial_file, publish_new

Pixels = NDArray[np.uint8]

SMOOTHING_S = 1.0
"""Standard deviation of the blur of the latents along time (Karras et al. 2018, appendix, video)."""


def walk(dimensions: int, frames: int, images: int, fps: float, seed: int) -> NDArray[np.float32]:
    """Return latents of a looping walk, float32 [frames, images, dimensions].

    Random latents for every frame are blurred along time by a Gaussian of one second, whose end wraps to the
    beginning, and brought back to the length that random ones have, sqrt(dimensions): so the walk has no corner and no
    hurry, and the last frame leads to the first.
    """
    drawn = np.random.default_rng(seed).standard_normal((frames, images, dimensions))
    smooth = ndimage.gaussian_filter1d(drawn, SMOOTHING_S * fps, axis=0, mode="wrap")
    return np.asarray(smooth / np.sqrt(np.mean(np.square(smooth), axis=2, keepdims=True)), np.float32)


def interpolate(
    generator: Generator,
    level: int,
    out: Path,
    *,
    alpha: float = 1.0,
    seconds: float = 60.0,
    fps: float = 60.0,
    columns: int = 1,
    rows: int = 1,
    seed: int = 0,
    label: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a video of a walk, H.264 in an MP4 file; of a generator that takes labels, walk i has label i, or `label`.

    Raises:
        FormatError: `out` exists, or cannot be written as a video.
        WeightsError: the generator has no such label.
    """
    frames = max(1, round(seconds * fps))
    latents = walk(generator.architecture.latent, frames, columns * rows, fps, seed)

    labels = image_grid.fixed_labels(generator, columns * rows, label)

    def drawn() -> Iterator[Pixels]:
        for z in latents:
            yield image_grid.tiled(image_grid.generated(generator, torch.from_numpy(z), level, alpha, labels), columns)
            advance(1)

    side = 1 << level
    write_video(out, drawn(), columns * side, rows * side, fps)


def training_video(run: Path, out: Path, *, fps: float = 10.0, advance: Callable[[int], None] = lambda _: None) -> None:
    """Write a video of a run's grids over time, each enlarged to the last one's size.

    Raises:
        TrainingError: the run has no grids.
        FormatError: `out` exists, or cannot be written as a video.
    """
    paths = sorted(path for path in run.glob("fakes-*.png") if re.fullmatch(r"fakes-\d{6}", path.stem))
    if not paths:
        raise TrainingError(f"{run} has no fakes-KKKKKK.png; expected a run of celebahq train")
    height, width = max(_read(path).shape[:2] for path in (paths[0], paths[-1]))

    def enlarged() -> Iterator[Pixels]:
        for path in paths:
            yield np.asarray(cv2.resize(_read(path), (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
            advance(1)

    write_video(out, enlarged(), width, height, fps)


def _read(path: Path) -> Pixels:
    """Return a grid, uint8 [H, W, 3], RGB."""
    image = cv2.imread(str(path))
    if image is None:
        raise TrainingError(f"{path} cannot be read as an image; delete it, the others make the video")
    return np.asarray(image[..., ::-1], np.uint8)


def write_video(path: Path, frames: Iterator[Pixels], width: int, height: int, fps: float) -> None:
    """Write frames uint8 [H, W, 3], RGB, as H.264, through a partial file.

    Sides are made even, as the codec wants them, by repeating the last row or column.

    Raises:
        FormatError: the file exists, or the encoder refused.
    """
    check_free(path)
    if path.suffix != ".mp4":
        raise FormatError(f"{path} is no .mp4; videos are written as MP4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width + width % 2}x{height + height % 2}", "-r", f"{fps:g}", "-i", "-", "-an"]
    command += ["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path, ending=".mp4") as partial:
            with subprocess.Popen([*command, str(partial)], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as encoder:
                told = _fed(encoder, frames, (height % 2, width % 2))
            if encoder.returncode:
                raise FormatError(f"{path}: the video encoder failed: {told}")
            publish_new(partial, path)
    except OSError as error:
        known = as_storage_error(error, path)
        if isinstance(known, OSError):
            raise FormatError(f"{path} cannot be written: {error.strerror}; choose another --out") from None
        raise known from error


def _fed(encoder: subprocess.Popen[bytes], frames: Iterator[Pixels], more: tuple[int, int]) -> str:
    """Give an encoder all frames; return the last line of what it said."""
    down, across = more
    with contextlib.suppress(BrokenPipeError):  # it ended early, and has said why
        for frame in frames:
            padded = np.pad(frame, ((0, down), (0, across), (0, 0)), mode="edge")
            encoder.stdin.write(padded.tobytes())  # type: ignore[union-attr]
    _, said = encoder.communicate()
    return (said.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
