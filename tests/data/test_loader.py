"""Minibatches: equal for all ways of reading, resumable at any image, shared by processes without loss."""

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from celebahq_builder.data import Order, loader
from celebahq_builder.data.dataset import Batch, PyramidDataset
from celebahq_builder.errors import FormatError, TrainingError
from tests.hdf5.files import damage, noise, ours
from tests.hdf5.pyramids import theano_file

DATA = noise(23, 16)

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # on a machine of one core
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # Python 3.12 on
]


@pytest.fixture(scope="module", params=[ours, theano_file], ids=["ours", "theano"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = request.param(tmp_path_factory.mktemp("loader") / "data.h5", DATA)
    np.save(path.with_name("data-labels.npy"), np.arange(23, dtype=np.float32).reshape(23, 1))
    return path


def stored(file: Path, memory_bytes: int = 0, **keywords) -> PyramidDataset:
    """Open the file without keeping its level in memory."""
    return PyramidDataset(file, memory_bytes=memory_bytes, **keywords)


def numbers(batches: Iterator[Batch], count: int) -> list[list[int]]:
    return [batch.numbers.tolist() for batch in islice(batches, count)]


def reference(order: Order, sizes: list[int], mirror: bool) -> list[np.ndarray]:
    """Draw images one by one."""
    found, start = [], order.drawn
    for size in sizes:
        one = []
        for i in range(start, start + size):
            draw = order.draws(i, 1)
            image = DATA[int(draw.numbers[0])]
            one.append(image[:, :, ::-1] if mirror and draw.mirrored[0] else image)
        found.append(np.stack(one))
        start += size
    return found


WAYS = {
    "kept": {"memory_bytes": 10**9},
    "threads": {},
    "one thread": {"threads": 1, "ahead": 1},
    "fork": {"workers": 2, "context": "fork"},
    "kept, but workers asked for": {"memory_bytes": 10**9, "workers": 2},
}


def of_way(file: Path, way: str) -> tuple[PyramidDataset, dict]:
    """Return the data set and the loader's arguments."""
    ways = dict(WAYS[way])
    opening = {key: ways.pop(key) for key in ("memory_bytes", "threads") if key in ways}
    return stored(file, mirror=True, labels="file", **opening), ways


@pytest.mark.parametrize("way", WAYS)
def test_same_minibatches_however_read(file: Path, way: str) -> None:
    dataset, ways = of_way(file, way)
    if way == "fork":
        dataset.read([0, 5])  # the file is open, and threads are running, before processes are forked
    check_minibatches(dataset, ways)


def test_same_minibatches_from_a_spawned_process(tmp_path: Path) -> None:
    path = theano_file(tmp_path / "data.h5", DATA)
    np.save(tmp_path / "data-labels.npy", np.arange(23, dtype=np.float32).reshape(23, 1))
    check_minibatches(stored(path, mirror=True, labels="file"), {"workers": 1, "context": "spawn"})


def check_minibatches(dataset: PyramidDataset, ways: dict) -> None:
    """Compare two epochs with images drawn one by one, and check labels and position."""
    order = Order(23, seed=5)
    expected = reference(order, [4] * 13, mirror=True)
    with closing(loader(dataset, 4, order, **ways)) as batches:
        for step, batch in enumerate(islice(batches, 13)):
            assert (batch.pixels.dtype, batch.pixels.shape) == (torch.uint8, (4, 3, 16, 16))
            np.testing.assert_array_equal(batch.pixels.numpy(), expected[step])
            assert batch.labels is not None
            assert batch.labels[:, 0].tolist() == batch.numbers.tolist()
            assert order.drawn == 4 * (step + 1)


@pytest.mark.parametrize("way", ["threads", "fork"])
def test_position_counts_returned_minibatches(file: Path, way: str) -> None:
    """Minibatches that were read ahead do not count: another run resumes with the next one."""
    order = Order(23, seed=1)
    whole = numbers(loader(stored(file), 3, Order(23, seed=1)), 20)
    batches = loader(stored(file), 3, order, ahead=4, **WAYS[way])
    assert numbers(batches, 9) == whole[:9]
    state = json.dumps(order.state_dict())
    assert json.loads(state) == {"count": 23, "seed": 1, "shuffled": True, "epoch": 1, "position": 4}
    again = Order(23, seed=1)
    again.load_state_dict(json.loads(state))
    assert numbers(loader(stored(file), 3, again), 11) == whole[9:]


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=5), st.integers(0, 100))
def test_sizes_change_and_nothing_is_lost(file: Path, phases: list[tuple[int, int]], start: int) -> None:
    """Minibatches of any sizes, stopped and resumed at any position, are one uninterrupted order."""
    order = Order(23, seed=2)
    order.drawn = start
    found: list[int] = []
    for phase, (batch, count) in enumerate(phases):
        batches = loader(stored(file, memory_bytes=10**9 * (phase % 2)), batch, order)
        found += [number for one in numbers(batches, count) for number in one]
        state = order.state_dict()
        order = Order(23, seed=2)
        order.load_state_dict(state)
    assert order.drawn == start + len(found)
    assert found == Order(23, seed=2).draws(start, len(found)).numbers.tolist()


def test_every_image_once_an_epoch(file: Path) -> None:
    order = Order(23, seed=9)
    flat = [number for one in numbers(loader(stored(file), 5, order), 23) for number in one]
    for epoch in range(5):
        assert sorted(flat[epoch * 23 : (epoch + 1) * 23]) == list(range(23))
    assert (order.epoch, order.position) == (5, 0)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_together_see_what_one_process_sees(file: Path, world: int) -> None:
    alone = list(islice(loader(stored(file, mirror=True), 12, Order(23, seed=3)), 7))
    orders = [Order(23, seed=3) for _ in range(world)]
    shares = [
        list(islice(loader(stored(file, mirror=True), 12, order, rank=rank, world=world), 7))
        for rank, order in enumerate(orders)
    ]
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert {len(part.pixels) for part in parts} == {12 // world}
        assert torch.equal(torch.stack([p.numbers for p in parts], 1).reshape(-1), whole.numbers)
        assert torch.equal(torch.stack([p.pixels for p in parts], 1).reshape(whole.pixels.shape), whole.pixels)
    assert {order.drawn for order in orders} == {7 * 12}


def test_once_through_the_file(file: Path) -> None:
    order = Order(23, shuffled=False)
    found = numbers(loader(stored(file), 10, order, images=23), 99)
    assert found == [list(range(10)), list(range(10, 20)), [20, 21, 22]]
    assert (order.epoch, order.position) == (1, 0)
    halves = [numbers(loader(stored(file), 10, images=22, rank=rank, world=2), 99) for rank in (0, 1)]
    assert [[len(one) for one in half] for half in halves] == [[5, 5, 1], [5, 5, 1]]
    flat = [number for half in halves for one in half for number in one]
    assert sorted(flat) == sorted(Order(23).draws(0, 22).numbers.tolist())


def test_fixed_alpha(file: Path) -> None:
    assert next(loader(stored(file, alpha=0.25), 2)).alpha == 0.25
    assert next(loader(stored(file, alpha=0.25), 2, workers=1)).alpha == 0.25


@pytest.mark.parametrize("way", WAYS)
def test_torchs_generator_is_not_used(file: Path, way: str) -> None:
    """Otherwise a resumed training, which opens one more loader, would draw other numbers."""
    dataset, ways = of_way(file, way)
    before = torch.get_rng_state()
    next(loader(dataset, 4, **ways))
    assert torch.equal(torch.get_rng_state(), before)


def children() -> set[int]:
    """Return the ids of all running child processes."""
    return {int(child.pid or 0) for child in torch.multiprocessing.active_children()}


def test_close_ends_threads_and_processes(file: Path) -> None:
    """A closed loader ends its threads and processes."""
    dataset = stored(file, threads=1)
    others = children()  # of other tests
    for ways in ({}, {"workers": 2}):
        batches = loader(dataset, 4, ahead=3, **ways)
        before = set(threading.enumerate())
        next(batches)
        started = set(threading.enumerate()) - before
        assert started or children() - others
        batches.close()  # type: ignore[attr-defined]
        deadline = time.monotonic() + 10  # threads that feed queues end with a delay
        for thread in started:
            thread.join(max(0, deadline - time.monotonic()))
            assert not thread.is_alive()
        assert not children() - others


def test_memory_does_not_grow_with_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more minibatches are read ahead than `ahead`."""
    dataset, read = stored(file), []
    inner = dataset.batch
    monkeypatch.setattr(dataset, "batch", lambda *draws: read.append(draws) or inner(*draws))
    batches = loader(dataset, 4, ahead=3)
    next(batches)
    assert len(read) <= 4
    next(batches)
    assert len(read) <= 5


# --- Errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["threads", "fork"])
def test_damage_is_one_line(tmp_path: Path, way: str) -> None:
    """Also from a worker process, where torch would raise a traceback; earlier minibatches are returned."""
    path = theano_file(tmp_path / "data.h5", DATA)
    damage(path, 16, 9)
    order = Order(23, shuffled=False)
    batches = loader(stored(path), 4, order, **WAYS[way])
    assert numbers(batches, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(FormatError) as error:
        next(batches)
    assert str(error.value).startswith(f"{path}: image 9 of data16x16 cannot be read: ")
    assert "\n" not in str(error.value)
    assert order.drawn == 8


def test_file_replaced_before_workers_start(tmp_path: Path) -> None:
    path = ours(tmp_path / "data.h5", DATA)
    dataset = stored(path)
    ours(tmp_path / "data.h5", DATA[::-1])
    with pytest.raises(FormatError, match="was replaced or changed while it was in use"):
        next(loader(dataset, 4, workers=1, context="fork"))


def test_order_moved_from_outside(file: Path) -> None:
    order = Order(23)
    batches, others = loader(stored(file), 4, order), loader(stored(file), 4, order)
    next(batches)
    with pytest.raises(TrainingError, match="was moved from image 0 to 4 while a loader was drawing"):
        next(others)
    order.load_state_dict({**order.state_dict(), "position": 7})
    with pytest.raises(TrainingError, match="was moved from image 4 to 7"):
        next(batches)


def test_killed_worker(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel kills a process if memory is short."""
    others = children()
    batches = loader(stored(file), 4, workers=1, context="fork")
    next(batches)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises at any line, those of pytest included
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))  # seconds; it waits for 5
    try:
        (child,) = children() - others
        os.kill(child, signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"a process that reads .*data\.h5 ended: .*threads: 0 workers"):
            deque(batches, maxlen=0)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_ignore_signals(number: signal.Signals, file: Path) -> None:
    """A cluster sends SIGTERM to all processes of a job, a terminal Ctrl-C; the training then takes a last step."""
    others = children()
    wanted = [batch.numbers.tolist() for batch in loader(stored(file), 4, images=23)]
    batches = loader(stored(file), 4, images=23, workers=1, context="fork")
    found = [next(batches).numbers.tolist()]
    (child,) = children() - others
    os.kill(child, number)
    found += [batch.numbers.tolist() for batch in batches]
    assert found == wanted
    assert child not in children()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch": 0}, "a minibatch of 0 images cannot be shared equally by 1 processes"),
        ({"batch": 14, "world": 4}, "a minibatch of 14 images cannot be shared equally by 4 processes; make it a"),
        ({"batch": 4, "world": 4, "images": 23}, "a run of 23 images cannot be shared equally by 4"),
        ({"batch": 4, "rank": 2, "world": 2}, "process 2 of 2 does not exist"),
        ({"batch": 4, "order": Order(22)}, r"the order has 22 images, .*data\.h5 has 23"),
    ],
)
def test_bad_arguments(file: Path, arguments, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        loader(stored(file), **arguments)
