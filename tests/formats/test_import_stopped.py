"""An import that is killed or interrupted: the target does not exist, and the same command makes it."""

from pathlib import Path

import pytest

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats import conversion
from celebahq_builder.formats.conversion import import_images
from celebahq_builder.progress import Progress
from tests.formats.killed_conversion import kill_after
from tests.hdf5.pyramids import described_file, noise

SIDE, COUNT = 256, 90


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described_file(tmp_path_factory.mktemp("h5") / "faces.h5", noise(COUNT, SIDE))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "made.h5"
    import_images(source, path)
    return path.read_bytes()


@pytest.mark.parametrize(("after", "workers"), [(16, 1), (60, 2), (COUNT, 1)])
def test_killed(after: int, workers: int, source: Path, whole: bytes, tmp_path: Path) -> None:
    """By SIGKILL, twice, also after the last image."""
    target = tmp_path / "made.h5"
    for _ in range(2):
        kill_after(after, source, target, workers)
    import_images(source, target, workers=2)
    assert target.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made-labels.npy", "made.h5"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CelebAHQError])
def test_interrupted(
    error: type[BaseException], source: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C or an error, after which nothing is left."""

    class Stopping(Progress):
        def advance(self, photos: int, rejected: int = 0, failed: int = 0) -> None:
            super().advance(photos)
            if self.done >= 48:
                raise error

    target = tmp_path / "made.h5"
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "Progress", Stopping)
        with pytest.raises(error):
            import_images(source, target)
    assert list(tmp_path.iterdir()) == []
    import_images(source, target)
    assert target.read_bytes() == whole
