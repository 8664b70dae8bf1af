"""The crop equals a slow reference and values computed by hand, and follows when a photo is transformed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from celebahq_builder.imaging.geometry import (
    bounding_box,
    centred_square,
    crop_from_landmarks,
    plan_padding,
    share_inside,
)
from tests.reference import crop as reference

Array = NDArray[np.float64]

MIRRORED = [1, 0, 2, 4, 3]
"""Order of the landmarks after mirroring; left and right are the viewer's."""

examples = settings(max_examples=100, deadline=None, derandomize=True)


@st.composite
def faces(draw: st.DrawFn) -> Array:
    """Landmarks [5, 2] of a face at any position and angle and of any proportions."""
    eyes = np.array([draw(st.floats(-500, 3000)), draw(st.floats(-500, 3000))])
    angle = draw(st.floats(0, 2 * math.pi))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    size = draw(st.floats(2, 400))
    down = np.array([draw(st.floats(-0.4, 0.4)), draw(st.floats(0.2, 2))]) * size
    mouth = np.array([draw(st.floats(0.3, 1)) * size / 2, 0.0])
    nose = down * draw(st.floats(0.2, 0.8))
    points = np.array([[-size / 2, 0], [size / 2, 0], nose, down - mouth, down + mouth])
    return points @ turn + eyes


QUADS = faces().map(lambda points: crop_from_landmarks(points).quad)


def test_wide_face_by_hand() -> None:
    """Eyes 40 px apart, mouth 30 px below: half a side is 2 * 40."""
    crop = crop_from_landmarks(np.array([[30, 50], [70, 50], [50, 65], [42, 80], [58, 80]]))
    assert crop.side == pytest.approx(160)


@examples
@given(faces())
def test_equals_the_reference(points: Array) -> None:
    expected = reference.crop_quad([(float(x), float(y)) for x, y in points])
    np.testing.assert_allclose(crop_from_landmarks(points).quad, expected, rtol=1e-9, atol=1e-7)


@examples
@given(faces())
def test_nose_does_not_matter(points: Array) -> None:
    elsewhere = points.copy()
    elsewhere[2] = -1000
    np.testing.assert_array_equal(crop_from_landmarks(points).quad, crop_from_landmarks(elsewhere).quad)


@examples
@given(faces())
def test_square_and_not_mirrored(points: Array) -> None:
    quad = crop_from_landmarks(points).quad
    right, down = quad[3] - quad[0], quad[1] - quad[0]
    np.testing.assert_allclose(down, [-right[1], right[0]], atol=1e-6)
    np.testing.assert_allclose(quad[2], quad[0] + right + down, atol=1e-6)
    assert crop_from_landmarks(points).side == pytest.approx(np.hypot(*right))


@examples
@given(faces(), st.integers(1, 3), st.integers(1, 3000), st.integers(1, 3000))
def test_turned_photo_turns_the_crop(points: Array, quarters: int, width: int, height: int) -> None:
    """Anticlockwise by 90 degrees, as np.rot90: the pixel at (x, y) moves to (y, W - 1 - x)."""
    quad = crop_from_landmarks(points).quad
    for _ in range(quarters):
        points = np.stack([points[:, 1], width - 1 - points[:, 0]], axis=1)
        quad = np.stack([quad[:, 1], width - quad[:, 0]], axis=1)
        width, height = height, width
    np.testing.assert_allclose(crop_from_landmarks(points).quad, quad, rtol=1e-9, atol=1e-6)


@examples
@given(faces(), st.integers(1, 3000))
def test_mirrored_photo_mirrors_the_crop(points: Array, width: int) -> None:
    quad = crop_from_landmarks(points).quad
    mirrored = np.stack([width - 1 - points[:, 0], points[:, 1]], axis=1)[MIRRORED]
    expected = np.stack([width - quad[:, 0], quad[:, 1]], axis=1)[[3, 2, 1, 0]]
    np.testing.assert_allclose(crop_from_landmarks(mirrored).quad, expected, rtol=1e-9, atol=1e-6)


@examples
@given(faces(), st.floats(0.6, 20))
def test_enlarged_photo_enlarges_the_crop(points: Array, scale: float) -> None:
    """At any size, a pixel's centre is half a pixel from its edge."""
    enlarged = (points + 0.5) * scale - 0.5
    expected = crop_from_landmarks(points).quad * scale
    np.testing.assert_allclose(crop_from_landmarks(enlarged).quad, expected, rtol=1e-9, atol=1e-6)


@examples
@given(faces(), st.integers(-2000, 2000), st.integers(-2000, 2000))
def test_shifted_photo_shifts_the_crop(points: Array, x: int, y: int) -> None:
    shifted = crop_from_landmarks(points + [x, y]).quad
    np.testing.assert_allclose(shifted, crop_from_landmarks(points).quad + [x, y], rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    "points",
    [
        [[50, 50], [50, 50], [50, 60], [40, 70], [60, 70]],
        [[50, 50], [50.5, 50.5], [50, 60], [40, 70], [60, 70]],
        [[7, 7]] * 5,
        [[40, 50], [60, 50], [50, 40], [42, 30], [58, 30]],
        [[40, 50], [60, math.nan], [50, 65], [42, 80], [58, 80]],
    ],
    ids=["eyes coincide", "eyes nearly coincide", "one point", "direction cancels out", "not a number"],
)
def test_degenerate_landmarks(points: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"the eyes are (.+) px apart and the mouth is (.+) px below"):
        crop_from_landmarks(np.array(points))


@examples
@given(QUADS, st.integers(1, 3000), st.integers(1, 3000))
def test_share_inside(quad: Array, width: int, height: int) -> None:
    exact = reference.share_inside([(float(x), float(y)) for x, y in quad], width, height)
    assert share_inside(quad, width, height) == pytest.approx(exact, abs=0.025)
    assert share_inside(quad, width, height, samples=400) == pytest.approx(exact, abs=0.005)


@examples
@given(QUADS)
def test_share_inside_is_0_or_1_at_the_limits(quad: Array) -> None:
    moved = quad - quad.min(axis=0)
    width, height = (math.ceil(v) for v in moved.max(axis=0))
    assert share_inside(moved, width, height) == 1
    assert share_inside(moved + [width, 0], width, height) == 0
    assert share_inside(moved - [0, height + 1], width, height) == 0


def test_share_inside_by_hand() -> None:
    square = np.array([[-10.0, 0], [-10, 40], [30, 40], [30, 0]])
    assert share_inside(square, 100, 20) == 0.375


@examples
@given(QUADS, st.floats(0, 100))
def test_bounding_box_is_the_smallest(quad: Array, margin: float) -> None:
    left, top, right, bottom = bounding_box(quad, margin)
    for low, high, values in ((left, right, quad[:, 0]), (top, bottom, quad[:, 1])):
        assert low <= values.min() - margin < low + 1
        assert high - 1 < values.max() + margin <= high


@given(st.integers(1, 50), st.integers(1, 50))
def test_centred_square_is_the_largest_and_centred(width: int, height: int) -> None:
    left, top, side = centred_square(width, height)
    assert side == min(width, height)
    assert 0 <= width - side - 2 * left <= 1
    assert 0 <= height - side - 2 * top <= 1


@examples
@given(
    st.tuples(st.floats(-300, 600), st.floats(-300, 600)),
    st.floats(8, 500),
    st.floats(0, 6.3),
    st.integers(1, 500),
    st.integers(1, 500),
)
def test_plan_of_a_padding(corner: tuple[float, float], side: float, angle: float, width: int, height: int) -> None:
    x = np.array([math.cos(angle), math.sin(angle)]) * side
    y = np.array([-x[1], x[0]])
    quad = np.array([corner, corner + y, corner + x + y, corner + x])
    border, pad_min = max(round(0.1 * side), 3), round(0.3 * side)
    low, high = np.floor(quad.min(axis=0)), np.ceil(quad.max(axis=0))
    overhang = max(*(-low), *(high - (width, height)))
    plan = plan_padding(quad, width, height, border, pad_min)
    assert (plan is None) == (max(overhang + border, 0) <= border - 4)
    if plan is None:
        assert overhang <= -4
        return
    sides = (plan.left, plan.top, plan.right, plan.bottom)
    assert min(sides) >= pad_min
    size = np.array([width + plan.left + plan.right, height + plan.top + plan.bottom])
    moved = quad + (plan.left, plan.top)
    assert (moved - border >= -1e-6).all()
    assert (moved + border <= size + 1e-6).all()
    need = np.concatenate([border - low, high - (width, height) + border])
    np.testing.assert_array_equal(sides, np.maximum(need, pad_min))


@pytest.mark.parametrize(("inside", "padded"), [(3.9, True), (4.0, False)])
def test_a_crop_that_stays_4_px_inside_needs_no_padding(inside: float, padded: bool) -> None:
    low, high = inside, 68.0 - 4
    quad = np.array([[low, low], [low, high], [high, high], [high, low]])
    assert (plan_padding(quad, 68, 68, 6, 18) is not None) == padded
