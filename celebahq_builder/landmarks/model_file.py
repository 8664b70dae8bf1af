"""The model file of the face detector: YuNet of OpenCV's model zoo, downloaded once."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2

from celebahq_builder.errors import WeightsError
from celebahq_builder.storage import read_file, sha256

log = logging.getLogger(__name__)

MAX_MODEL_BYTES = 1 << 26
"""Bytes of a model file, 64 MB: YuNet has 0.2 MB."""


@dataclass(frozen=True)
class ModelFile:
    """A published model file."""

    name: str
    url: str
    """The zoo keeps its files in Git LFS; the address of the raw file would give a pointer."""
    sha256: str


_ZOO = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"

YUNET_FILES = {
    4: ModelFile(
        "face_detection_yunet_2023mar.onnx",
        f"{_ZOO}face_detection_yunet_2023mar.onnx",
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    ),
    5: ModelFile(
        "face_detection_yunet_2026may.onnx",
        f"{_ZOO}face_detection_yunet_2026may.onnx",
        "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
    ),
}
"""Model file by major version of OpenCV; the weights are the same. OpenCV 5 needs an input of any size."""


def locate_model(path: Path | None = None, argument: str = "model") -> Path:
    """Return the path of the detector's model file: the one given, or the cached one, which is downloaded if needed.

    Args:
        path: a model file of YuNet; None for the published one.
        argument: name of the argument that gives it, for messages.

    Raises:
        WeightsError: the file is missing and cannot be downloaded, or the cached one has another SHA-256.
    """
    if path is not None:
        return path
    import pooch  # takes 0.2 s

    wanted = YUNET_FILES[5 if int(cv2.__version__.split(".")[0]) >= 5 else 4]
    cached = Path(pooch.os_cache("celebahq_builder")) / wanted.name
    if not cached.exists():
        log.info("downloading %s (0.2 MB) from %s to %s", wanted.name, wanted.url, cached.parent)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        return Path(
            pooch.retrieve(
                wanted.url,
                f"sha256:{wanted.sha256}",
                wanted.name,
                cached.parent,
                downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30),
            )
        )
    except (OSError, ValueError, RuntimeError) as error:  # requests' errors are OSErrors
        reason = "its SHA-256 differs" if isinstance(error, ValueError) else type(error).__name__
        raise WeightsError(
            f"the face detector {wanted.name} is not on this machine and cannot be downloaded ({reason}); get "
            f"{wanted.url} (SHA-256 {wanted.sha256}) elsewhere, and put it into {cached.parent} or give its path as "
            f"`{argument}`"
        ) from None


def model_sha256(path: Path) -> str:
    """Return the hash of a model file.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        return sha256(read_file(path, MAX_MODEL_BYTES))
    except OSError as error:
        raise WeightsError(f"`model` {path} cannot be read: {error.strerror}; give a model file of YuNet") from None
