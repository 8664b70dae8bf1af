"""Images are read by number, in any order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celebahq_builder.hdf5.reader import open_pyramid
from tests.hdf5.files import levels_of, noise, store


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("stored") / "data.h5", noise(6, 4))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_any_numbers(path: Path, numbers: list[int]) -> None:
    levels = levels_of(noise(6, 4))
    with open_pyramid(path) as pyramid:
        for r in (4, 2, 1):
            np.testing.assert_array_equal(pyramid.images(r).read(numbers), levels[r][numbers])
            np.testing.assert_array_equal(pyramid.images(r)[numbers[0]], levels[r][numbers[0]])


@pytest.mark.parametrize("numbers", [[0, 2, 1, 3], [3, 1, 2, 0], [5], [2, 3, 4], [2, 2, 4]])
def test_rows_that_look_like_a_block(path: Path, numbers: list[int]) -> None:
    with open_pyramid(path) as pyramid:
        np.testing.assert_array_equal(pyramid.images(4).read(np.array(numbers)), noise(6, 4)[numbers])
