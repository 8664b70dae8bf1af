import shutil
from dataclasses import replace

import pytest

from celebahq_builder.landmarks.check import check_landmarks, reject_doubtful
from celebahq_builder.outcome import Reason
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import PhotoSource, subset
from tests.conftest import SAMPLE


@pytest.fixture
def source() -> PhotoSource:
    """Photos of which the third has its landmarks moved by half a distance of the eyes."""
    photos = list(subset(read_celeba(SAMPLE), ids=[f"00000{n}" for n in (1, 2, 3, 4, 9)]).photos)
    row = photos[2].landmarks
    moved = tuple(value + 0.5 * (row[2] - row[0]) for value in row)
    photos[2] = replace(photos[2], landmarks=moved)
    return PhotoSource(SAMPLE / "img_celeba", tuple(photos), ())


@pytest.mark.parametrize("workers", [1, 2])
def test_moved_landmarks_are_doubtful(workers, source, yunet, tmp_path):
    """The fifth photo is truncated: it is left to the build."""
    [doubtful] = check_landmarks(source, tmp_path / "log", yunet, workers=workers)
    assert doubtful.id == source.photos[2].id
    assert doubtful.distance == pytest.approx(0.5 * 2**0.5, abs=0.2)
    assert doubtful.size == (260, 320)
    assert "distances of the eyes away" in doubtful.words
    rejected = reject_doubtful(source, (doubtful,))
    assert [photo.id for photo in rejected.photos] == [source.photos[n].id for n in (0, 1, 3, 4)]
    assert [(one.photo, one.reason) for one in rejected.rejected] == [("000003.jpg", Reason.DOUBTFUL_LANDMARKS)]


def test_tilted_faces_are_confirmed(yunet, tmp_path):
    """One detection places their landmarks 0.3 distances of the eyes from the true ones."""
    tilted = subset(read_celeba(SAMPLE), ids=["000008", "000015"])
    assert check_landmarks(tilted, tmp_path / "log", yunet, workers=1) == ()


def test_no_face_at_all_is_the_worst(source, yunet, tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    shutil.copytree(source.folder, folder)
    Image.new("RGB", (300, 290), "olive").save(folder / "000002.jpg")
    doubtful = check_landmarks(replace(source, folder=folder), tmp_path / "log", yunet, workers=1)
    assert [one.id for one in doubtful] == ["000002", "000003"]
    assert doubtful[0].words == "the detector finds no face"
