"""TensorFlow's Inception network of 2015-12-05, the feature extractor of FID, KID and IS."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from celebahq_builder.errors import WeightsError, first_line
from celebahq_builder.storage import read_file, sha256

log = logging.getLogger(__name__)

PACKAGE = "torch_fidelity"

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Its first digits are in the file's name, as torch.hub expects; pytorch-fid uses the same file."""

NAME = "TensorFlow Inception 2015-12-05"

FEATURES, CLASSES = 2048, 1008

MINIBATCH = 32
"""Images that pass the network together. More take memory (20 MB each, 12 MB for 1024x1024 pixels) and save no time."""


def import_torch_fidelity(name: str) -> ModuleType:
    """Import a module of torch-fidelity without the package's ``__init__``.

    ``__init__`` imports torchvision, which may be missing or built for another torch; the modules used here need only
    torch and NumPy. An empty package replaces torch-fidelity during the import. Afterwards ``sys.modules`` holds what
    it held before, so that a later ``import torch_fidelity`` works.

    Args:
        name: of the module in the package, such as ``feature_extractor_inceptionv3``.

    Raises:
        WeightsError: torch-fidelity is not installed.
    """
    if PACKAGE in sys.modules:
        return importlib.import_module(f"{PACKAGE}.{name}")
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.submodule_search_locations is None:
        raise WeightsError(
            "FID, KID and IS need the package torch-fidelity, which is not installed; "
            "pip install '.[inception]' in the folder of the project"
        )
    bare = ModuleType(PACKAGE)
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules[PACKAGE] = bare
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        for known in [key for key in sys.modules if key == PACKAGE or key.startswith(f"{PACKAGE}.")]:
            del sys.modules[known]


def weights_cache_path() -> Path:
    """Return the path at which torch-fidelity caches the weights, in torch.hub's folder (``TORCH_HOME``)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE


def locate_weights(path: Path | None) -> Path:
    """Return the path given, or that of torch-fidelity's cache, to which a missing file is downloaded.

    Raises:
        WeightsError: the file is missing and cannot be downloaded.
    """
    if path is not None:
        return path
    cached = weights_cache_path()
    if cached.exists():
        return cached
    log.info("%s does not exist; downloading it (96 MB) from %s", cached, WEIGHTS_URL)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            WEIGHTS_URL, str(cached), hash_prefix=WEIGHTS_SHA256, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"the Inception weights {WEIGHTS_FILE} are not on this machine and cannot be downloaded from {WEIGHTS_URL} "
            f"({reason}); get the file elsewhere and give its path as `inception`, or put it into {cached.parent}"
        ) from None
    return cached


def read_weights(path: Path, wanted: str = WEIGHTS_SHA256) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a weight file by name, and the file's SHA-256.

    The file is a pickle. It is opened only after its hash matched, and then only tensors are read.

    Raises:
        WeightsError: the file does not exist, or its SHA-256 is not the one wanted.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise WeightsError(
            f"Inception weights {path} cannot be read: {error.strerror}; give the path of {WEIGHTS_FILE} as `inception`"
        ) from None
    found = sha256(data)
    if found != wanted:
        raise WeightsError(
            f"Inception weights {path}: SHA-256 is {found}, expected {wanted}; it is another file or corrupt: "
            f"get {WEIGHTS_FILE} again from {WEIGHTS_URL}"
        )
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own
        raise WeightsError(f"Inception weights {path} are not a file of torch tensors: {first_line(error)}") from None
    if not isinstance(tensors, dict):
        raise WeightsError(f"Inception weights {path} hold a {type(tensors).__name__}, expected tensors by name")
    return tensors, found


class InceptionOutput(NamedTuple):
    """Features and logits of images."""

    pool3: Tensor
    """float32 [n, 2048], for FID and KID."""
    logits: Tensor
    """float32 [n, 1008], for IS; without the bias of the last layer, as in the code of Salimans et al. 2016."""


class Inception:
    """The Inception network in torch-fidelity's port, with its weights, in eval mode.

    It resizes images to 299x299 as TensorFlow 1 did: bilinear, corners not aligned, without antialiasing, from 8-bit
    values scaled to (x - 128) / 128.

    Args:
        path: of the weights; None uses torch-fidelity's cache, to which they are downloaded.
        sha256: of the weights; None is that of the literature, others are for tests.

    Attributes:
        name: name of the network, and of the package with its version.
        sha256: SHA-256 of the weights.

    Raises:
        WeightsError: torch-fidelity is not installed, or the weights are missing or others.

    Examples:
        >>> inception = Inception(device="cuda")  # doctest: +SKIP
        >>> inception(torch.zeros(8, 3, 64, 64, dtype=torch.uint8)).pool3.shape  # doctest: +SKIP
        torch.Size([8, 2048])
    """

    def __init__(
        self, path: Path | None = None, device: torch.device | str = "cpu", *, sha256: str | None = None
    ) -> None:
        extractor = import_torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        self.name = f"{NAME} (torch-fidelity {importlib.metadata.version('torch-fidelity')})"
        self.device = torch.device(device)
        located = locate_weights(path)
        tensors, self.sha256 = read_weights(located, sha256 or WEIGHTS_SHA256)
        self._net: nn.Module = _network(extractor, tensors, located).to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> InceptionOutput:
        """Return features and logits of images.

        Args:
            images: uint8 [n, 3, H, W], RGB, of any size; or grey [n, 1, H, W], which is repeated to RGB.

        Returns:
            Both on the network's device. Those of an image do not depend on the batch, except for rounding.

        Raises:
            ValueError: the images have another type or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"Inception needs uint8 [n, 3 or 1, H, W], got {images.dtype} {list(images.shape)}")
        if not len(images):
            empty = torch.empty(0, FEATURES, device=self.device), torch.empty(0, CLASSES, device=self.device)
            return InceptionOutput(*empty)
        parts = [self._forward(part) for part in torch.split(images, MINIBATCH)]
        return InceptionOutput(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rgb = images.to(self.device).expand(-1, 3, -1, -1)
        # TF32 keeps 10 bits of a factor, so kernels for different batch sizes would differ visibly.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pool3, logits = self._net(rgb)
        return pool3, logits


def _network(extractor: Callable[..., nn.Module], tensors: dict[str, Tensor], path: Path) -> nn.Module:
    # The package unpickles a file without restriction, so it gets one that is written here from the checked tensors.
    checked = io.BytesIO()
    torch.save(tensors, checked)
    checked.seek(0)
    try:
        return extractor("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=checked)
    except RuntimeError as error:
        reason = " ".join(" ".join(str(error).splitlines()[1:2]).split()) or str(error)
        raise WeightsError(f"Inception weights {path} belong to another network: {reason[:200]}") from None
