"""Registries of verified weight files: ``registry.toml`` and the loading of its networks.

A registry is a folder with a file ``registry.toml``, which has one table per weight file: an entry. Weights are named
by NAME, an entry of the bundled registry, or by DIR/NAME, an entry of ``DIR/registry.toml``. A weight file is loaded
only if its SHA-256 is the one in its entry. PyTorch is imported only by functions that build a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from celebahq_builder.config import bundled, from_mapping, read_toml
from celebahq_builder.errors import CelebAHQError, RecipeError, WeightsError
from celebahq_builder.limits import MAX_WEIGHTS_HEADER_BYTES
from celebahq_builder.progress import aligned
from celebahq_builder.storage import read_file, sha256

if TYPE_CHECKING:
    import torch

    from celebahq_builder.models.autoencoder import Autoencoder
    from celebahq_builder.models.landmark_network import LandmarkNetwork
    from celebahq_builder.models.srgan import SRGenerator

REGISTRY_FILE = "registry.toml"

Architecture = Literal["autoencoder", "srgan", "landmarks"]

StoredDtype = Literal["float32", "float16"]

SIZE_MAX = 1024
"""Largest width and largest number of blocks of a network; the bundled networks have 96 and 6."""


@dataclass(frozen=True)
class NetworkShape:
    """Architecture and size of a network."""

    architecture: Architecture
    widths: tuple[int, ...]
    """Channels: of the three levels of an autoencoder or a landmark network; of a generator and, optionally, of its
    noise."""
    blocks: tuple[int, ...]
    """Residual blocks: of the three levels of an autoencoder or a landmark network; of a generator."""

    def __post_init__(self) -> None:
        widths, blocks = ((1, 2), 1) if self.architecture == "srgan" else ((3,), 3)
        if len(self.widths) not in widths or len(self.blocks) != blocks:
            raise ValueError(
                f"{self.architecture} needs {' or '.join(map(str, widths))} widths and {blocks} blocks; "
                f"got widths = {list(self.widths)}, blocks = {list(self.blocks)}"
            )
        for name, sizes in (("widths", self.widths), ("blocks", self.blocks)):
            if not all(1 <= size <= SIZE_MAX for size in sizes):
                raise ValueError(f"{name} = {list(sizes)} must be from 1 to {SIZE_MAX}")

    def build(self) -> Autoencoder | SRGenerator | LandmarkNetwork:
        """Return the network with random weights."""
        from celebahq_builder.models.autoencoder import Autoencoder
        from celebahq_builder.models.landmark_network import LandmarkNetwork
        from celebahq_builder.models.srgan import SRGenerator

        if self.architecture == "autoencoder":
            return Autoencoder(self.widths, self.blocks)  # type: ignore[arg-type]
        if self.architecture == "landmarks":
            return LandmarkNetwork(self.widths, self.blocks)  # type: ignore[arg-type]
        return SRGenerator(self.widths[0], self.blocks[0], *self.widths[1:])


@dataclass(frozen=True)
class RegistryEntry:
    """One weight file of a registry."""

    file: str
    """Name of the safetensors file in the folder of the registry."""
    sha256: str
    size_bytes: int
    shape: NetworkShape
    licence: str
    data: str
    """Description of the training photos."""
    command: str
    """Command line that trains the weights again."""
    dtype: StoredDtype = "float32"
    """Type of the numbers in the file; `load_network` converts them to float32."""
    scores: dict[str, float] = field(default_factory=dict)
    """Measured figures, by name with unit."""


def read_registry(folder: Path | None = None) -> dict[str, RegistryEntry]:
    """Return the entries of a registry by name.

    Args:
        folder: of the registry; None for the bundled one.

    Raises:
        RecipeError: the registry does not exist or is malformed.
    """
    path = (folder or bundled("pretrained")) / REGISTRY_FILE
    if not path.exists():
        raise RecipeError(f"{path} does not exist; `celebahq weights export` creates a registry")
    tables, entries = read_toml(path), {}
    text = path.read_text(encoding="utf-8")
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise RecipeError(f"{path}: {name} must be a table, got {str(values)[:80]}")
        entries[name] = from_mapping(RegistryEntry, values, where=str(path), text=text, table=(name,))
    return entries


def locate(name: str, folder: Path | None = None) -> tuple[Path, str]:
    """Return the folder of the registry of some weights, and the name of their entry in it.

    Args:
        name: NAME or DIR/NAME; DIR is an absolute path or one relative to the working directory.
        folder: registry of a NAME without DIR; None for the bundled one.

    >>> locate("runs/best/mine")
    (PosixPath('runs/best'), 'mine')
    """
    directory, slash, own = name.rpartition("/")
    return (Path(directory or "/") if slash else folder or bundled("pretrained")), own


def find_entry(name: str, folder: Path | None = None) -> RegistryEntry:
    """Return the entry of some weights; the arguments are those of `locate`.

    Raises:
        WeightsError: the registry does not exist, or has no such entry.
        RecipeError: the registry is malformed.
    """
    place, own = locate(name, folder)
    path = place / REGISTRY_FILE
    if not path.exists():
        raise WeightsError(
            f"weights {name!r} need {path}, which does not exist; `celebahq weights export` creates DIR/NAME, bundled "
            f"are {', '.join(sorted(read_registry()))}"
        )
    known = read_registry(place)
    if own not in known:
        raise WeightsError(
            f"no weights are called {name!r}; {path} has {', '.join(sorted(known)) or 'none'}; give one of these, or "
            "DIR/NAME for those of another registry"
        )
    return known[own]


# --- Loading ----------------------------------------------------------------------------------------------------


def load_network(
    name: str, device: torch.device | str = "cpu", folder: Path | None = None
) -> Autoencoder | SRGenerator | LandmarkNetwork:
    """Return a network with its verified weights, in eval mode, without gradients, in channels-last memory format.

    The weights are float32, also if their file stores float16.

    `name` and `folder` are those of `locate`.

    Raises:
        WeightsError: the name is unknown, the file is missing, its hash differs, or its tensors do not fit the network.
        RecipeError: the registry is malformed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from celebahq_builder.models.weight_file import load_tensors, to_channels_last

    entry = find_entry(name, folder)
    path = locate(name, folder)[0] / entry.file
    data = read_verified(path, entry)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WeightsError(f"weight file {path} is not a safetensors file: {error}") from None
    net = entry.shape.build()
    load_tensors(net, tensors, path)
    net.eval().requires_grad_(False)
    return to_channels_last(net, device)


def read_verified(path: Path, entry: RegistryEntry) -> bytes:
    """Return the contents of a weight file if its SHA-256 is that of its entry.

    Raises:
        WeightsError: the file cannot be read, is larger than its network, or its hash differs.
    """
    advice = "check out the project, or export the weights, again"
    try:
        data = read_file(path, 4 * parameter_count(entry.shape) + MAX_WEIGHTS_HEADER_BYTES)
    except OSError as error:
        raise WeightsError(f"weight file {path} cannot be read: {error.strerror}; {advice}") from None
    if (found := sha256(data)) != entry.sha256:
        raise WeightsError(f"weight file {path} is changed or cut short: SHA-256 {found}, not {entry.sha256}; {advice}")
    return data


def parameter_count(shape: NetworkShape) -> int:
    """Return the number of parameters of a network."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in shape.build().parameters())


def nonfinite_tensor(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the name of a tensor that has an infinite or NaN value; an empty string if none has."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")


# --- `celebahq weights list` and `verify` -----------------------------------------------------------------------

TABLE_SCORES = 3
"""Scores of an entry that the table shows."""


def table_lines(folder: Path | None = None) -> Iterator[str]:
    """Yield the entries of a registry as lines of a table; argument and errors are those of `read_registry`."""
    header = ("name", "network", "parameters", "size", "licence", "scores")
    rows = [header, *(_row(name, entry) for name, entry in read_registry(folder).items())]
    yield from aligned(rows, left=range(len(header)))


def _row(name: str, entry: RegistryEntry) -> tuple[str, ...]:
    widths, blocks = ("/".join(map(str, numbers)) for numbers in (entry.shape.widths, entry.shape.blocks))
    network = f"{entry.shape.architecture} {widths}, {blocks} blocks"
    scores = [f"{key} {value:g}" for key, value in entry.scores.items()]
    if len(scores) > TABLE_SCORES:
        scores[TABLE_SCORES:] = [f"{len(scores) - TABLE_SCORES} more"]
    size = f"{entry.size_bytes / 1e6:.2f} MB"
    return name, network, f"{parameter_count(entry.shape):,}", size, entry.licence, ", ".join(scores)


def verify_weights(names: Sequence[str] = (), folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Verify size, SHA-256, tensors and values of weight files, by default of all entries of a registry.

    Names and `folder` are those of `locate`.

    Yields:
        Name and problem of each weight file; the problem is an empty string if there is none.

    Raises:
        RecipeError: no names are given, and the registry does not exist or is malformed.
    """
    for name in names or read_registry(folder):
        yield name, _problem(name, folder)


def _problem(name: str, folder: Path | None) -> str:
    try:
        entry = find_entry(name, folder)
        path = locate(name, folder)[0] / entry.file
        if path.is_file() and path.stat().st_size != entry.size_bytes:
            return f"{path} has {path.stat().st_size} bytes, the registry says {entry.size_bytes}"
        tensor = nonfinite_tensor(load_network(name, folder=folder).state_dict())
    except CelebAHQError as error:
        return str(error)
    return f"{path}: {tensor} has values that are not finite" if tensor else ""
