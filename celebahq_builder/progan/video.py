"""Videos: interpolation in latent space, and the image grids of a training over time."""

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
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.image_grid import image_grid, to_rgb
from celebahq_builder.imaging.image_io import open_rgb
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.models.generator_file import TrainedGenerator
from celebahq_builder.outcome import Rejection
from celebahq_builder.progan.generate import check_grid, cyclic_labels, generate_images
from celebahq_builder.storage import as_storage_error, check_free, partial_file, publish_new, read_file, sync_file

SMOOTHING_S = 1.0
"""Standard deviation of the blur of the latents along time (Karras et al. 2018, appendix, video)."""


def walk(dimensions: int, frames: int, images: int, fps: float, seed: int) -> NDArray[np.float32]:
    """Return latents of a looping random walk, float32 [frames, images, dimensions].

    Random latents of all frames are blurred along time by a Gaussian of one second, in a loop, and scaled to the length
    of random latents, sqrt(dimensions). So the last frame leads to the first.
    """
    drawn = np.random.default_rng(seed).standard_normal((frames, images, dimensions))
    smooth = ndimage.gaussian_filter1d(drawn, SMOOTHING_S * fps, axis=0, mode="wrap")
    return np.asarray(smooth / np.sqrt(np.mean(np.square(smooth), axis=2, keepdims=True)), np.float32)


def interpolate(
    trained: TrainedGenerator,
    out: Path,
    *,
    seconds: float = 60.0,
    fps: float = 60.0,
    columns: int = 1,
    rows: int = 1,
    seed: int = 0,
    label: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a video of random walks in latent space, H.264 in an MP4 file.

    Args:
        trained: the generator.
        out: MP4 file; must not exist.
        columns: walks side by side; `rows`: walks one below the other.
        label: of all walks, for a generator with labels; None: one label after the other.
        advance: called with the number of frames written since the last call.

    Raises:
        FormatError: `out` exists, or cannot be written as a video, or its frames would be too large.
        WeightsError: the generator does not have that label.
    """
    generator, level, alpha = trained.network, trained.level, trained.alpha
    check_grid(columns, rows, 1 << level)
    frames = max(1, round(seconds * fps))
    latents = walk(generator.architecture.latent, frames, columns * rows, fps, seed)
    labels = cyclic_labels(generator, columns * rows, label)

    def grids() -> Iterator[Pixels]:
        for z in latents:
            yield to_rgb(image_grid(generate_images(generator, torch.from_numpy(z), level, alpha, labels), columns))
            advance(1)

    write_video(out, grids(), columns << level, rows << level, fps)


def training_video(run: Path, out: Path, *, fps: float = 10.0, advance: Callable[[int], None] = lambda _: None) -> None:
    """Write a video of the image grids of a run, each enlarged to the size of the last one.

    Raises:
        TrainingError: the run has no image grids.
        FormatError: `out` exists, or cannot be written as a video.
    """
    paths = sorted(path for path in run.glob("fakes-*.png") if re.fullmatch(r"fakes-\d{6}", path.stem))
    if not paths:
        raise TrainingError(f"{run} has no fakes-KKKKKK.png; expected a run of celebahq train")
    height, width = max(_read_rgb(path).shape[:2] for path in (paths[0], paths[-1]))

    def enlarged() -> Iterator[Pixels]:
        for path in paths:
            grid = cv2.resize(_read_rgb(path), (width, height), interpolation=cv2.INTER_NEAREST)
            yield np.asarray(grid, np.uint8)
            advance(1)

    write_video(out, enlarged(), width, height, fps)


def _read_rgb(path: Path) -> Pixels:
    """Return an image file, uint8 [H, W, 3], RGB."""
    try:
        image, _ = open_rgb(read_file(path), MAX_IMAGE_PIXELS, "the limit for image grids")
    except (OSError, Rejection):
        raise TrainingError(f"{path} cannot be read as an image; delete it to make the video of the others") from None
    return np.asarray(image)


def write_video(path: Path, frames: Iterator[Pixels], width: int, height: int, fps: float) -> None:
    """Write frames as H.264 in an MP4 file, through a partial file.

    The codec needs an even width and height, so the last column or row may be repeated.

    Args:
        path: ends in .mp4; must not exist.
        frames: uint8 [height, width, 3], RGB.

    Raises:
        FormatError: the file exists, or the encoder failed.
    """
    check_free(path)
    if path.suffix != ".mp4":
        raise FormatError(f"{path} does not end in .mp4; videos are MP4 files")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width + width % 2}x{height + height % 2}", "-r", f"{fps:g}", "-i", "-", "-an"]
    command += ["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path, ending=".mp4") as partial:
            with subprocess.Popen([*command, str(partial)], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as encoder:
                assert encoder.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # the encoder failed, and its message follows
                    for frame in frames:
                        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                        encoder.stdin.write(padded.tobytes())
                _, message = encoder.communicate()
            if encoder.returncode:
                reason = (message.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
                raise FormatError(f"{path}: the video encoder failed: {reason}")
            sync_file(partial)
            publish_new(partial, path)
    except OSError as error:
        known = as_storage_error(error, path)
        if isinstance(known, OSError):
            raise FormatError(f"{path} cannot be written: {error.strerror}; choose another `out`") from None
        raise known from error
