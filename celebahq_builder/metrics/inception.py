"""TensorFlow's Inception network of 2015-12-05 for FID, KID and IS, and its weights."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from celebahq_builder.errors import WeightsError
from celebahq_builder.storage import sha256

PACKAGE = "torch_fidelity"


def import_torch_fidelity(name: str) -> ModuleType:
    """Return a module of torch-fidelity, imported past the package's ``__init__``.

    That imports all there is, torchvision for its data sets among it, and so fails where torchvision is missing or was
    made for another torch; the modules used here need nothing but torch and numpy. A bare package stands in for it
    while the module is imported. What was imported of torch-fidelity before stays as it was, and nothing else stays
    in ``sys.modules``, so that a later ``import torch_fidelity`` is not misled.

    Args:
        name: below the package, such as ``feature_extractor_inceptionv3``.

    Raises:
        WeightsError: torch-fidelity is not installed.
    """
    if PACKAGE in sys.modules:
        return importlib.import_module(f"{PACKAGE}.{name}")
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.submodule_search_locations is None:
        raise WeightsError(
            "FID, KID and IS need the package torch-fidelity, which is not installed; "
            "pip install 'celebahq-builder[inception]', or pip install --no-deps torch-fidelity"
        )
    bare = ModuleType(PACKAGE)
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules[PACKAGE] = bare
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        for known in [key for key in sys.modules if key == PACKAGE or key.startswith(f"{PACKAGE}.")]:
            del sys.modules[known]


log = logging.getLogger(__name__)

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Its first digits are in the file's name, as is torch.hub's custom; pytorch-fid's file of weights is the same one."""


def weights_cache_path() -> Path:
    """Return where torch-fidelity keeps the file, and looks for it: in torch.hub's folder (``TORCH_HOME``)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE


def locate_weights(path: Path | None) -> Path:
    """Return the file of weights: the one given, else that of torch-fidelity's cache, downloaded if it is not there.

    Raises:
        WeightsError: it is not there and cannot be downloaded.
    """
    if path is not None:
        return path
    cached = weights_cache_path()
    if not cached.exists():
        _download(cached)
    return cached


def _download(target: Path) -> None:
    log.info("%s is not there; downloading it (96 MB) from %s", target, WEIGHTS_URL)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            WEIGHTS_URL, str(target), hash_prefix=WEIGHTS_SHA256, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"the Inception weights {WEIGHTS_FILE} are not on this machine and cannot be downloaded from {WEIGHTS_URL} "
            f"({reason}); get the file elsewhere and give it as --inception FILE, or put it into {target.parent}"
        ) from None


def read_weights(path: Path, wanted: str = WEIGHTS_SHA256) -> tuple[dict[str, Any], str]:
    """Return the tensors of a file of weights, by name, and the file's SHA-256.

    The file is a pickle: it is opened only after its hash matched, and then for tensors alone.

    Raises:
        WeightsError: there is no such file, or its SHA-256 is not the one wanted.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"Inception weights {path} cannot be read: {error.strerror}; "
            f"give the file {WEIGHTS_FILE} as --inception FILE"
        ) from None
    found = sha256(data)
    if found != wanted:
        raise WeightsError(
            f"Inception weights {path}: SHA-256 is {found}, expected {wanted}; it is another file, or was cut short: "
            f"get {WEIGHTS_FILE} again from {WEIGHTS_URL}"
        )
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"Inception weights {path} are not a file of tensors of torch's: {reason}") from None
    if not isinstance(tensors, dict):
        raise WeightsError(f"Inception weights {path} hold a {type(tensors).__name__}, expected tensors by name")
    return tensors, found


NAME = "TensorFlow Inception 2015-12-05"

FEATURES, CLASSES = 2048, 1008

MINIBATCH = 32
"""Images that pass the network together; more take memory (20 MB each, and 12 MB for one of 1024x1024) and no less
time."""


class InceptionOutput(NamedTuple):
    """What the network says of some images."""

    pool3: Tensor
    """float32 [n, 2048], of FID and KID."""
    logits: Tensor
    """float32 [n, 1008], of IS: without the last layer's bias, as Salimans et al. 2016 have it in their code."""


class Inception:
    """The network with its weights, in eval mode.

    Args:
        path: of the weights; None for torch-fidelity's cache, or its download.
        device: where the network is to be.
        sha256: of the weights; None for those of the literature. Others are for tests.

    Attributes:
        name: of the network, and the package with its version.
        sha256: of the weights.

    Raises:
        WeightsError: torch-fidelity is not installed, or the weights are missing or not these.
    """

    def __init__(
        self, path: Path | None = None, device: torch.device | str = "cpu", *, sha256: str | None = None
    ) -> None:
        extractor = import_torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        self.name = f"{NAME} (torch-fidelity {importlib.metadata.version('torch-fidelity')})"
        self.device = torch.device(device)
        where = locate_weights(path)
        tensors, self.sha256 = read_weights(where, sha256 or WEIGHTS_SHA256)
        self._net: Any = _network(extractor, tensors, where).to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> InceptionOutput:
        """Return features and logits of images.

        Args:
            images: uint8 [n, 3, H, W], RGB, of any size; or [n, 1, H, W], grey, which counts as RGB of equal parts.

        Returns:
            Both on the network's device. Those of one image are the same in any batch, but for rounding.

        Raises:
            ValueError: images of another type or shape.
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
        # TF32 keeps 10 bits of a factor; what the kernels of one batch size and another make of it would show.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pool3, logits = self._net(rgb)
        return pool3, logits


def _network(extractor: Any, tensors: dict[str, Any], path: Path) -> Any:
    # The package unpickles a file without asking whether it holds nothing but tensors: it gets one written here.
    checked = io.BytesIO()
    torch.save(tensors, checked)
    checked.seek(0)
    try:
        return extractor("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=checked)
    except RuntimeError as error:
        reason = " ".join(" ".join(str(error).splitlines()[1:2]).split()) or str(error)
        raise WeightsError(f"Inception weights {path} belong to another network: {reason[:200]}") from None
