"""Weight files of other projects, such as ``RealESRGAN_x4plus.pth``: their names in settings, and their safe loading.

In a setting, ``file:PATH`` names such a file. spandrel derives the architecture of the network, its size and its scale
from the names and shapes of the tensors. No code in a file is run. PyTorch and spandrel are imported only by functions
that load a network.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from celebahq_builder.errors import WeightsError, first_line
from celebahq_builder.limits import MAX_COMMUNITY_WEIGHTS_BYTES, MAX_WEIGHTS_HEADER_BYTES
from celebahq_builder.models.registry import find_entry, nonfinite_tensor
from celebahq_builder.storage import read_file, sha256

if TYPE_CHECKING:
    import torch
    from spandrel import ModelDescriptor

    from celebahq_builder.models.community_network import CommunityNetwork

PREFIX = "file:"
"""Beginning of a setting that names a weight file instead of an entry of a registry."""

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")

SCALE_MAX = 8
"""Largest scale of an upscaler. At 8x, the largest region that needs one becomes about 100 million pixels."""

Task = Literal["denoise", "upscale"]
"""The stage that runs a network; settings are named after it."""

_TORCH_FILE = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
"""First bytes of a file of torch.save: a zip archive, or the magic number of releases before 1.6."""


# --- Names ------------------------------------------------------------------------------------------------------


def is_weight_file(weights: str) -> bool:
    """Return whether a setting names a weight file, and not an entry of a registry."""
    return weights.startswith(PREFIX)


def pinned(weights: str, digest: str | None = None) -> str:
    """Return a name that means the same content in any process: ``file:PATH#SHA256`` with an absolute path.

    Args:
        weights: ``file:PATH``, or a name that stays as it is: of a registry, or pinned already.
        digest: SHA-256 of the file; None computes it.

    Raises:
        WeightsError: the file cannot be read.

    Examples:
        >>> pinned("upscaler-gan")
        'upscaler-gan'
        >>> pinned("file:/models/4x.pth", "0" * 64)[:24]
        'file:/models/4x.pth#0000'
    """
    path, known = _parse(weights)
    if not is_weight_file(weights) or known:
        return weights
    return f"{absolute(weights)}#{digest or sha256(_read(path))}"


def base_name(weights: str) -> str:
    """Return the name of some weights for a fingerprint: for a file, without its folder.

    >>> base_name("file:models/4x.pth"), base_name("weights/mine")
    ('file:4x.pth', 'weights/mine')
    """
    return PREFIX + _parse(weights)[0].name if is_weight_file(weights) else weights


def weights_sha256(weights: str) -> str:
    """Return the SHA-256 of a weight file: for ``file:PATH`` of its content, else the one in its registry.

    Raises:
        WeightsError: the file cannot be read, or the registry has no such entry.
        RecipeError: the registry is malformed.
    """
    return sha256(_read(_parse(weights)[0])) if is_weight_file(weights) else find_entry(weights).sha256


def absolute(weights: str) -> str:
    """Return the name of some weights with the absolute path of a weight file.

    >>> absolute("file:/models/4x.pth"), absolute("upscaler-gan")
    ('file:/models/4x.pth', 'upscaler-gan')
    """
    return f"{PREFIX}{_parse(weights)[0].absolute()}" if is_weight_file(weights) else weights


def _parse(weights: str) -> tuple[Path, str]:
    """Return the path of ``file:PATH`` or ``file:PATH#SHA256``, and the hash or an empty string."""
    text = weights.removeprefix(PREFIX)
    pin = re.fullmatch(r"(.*)#([0-9a-f]{64})", text)
    path, digest = pin.groups() if pin else (text, "")
    return (Path(path).expanduser() if path.startswith("~/") else Path(path)), digest


# --- Loading ----------------------------------------------------------------------------------------------------


def load_community_network(weights: str, task: Task, device: torch.device) -> CommunityNetwork:
    """Return the network of a weight file, float32, in eval mode, without gradients.

    Args:
        weights: ``file:PATH``, or a name that `pinned` returned: then the file must have this hash.
        task: the stage that will run the network.
        device: for the network.

    Raises:
        WeightsError: spandrel is not installed; the file is missing, changed, damaged, or of no network that it knows;
            or the network does not do this task.
    """
    from celebahq_builder.models.community_network import CommunityNetwork

    spandrel = import_spandrel()
    path, expected = _parse(weights)
    data = _read(path)
    digest = sha256(data)
    if expected and digest != expected:
        raise WeightsError(
            f"{path} has changed since the build began: its SHA-256 is {digest}, not {expected}; bring the file back, "
            "then run the same command again"
        )
    tensors = _tensors(path, data)
    try:
        with warnings.catch_warnings(action="ignore"):  # of functions of PyTorch that architectures call
            found = spandrel.MAIN_REGISTRY.load(spandrel.canonicalize_state_dict(tensors))
    except spandrel.UnsupportedModelError:
        raise WeightsError(
            f"{path} is not a network that spandrel {spandrel.__version__} knows; give the weights of a known "
            "architecture, such as ESRGAN, SwinIR or DAT"
        ) from None
    except Exception as error:  # spandrel indexes what it finds, so that a file can cause an error of any type
        raise WeightsError(
            f"{path} has tensors that do not form a network ({type(error).__name__}: {first_line(error)}); "
            "it may be cut short or of a newer architecture; get the file again"
        ) from None
    _check(found, path, task)
    return CommunityNetwork(found, path, digest).to(device)


def _check(found: ModelDescriptor, path: Path, task: Task) -> None:
    """Raise a WeightsError if a network does not do a task."""
    import spandrel

    from celebahq_builder.models.community_network import MULTIPLE_MAX_PX

    name = found.architecture.name
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise WeightsError(f"{path} is a network for inpainting ({name}); {_wanted(task)}")
    if found.purpose == "FaceSR":
        raise WeightsError(f"{path} is a network for the restoration of aligned faces ({name}); {_wanted(task)}")
    if task == "denoise" and found.scale != 1:
        raise WeightsError(f"{path} is a network that enlarges {found.scale}x ({name}); {_wanted(task)}")
    if task == "upscale" and not 2 <= found.scale <= SCALE_MAX:
        raise WeightsError(f"{path} is a network of scale {found.scale}x ({name}); {_wanted(task)}")
    if (found.input_channels, found.output_channels) not in ((3, 3), (1, 1)):
        raise WeightsError(
            f"{path} ({name}) maps {found.input_channels} to {found.output_channels} channels; {task}.weights needs a "
            "network for RGB or for grey images"
        )
    if (multiple := found.size_requirements.multiple_of) > MULTIPLE_MAX_PX:
        raise WeightsError(
            f"{path} ({name}) needs images of multiples of {multiple} px; at most {MULTIPLE_MAX_PX} px can be run"
        )
    if broken := nonfinite_tensor(found.model.state_dict()):
        raise WeightsError(f"{path} is damaged: {broken} has values that are not finite; get the file again")


def _wanted(task: Task) -> str:
    if task == "denoise":
        return "denoise.weights needs a network of scale 1 for whole photos"
    return f"upscale.weights needs a network of scale 2 to {SCALE_MAX} for whole photos"


def import_spandrel() -> ModuleType:
    """Return the package spandrel.

    Raises:
        WeightsError: it is not installed, or cannot be imported.
    """
    try:
        import spandrel
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"weights = {PREFIX}... need the package {error.name}, which is not installed: "
            "pip install 'celebahq-builder[community]', or pip install '.[community]' in the folder of the project"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:  # torchvision raises a RuntimeError
        import torch

        raise WeightsError(
            f"weights = {PREFIX}... need spandrel, which cannot be imported ({first_line(error)}); "
            f"pip install the torchvision of the same release and package index as torch {torch.__version__}"
        ) from None
    module: ModuleType = spandrel
    return module


def _read(path: Path) -> bytes:
    """Return the content of a weight file."""
    advice = "file:PATH is relative to the working directory; give a .pth or .safetensors file"
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"weight file {path.absolute()} must end in {', '.join(SUFFIXES)}; {advice}")
    try:
        return read_file(path, MAX_COMMUNITY_WEIGHTS_BYTES)
    except OSError as error:
        raise WeightsError(
            f"weight file {path.absolute()} cannot be read: {error.strerror or error}; {advice}"
        ) from None


def _tensors(path: Path, data: bytes) -> Mapping[str, object]:
    """Return the tensors of a weight file by name; they may lie in a nested dictionary, as training programs save them.

    Raises:
        WeightsError: the file is damaged, holds anything but tensors and plain values, or would take more memory than
            its size.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.suffix.lower() == ".safetensors":
        try:
            if int.from_bytes(data[:8], "little") > MAX_WEIGHTS_HEADER_BYTES:
                raise ValueError("its header is too long")
            return load(data)
        except (SafetensorError, ValueError) as error:
            raise WeightsError(
                f"{path} is not a complete safetensors file: {first_line(error)}; get the file again"
            ) from None
    if not data.startswith(_TORCH_FILE):
        raise WeightsError(f"{path} is not a file of PyTorch: it begins with {data[:8]!r}; get the file again")
    try:
        if data.startswith(b"PK") and _unpacked_bytes(data) > len(data):
            raise ValueError("its archive is compressed, which PyTorch never writes")
        # Tensors and plain containers only: the loader refuses a pickle that calls anything else.
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} is damaged, or holds Python objects beside tensors, which could run code and are not loaded; save "
            "its tensors as .safetensors with the program that it belongs to"
        ) from None
    except Exception as error:  # the loader raises errors of many types for a damaged file
        raise WeightsError(f"{path} is damaged: {first_line(error)}; get the file again") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds a {type(found).__name__}, not the tensors of a network by name")
    if _announced_bytes(found) > 2 * len(data):
        raise WeightsError(f"{path} is damaged: its tensors claim more values than the file holds")
    return found


def _unpacked_bytes(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(member.file_size for member in archive.infolist())


def _announced_bytes(values: Mapping[object, object]) -> int:
    """Return the bytes of all tensors in nested dictionaries, as their shapes announce them.

    A tensor may repeat a few stored values by strides of 0. Its shape can then announce terabytes.
    """
    import torch

    total = 0
    for value in values.values():
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, Mapping):
            total += _announced_bytes(value)
    return total
