"""What is no picture is refused in one line that says where it is."""

from collections.abc import Iterator

import pytest
import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.batches import take


def of(*batches: torch.Tensor):
    return lambda: iter(batches)


def pictures(n: int, channels: int = 3, side: int = 4) -> torch.Tensor:
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, channels, side, side)


def test_first_pictures_whatever_the_batches() -> None:
    for sizes in ((5, 5), (1,) * 10, (3, 0, 7), (10,)):
        found = torch.cat([*take(of(*torch.split(pictures(10), sizes)), 7, name="x")])
        assert found[:, 0, 0, 0].tolist() == [*range(7)]


def test_no_more_is_read_than_asked_for_and_the_reader_is_closed() -> None:
    closed = []

    def endless() -> Iterator[torch.Tensor]:
        try:
            while True:
                yield pictures(4)
        finally:
            closed.append(True)

    assert sum(len(batch) for batch in take(endless, 10, name="x")) == 10
    assert closed == [True]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (of(pictures(4), pictures(2)), "the fakes has 6 pictures, 8 were asked for; .* at most 6"),
        (of(), "the fakes has 0 pictures, 8 were asked for"),
        (of(pictures(4), pictures(4, 1)), r"the fakes, picture 4: a batch of shape \[4, 1, 4, 4\], expected \[n, 3, 4"),
        (of(pictures(4), pictures(4, 3, 8)), r"picture 4: a batch of shape \[4, 3, 8, 8\], expected \[n, 3, 4, 4\]"),
        (of(pictures(4, 4)), r"a batch of shape \[4, 4, 4, 4\], expected \[n, 1 or 3, R, R\]"),
        (of(pictures(4)[0]), r"a batch of shape \[3, 4, 4\], expected"),
        (of(pictures(4)[..., :3]), r"a batch of shape \[4, 3, 4, 3\], expected"),
        (of(pictures(4), pictures(4) * torch.nan), "the fakes, pictures 4 to 7 have values that are not numbers"),
        (of(pictures(8) * torch.inf), "pictures 0 to 7 have values that are not numbers"),
        (of(torch.full((8, 3, 4, 4), torch.inf)), "have values from inf to inf; expected"),
        (of(pictures(8) / 4 - 1), r"have values from -1 to 0.75; expected \[0, 255\]"),
        (of(pictures(8).int()), "are torch.int32; expected uint8, or floats"),
    ],
)
def test_refused(batches, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        [*take(batches, 8, name="the fakes")]
    assert "\n" not in str(error.value)


def test_what_the_other_side_has() -> None:
    with pytest.raises(FormatError, match=r"\[n, 3, 8, 8\]"):
        [*take(of(pictures(4)), 4, name="x", resolution=8, channels=3)]
    with pytest.raises(FormatError, match=r"\[n, 1, R, R\]; all pictures are alike"):
        [*take(of(pictures(4)), 4, name="x", channels=1)]
    found = torch.cat([*take(of(pictures(4).float()), 4, name="x", resolution=4, channels=3)])
    assert found.dtype == torch.float32
