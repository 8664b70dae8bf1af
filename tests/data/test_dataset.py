"""Images and labels of the data set, from memory and from the file."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from celebahq_builder.data.dataset import PyramidDataset
from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.labels import write_labels
from tests.hdf5.files import noise, ours
from tests.hdf5.pyramids import theano_file

DATA = noise(21, 16)
BYTES = DATA.nbytes
"""Size of the largest level; each other level has a quarter of the one above."""

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ours(tmp_path_factory.mktemp("dataset") / "data.h5", DATA)


@pytest.mark.parametrize("memory", [0, BYTES])
def test_images_as_stored(file: Path, memory: int) -> None:
    dataset = PyramidDataset(file, memory_bytes=memory)
    assert (len(dataset), dataset.resolution, dataset.kept) == (21, 16, memory == BYTES)
    np.testing.assert_array_equal(dataset.read([20, 3, 3]), DATA[[20, 3, 3]])
    image = dataset[7]
    assert (image.dtype, image.shape) == (torch.uint8, (3, 16, 16))
    np.testing.assert_array_equal(image.numpy(), DATA[7])
    np.testing.assert_array_equal(dataset[-1].numpy(), DATA[20])
    for number in (21, -22):
        with pytest.raises(IndexError):
            dataset[number]
        with pytest.raises(IndexError):
            dataset.read([number])


def test_returned_images_are_copies(file: Path) -> None:
    dataset = PyramidDataset(file)
    dataset.read([3])[:] = 0
    dataset[3].zero_()
    np.testing.assert_array_equal(dataset.read([3]), DATA[[3]])


def test_memory_budget(file: Path) -> None:
    """A level that exceeds the budget by one byte stays in the file."""
    for resolution in (16, 8):
        level = 21 * 3 * resolution**2
        assert PyramidDataset(file, resolution, memory_bytes=level).kept
        assert not PyramidDataset(file, resolution, memory_bytes=level - 1).kept


def test_kept_level_needs_no_file(tmp_path: Path) -> None:
    kept, not_kept = (
        PyramidDataset(theano_file(tmp_path / f"{memory}.h5", DATA), memory_bytes=memory) for memory in (BYTES, 0)
    )
    for dataset in (kept, not_kept):
        dataset.load()
        with dataset.level.path.open("r+b") as raw:
            raw.truncate(100)
    np.testing.assert_array_equal(kept.read(range(21)), DATA)
    with pytest.raises(FormatError, match="was replaced or changed"):
        not_kept.read([0])


def test_pickle_leaves_the_level_behind(file: Path) -> None:
    dataset = PyramidDataset(file)
    dataset.load()
    data = pickle.dumps(dataset)
    assert len(data) < BYTES // 2
    np.testing.assert_array_equal(pickle.loads(data).read([5]), DATA[[5]])


def test_mirrored_as_drawn(file: Path) -> None:
    flips = np.random.default_rng(0).random(21) < 0.5
    expected = np.stack([[[line[::-1] if flips[i] else line for line in c] for c in DATA[i]] for i in range(21)])
    for memory in (0, BYTES):
        dataset = PyramidDataset(file, mirror=True, memory_bytes=memory)
        for _ in range(2):  # the images in memory must not be flipped
            np.testing.assert_array_equal(dataset.batch(np.arange(21), flips).pixels.numpy(), expected)
    unmirrored = PyramidDataset(file).batch(np.arange(21), flips)
    np.testing.assert_array_equal(unmirrored.pixels.numpy(), DATA)


def test_mirrored_by_torchs_generator(file: Path) -> None:
    dataset = PyramidDataset(file, mirror=True)
    torch.manual_seed(4)
    first = torch.stack([dataset[i] for i in range(21)])
    torch.manual_seed(4)
    assert torch.equal(torch.stack([dataset[i] for i in range(21)]), first)
    flipped = [bool((first[i].numpy() == DATA[i, :, :, ::-1]).all()) for i in range(21)]
    same = [bool((first[i].numpy() == DATA[i]).all()) for i in range(21)]
    assert 4 < sum(flipped) < 17
    assert [a != b for a, b in zip(flipped, same, strict=True)] == [True] * 21


def test_mirroring_one_pixel(file: Path) -> None:
    dataset = PyramidDataset(file, 1, mirror=True)
    found = dataset.batch(np.arange(21), np.ones(21, bool)).pixels.numpy()
    np.testing.assert_array_equal(found, dataset.read(range(21)))


@pytest.mark.parametrize("alpha", [-0.5, 1.5])
def test_alpha_out_of_range(file: Path, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        PyramidDataset(file, alpha=alpha)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_own_loader(file: Path, workers: int) -> None:
    """torch's data loader with its defaults: shuffled, several images read together, stacked."""
    dataset = PyramidDataset(file, memory_bytes=0)
    batches = list(DataLoader(dataset, batch_size=4, shuffle=True, num_workers=workers))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 1]
    found = torch.cat(batches).numpy()
    assert sorted(p.tobytes() for p in found) == sorted(p.tobytes() for p in DATA)


class HoldsLevel(Dataset[bool]):
    """Items tell whether the process has loaded the level after it read an image."""

    def __init__(self, dataset: PyramidDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> bool:
        np.testing.assert_array_equal(self.dataset.read([number]), DATA[[number]])
        return self.dataset._pixels is not None


@pytest.mark.parametrize("loaded", [False, True])
def test_workers_never_load_the_level(file: Path, loaded: bool) -> None:
    """Each copy would need as much memory as the training; a level loaded before the fork is shared."""
    dataset = PyramidDataset(file)
    assert dataset.kept
    if loaded:
        dataset.load()
    batches = DataLoader(
        HoldsLevel(dataset), sampler=[3], num_workers=1, multiprocessing_context="fork", batch_size=None
    )
    assert next(iter(batches)) is loaded
    assert HoldsLevel(dataset)[3]


# --- Labels -----------------------------------------------------------------------------------------------------


def test_labels_beside_the_file(tmp_path: Path) -> None:
    path = theano_file(tmp_path / "cifar.10.h5", DATA)
    labels = np.eye(10, dtype=np.float32)[np.arange(21) % 10]
    np.save(tmp_path / "cifar.10-labels.npy", labels)
    dataset = PyramidDataset(path, labels="file")
    np.testing.assert_array_equal(dataset.labels, labels)
    batch = dataset.batch(np.array([20, 3]), np.zeros(2, bool))
    assert batch.labels is not None
    np.testing.assert_array_equal(batch.labels.numpy(), labels[[20, 3]])
    image, label = dataset[20]
    np.testing.assert_array_equal(image.numpy(), DATA[20])
    np.testing.assert_array_equal(label.numpy(), labels[20])
    pixels, found = next(iter(DataLoader(dataset, batch_size=21)))
    np.testing.assert_array_equal(found.numpy(), labels)
    assert pixels.shape == (21, 3, 16, 16)


def test_labels_that_are_a_broken_link(tmp_path: Path) -> None:
    """They are not taken for a data set without labels."""
    path = theano_file(tmp_path / "cifar.10.h5", DATA)
    (tmp_path / "cifar.10-labels.npy").symlink_to("gone.npy")
    with pytest.raises(FormatError, match=r"cifar\.10-labels\.npy is not a readable array of numpy's: .*No such file"):
        PyramidDataset(path, labels="file")


def test_names_of_labels(tmp_path: Path) -> None:
    path = ours(tmp_path / "data.h5", DATA, label_names=["cat", "dog"])
    write_labels(path, np.eye(2, dtype=np.float32)[np.arange(21) % 2])
    assert PyramidDataset(path, labels="file").label_names == ("cat", "dog")


def test_attributes_of_the_file(tmp_path: Path) -> None:
    attributes = np.random.default_rng(0).choice([-1, 1], (21, 3)).astype(np.int8)
    path = ours(tmp_path / "data.h5", DATA, attributes=attributes, attribute_names=["Smiling", "Male", "Young"])
    dataset = PyramidDataset(path, labels="attributes")
    assert dataset.label_names == ("Smiling", "Male", "Young")
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.float32
    np.testing.assert_array_equal(dataset.labels, (attributes + 1) / 2)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "-labels.npy does not exist"),
        (b"text", "-labels.npy is not a readable array"),
        (b"", "-labels.npy is not a readable array"),
        (np.zeros((20, 3)), r"labels are float64 \[20, 3\], expected finite numbers \[21, classes\]"),
        (np.zeros(21), r"labels are float64 \[21\], expected"),
        (np.full((21, 2), np.nan), "some labels are not finite numbers"),
        (np.full((21, 2), "a"), r"labels are <U1 \[21, 2\], expected finite numbers"),
        (np.full((21, 2), None), r"labels are object \[21, 2\], expected finite numbers"),
    ],
    ids=["none", "text", "empty", "too few", "flat", "not a number", "words", "objects"],
)
def test_bad_labels(tmp_path: Path, labels, says: str) -> None:
    path = theano_file(tmp_path / "data.h5", DATA)
    beside = tmp_path / "data-labels.npy"
    if isinstance(labels, bytes):
        beside.write_bytes(labels)
    elif labels is not None:
        np.save(beside, labels)
    with pytest.raises(FormatError, match=says) as error:
        PyramidDataset(path, labels="file")
    assert "\n" not in str(error.value)


def test_no_attributes(file: Path) -> None:
    with pytest.raises(FormatError, match=r"data\.h5 has no photos/attributes"):
        PyramidDataset(file, labels="attributes")
