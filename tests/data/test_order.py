"""The order: every image once per epoch, any position reachable, shared by any number of processes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.data import Order
from celebahq_builder.errors import TrainingError

orders = st.builds(Order, st.integers(1, 50), st.integers(0, 2**70), shuffled=st.booleans())


def test_known_order() -> None:
    """If numpy's generator changed, runs could not be resumed bit for bit."""
    draws = Order(8, seed=3).draws(0, 16)
    assert draws.numbers.tolist() == [6, 7, 2, 1, 4, 5, 3, 0, 2, 1, 4, 0, 5, 7, 6, 3]
    assert draws.mirrored.astype(int).tolist() == [1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(orders, st.integers(0, 4))
def test_an_epoch_holds_every_image_once(order: Order, epoch: int) -> None:
    numbers = order.draws(epoch * order.count, order.count).numbers
    assert sorted(numbers.tolist()) == list(range(order.count))
    if not order.shuffled:
        assert numbers.tolist() == list(range(order.count))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(orders, st.integers(0, 200), st.lists(st.integers(0, 60), max_size=6))
def test_pieces_make_up_the_whole(order: Order, start: int, sizes: list[int]) -> None:
    whole = order.draws(start, sum(sizes))
    ends = np.cumsum([0, *sizes])
    parts = [order.draws(start + int(end), size) for end, size in zip(ends[:-1], sizes, strict=True)]
    assert [n for part in parts for n in part.numbers] == whole.numbers.tolist()
    assert [m for part in parts for m in part.mirrored] == whole.mirrored.tolist()


def test_orders_differ() -> None:
    """Epochs and seeds differ, and whether an image is flipped changes between epochs."""
    first = Order(1000, 1).draws(0, 2000)
    other = Order(1000, 2).draws(0, 1000)
    assert first.numbers[:1000].tolist() != first.numbers[1000:].tolist()
    assert first.numbers[:1000].tolist() != other.numbers.tolist()
    of_image = [
        dict(zip(first.numbers[part], first.mirrored[part], strict=True)) for part in (slice(1000), slice(1000, 2000))
    ]
    both = sum(of_image[0][i] == of_image[1][i] for i in range(1000))
    assert 430 < both < 570  # 4 standard deviations of a fair coin
    assert 430 < first.mirrored[:1000].sum() < 570


def test_order_is_random() -> None:
    """The position of an image in an epoch is uniform, and independent of that of other images."""
    places = np.stack([np.argsort(Order(20, seed).draws(0, 20).numbers) for seed in range(2000)])
    assert np.abs(places.mean(axis=0) - 9.5).max() < 4 * 5.77 / 2000**0.5
    assert np.abs(np.corrcoef(places.T) - np.eye(20) + 1 / 19 * (1 - np.eye(20))).max() < 5 / 2000**0.5


@settings(max_examples=50, deadline=None, derandomize=True)
@given(orders, st.integers(0, 200), st.integers(1, 8), st.integers(1, 10))
def test_shares_partition(order: Order, start: int, world: int, each: int) -> None:
    whole = order.draws(start, world * each)
    shares = [whole.share(rank, world) for rank in range(world)]
    assert {len(share.numbers) for share in shares} == {each}
    for name in ("numbers", "mirrored"):
        back = np.stack([getattr(share, name) for share in shares], axis=1).reshape(-1)
        np.testing.assert_array_equal(back, getattr(whole, name))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(orders, st.integers(0, 10**6))
def test_state(order: Order, drawn: int) -> None:
    order.drawn = drawn
    assert order.epoch * order.count + order.position == drawn
    again = Order(order.count, order.seed, shuffled=order.shuffled)
    again.load_state_dict(json.loads(json.dumps(order.state_dict())))
    assert (again.drawn, again.epoch, again.position) == (drawn, order.epoch, order.position)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 9}, "has count = 9, this run's has 8"),
        ({"seed": 1}, "has seed = 1, this run's has 0"),
        ({"shuffled": False}, "has shuffled = False, this run's has True"),
        ({"position": 8}, "is at epoch 0, position 8; expected a position from 0 to 7"),
        ({"epoch": -1}, "is at epoch -1"),
        ({"epoch": None}, "is at epoch None"),
    ],
)
def test_state_of_another_order(change, says: str) -> None:
    order = Order(8)
    with pytest.raises(TrainingError, match=says):
        order.load_state_dict({**order.state_dict(), **change})
    with pytest.raises(TrainingError, match="has count = None"):
        order.load_state_dict({})
    assert order.drawn == 0


def test_bad_orders() -> None:
    with pytest.raises(TrainingError, match="there are 0 images"):
        Order(0)
    with pytest.raises(TrainingError, match="the seed of the order is -1"):
        Order(8, -1)
    assert Order(3).draws(2, 0).numbers.tolist() == []
