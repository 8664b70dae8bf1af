"""Errors of landmarks, against transformations whose errors are known."""

import numpy as np
import pytest

from celebahq_builder.landmarks.training import LandmarkErrors, landmark_errors, median_errors
from tests.landmarks.test_refiner import FACE


def test_a_similarity_has_its_own_errors() -> None:
    """Rotation and scale about the centre of the crop; the error of a point is its distance to the moved one."""
    for angle, zoom in ((3.0, 1.0), (-7.0, 1.05), (179.5, 0.9)):
        t = np.radians(angle)
        turn = zoom * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
        found = (FACE - 50) @ turn + 50
        errors = landmark_errors(found, FACE)
        assert errors.rotation_deg == pytest.approx(abs(angle))
        assert errors.side_percent == pytest.approx(100 * abs(zoom - 1), abs=1e-9)
        distances = [float(np.linalg.norm(a - b)) for a, b in zip(found, FACE, strict=True)]
        assert errors.nme == pytest.approx(sum(distances) / 5 / 20)


def test_equal_landmarks_have_no_errors() -> None:
    assert landmark_errors(FACE, FACE) == LandmarkErrors(0.0, 0.0, 0.0)


def test_medians_are_those_of_each_error() -> None:
    errors = [LandmarkErrors(0.1, 5.0, 2.0), LandmarkErrors(0.3, 1.0, 1.0), LandmarkErrors(0.2, 2.0, 9.0)]
    assert median_errors(errors) == LandmarkErrors(0.2, 2.0, 2.0)
