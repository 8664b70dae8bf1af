from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import WeightsError
from celebahq_builder.imaging import orientation
from celebahq_builder.imaging.geometry import normalized_mean_error
from celebahq_builder.landmarks import crops
from celebahq_builder.landmarks.detector import FaceDetector
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import SAMPLE


def test_every_face_of_the_sample_is_found_where_its_landmarks_are(detector):
    """Left and right included: exchanged, the error would be above 0.5."""
    found = 0
    for photo in read_celeba(SAMPLE).photos:
        if photo.id == "000009":
            continue  # truncated on purpose
        with Image.open(SAMPLE / "img_celeba" / photo.file) as file:
            image = np.asarray(file.convert("RGB"))
        expected = photo.points
        first = min(detector.detect(image), key=lambda face: normalized_mean_error(face.landmarks, expected))
        refined = detector.refine(image, first)
        assert normalized_mean_error(first.landmarks, expected) < 0.35, photo.file
        assert normalized_mean_error(refined.landmarks, expected) < 0.12, photo.file
        assert refined.views == 6
        assert refined.confidence > 0.8
        assert 0 < refined.spread < 0.1
        found += 1
    assert found == 14


@pytest.mark.parametrize("turn_deg", range(0, 360, 30))
def test_a_turned_photo(turn_deg, detector, portrait):
    """A face on its side or on its head is never taken for an upright one."""
    image, landmarks = portrait
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn_deg, 0.7)
    turned = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    expected = landmarks @ matrix[:, :2].T + matrix[:, 2]
    faces = [detector.refine(turned, face) for face in detector.detect(turned)]
    best = max(faces, key=lambda face: face.confidence)
    assert normalized_mean_error(best.landmarks, expected) < 0.1
    assert best.confidence > 0.9


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("scale", [0.4, 1.0, 3.7])
def test_crops_are_placed_exactly(scale, mirror, portrait):
    """A dot of the photo lies where the matrix of a crop says, for small and large crops and at the border."""
    _, landmarks = portrait
    points = landmarks * scale - (60, 0)
    y, x = np.mgrid[:1300, :1500]
    spot = points[2].round()
    image = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * (3 * max(scale, 1)) ** 2))
    pixels = np.repeat((255 * image).round().astype(np.uint8)[..., None], 3, axis=2)
    for rotation in (-8.0, 0.0, 90.0):
        matrix = crops.crop_matrix(points, 384, 1.0, mirror=mirror, rotation_deg=rotation)
        weights = crops.sample_crop(pixels, matrix, 384)[..., 0].astype(float)
        rows, columns = np.mgrid[:384, :384]
        centre = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        assert np.abs(crops.transform(matrix, spot[None])[0] - centre).max() < 0.1, rotation
        assert np.allclose(crops.transform(crops.inverse(matrix), crops.transform(matrix, points)), points)


def test_a_mirrored_photo_gives_mirrored_landmarks(detector, portrait):
    image, _ = portrait
    [face] = [detector.refine(image, one) for one in detector.detect(image)]
    mirrored = np.ascontiguousarray(image[:, ::-1])
    [other] = [detector.refine(mirrored, one) for one in detector.detect(mirrored)]
    expected = face.landmarks[orientation.MIRRORED] * (-1, 1) + (image.shape[1] - 1, 0)
    assert normalized_mean_error(other.landmarks, expected) < 0.05


def test_small_faces_of_a_large_photo_are_found_from_left_to_right(detector, portrait):
    image, landmarks = portrait
    small = np.asarray(Image.fromarray(image).resize((110, 110 * image.shape[0] // image.shape[1])))
    factor = 110 / image.shape[1]
    group = np.full((1200, 3000, 3), 128, np.uint8)
    places = [(100, 900), (1500, 300), (2800, 600)]
    for left, top in places:
        group[top : top + small.shape[0], left : left + 110] = small
    faces = [face for face in detector.detect(group) if face.confidence > 0.6]
    assert len(faces) == 3
    for face, (left, top) in zip(faces, places, strict=True):
        assert normalized_mean_error(face.landmarks, landmarks * factor + (left, top)) < 0.3


def test_an_image_is_not_enlarged_and_one_pixel_is_no_error(detector):
    assert detector.detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert detector.detect(np.zeros((2, 700, 3), np.uint8)) == []


def test_what_was_seen_before_changes_nothing(detector, yunet, portrait):
    image, _ = portrait
    fresh = FaceDetector(yunet)
    detector.detect(np.zeros((333, 777, 3), np.uint8))
    for one, other in zip(detector.detect(image), fresh.detect(image), strict=True):
        assert (one.landmarks == other.landmarks).all()


def test_a_file_that_is_no_model(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"cannot read .*model.onnx as a model of YuNet"):
        FaceDetector(path)
