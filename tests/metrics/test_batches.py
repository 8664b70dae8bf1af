"""Bad batches are refused in one line that says where they are."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.batches import array_batches, take_images


def of(*batches: torch.Tensor):
    return lambda: iter(batches)


def images(n: int, channels: int = 3, side: int = 4) -> torch.Tensor:
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, channels, side, side)


def test_batches_do_not_matter() -> None:
    for sizes in ((5, 5), (1,) * 10, (3, 0, 7), (10,)):
        found = torch.cat([*take_images(of(*torch.split(images(10), sizes)), 7, name="x")])
        assert found[:, 0, 0, 0].tolist() == [*range(7)]


def test_no_more_is_read_than_asked_for_and_the_reader_is_closed() -> None:
    closed = []

    def endless() -> Iterator[torch.Tensor]:
        try:
            while True:
                yield images(4)
        finally:
            closed.append(True)

    assert sum(len(batch) for batch in take_images(endless, 10, name="x")) == 10
    assert closed == [True]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (of(images(4), images(2)), "the fakes has 6 images, 8 were asked for; .* at most 6"),
        (of(), "the fakes has 0 images, 8 were asked for"),
        (of(images(4), images(4, 1)), r"the fakes, image 4: a batch of shape \[4, 1, 4, 4\], expected \[n, 3, 4"),
        (of(images(4), images(4, 3, 8)), r"image 4: a batch of shape \[4, 3, 8, 8\], expected \[n, 3, 4, 4\]"),
        (of(images(4, 4)), r"a batch of shape \[4, 4, 4, 4\], expected \[n, 1 or 3, R, R\]"),
        (of(images(4)[0]), r"a batch of shape \[3, 4, 4\], expected"),
        (of(images(4)[..., :3]), r"a batch of shape \[4, 3, 4, 3\], expected"),
        (of(images(4), images(4) * torch.nan), "the fakes, images 4 to 7 have NaN values"),
        (of(images(8) * torch.inf), "images 0 to 7 have NaN values"),
        (of(torch.full((8, 3, 4, 4), torch.inf)), "have values from inf to inf; expected"),
        (of(images(8) / 4 - 1), r"have values from -1 to 0.75; expected \[0, 255\]"),
        (of(images(8).int()), "are torch.int32; expected uint8, or floats"),
    ],
)
def test_refused(batches, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        [*take_images(batches, 8, name="the fakes")]
    assert "\n" not in str(error.value)


def test_expected_resolution_and_channels() -> None:
    with pytest.raises(FormatError, match=r"\[n, 3, 8, 8\]"):
        [*take_images(of(images(4)), 4, name="x", resolution=8, channels=3)]
    with pytest.raises(FormatError, match=r"\[n, 1, R, R\]; all images must have one shape"):
        [*take_images(of(images(4)), 4, name="x", channels=1)]
    found = torch.cat([*take_images(of(images(4).float()), 4, name="x", resolution=4, channels=3)])
    assert found.dtype == torch.float32


def test_the_limits_of_the_range_belong_to_it() -> None:
    ends = torch.tensor([0.0, 255.0])[:, None, None, None].expand(2, 3, 4, 4)
    assert torch.equal(torch.cat([*take_images(of(ends), 2, name="x")]), ends)


def test_an_array_in_batches() -> None:
    images = np.arange(7 * 3 * 4, dtype=np.uint8).reshape(7, 3, 2, 2)
    some = array_batches(images, 3)
    for _ in range(2):
        assert [len(batch) for batch in some()] == [3, 3, 1]
        assert np.array_equal(torch.cat(list(some())).numpy(), images)
