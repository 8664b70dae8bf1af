"""Download of the model file, from a server of this machine."""

import functools
import gc
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from celebahq_builder.errors import WeightsError
from celebahq_builder.landmarks import detector

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # requests leaves its connection to the garbage collector

NAME, SHA256 = detector.YUNET_FILES[5 if int(cv2.__version__.split(".")[0]) >= 5 else 4]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a server from which the model is downloaded; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(detector, "MODEL_FOLDER_URL", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()
    gc.collect()  # what requests has not closed, before the next test


def test_downloaded_once_and_checked(served, yunet, tmp_path):
    (served / NAME).write_bytes(yunet.read_bytes())
    path = detector.locate_model()
    assert path == tmp_path / "cache" / "celebahq_builder" / NAME
    assert path.read_bytes() == yunet.read_bytes()
    (served / NAME).unlink()
    assert detector.locate_model() == path


@pytest.mark.parametrize(("content", "reason"), [(None, "HTTPError"), (b"a page", "its SHA-256 differs")])
def test_the_message_says_where_to_get_it(content, reason, served, tmp_path):
    if content:
        (served / NAME).write_bytes(content)
    with pytest.raises(WeightsError) as raised:
        detector.locate_model()
    for part in (f"{detector.MODEL_FOLDER_URL}/{NAME}", SHA256, str(tmp_path / "cache"), f"({reason})", "`model`"):
        assert part in str(raised.value)
    cache = tmp_path / "cache"
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_given_file_is_used(tmp_path):
    assert detector.locate_model(tmp_path / "mine.onnx") == tmp_path / "mine.onnx"
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        detector.model_sha256(tmp_path / "mine.onnx")
