"""The weights of TensorFlow's Inception of 2015-12-05: where they lie, and whether they are these."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from celebahq_builder.errors import WeightsError
from celebahq_builder.files import sha256

log = logging.getLogger(__name__)

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Its first digits are in the file's name, as is torch.hub's custom; pytorch-fid's file of weights is the same one."""


def cache_path() -> Path:
    """Return where torch-fidelity keeps the file, and looks for it: in torch.hub's folder (``TORCH_HOME``)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE


def locate(path: Path | None) -> Path:
    """Return the file of weights: the one given, else that of torch-fidelity's cache, downloaded if it is not there.

    Raises:
        WeightsError: it is not there and cannot be downloaded.
    """
    if path is not None:
        return path
    cached = cache_path()
    if not cached.exists():
        _download(cached)
    return cached


def _download(target: Path) -> None:
    log.info("%s is not there; downloading it (96 MB) from %s", target, URL)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(target), hash_prefix=SHA256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"the Inception weights {FILE} are not on this machine and cannot be downloaded from {URL} ({reason}); "
            f"get the file elsewhere and give it as --inception FILE, or put it into {target.parent}"
        ) from None


def read(path: Path, wanted: str = SHA256) -> tuple[dict[str, Any], str]:
    """Return the tensors of a file of weights, by name, and the file's SHA-256.

    The file is a pickle: it is opened only after its hash matched, and then for tensors alone.

    Raises:
        WeightsError: there is no such file, or its SHA-256 is not the one wanted.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"Inception weights {path} cannot be read: {error.strerror}; give the file {FILE} as --inception FILE"
        ) from None
    found = sha256(data)
    if found != wanted:
        raise WeightsError(
            f"Inception weights {path}: SHA-256 is {found}, expected {wanted}; it is another file, or was cut short: "
            f"get {FILE} again from {URL}"
        )
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"Inception weights {path} are not a file of tensors of torch's: {reason}") from None
    if not isinstance(tensors, dict):
        raise WeightsError(f"Inception weights {path} hold a {type(tensors).__name__}, expected tensors by name")
    return tensors, found
