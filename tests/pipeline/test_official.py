"""Official images from photos, image list and deltas: bit for bit, or rejected with a reason."""

import copy
import io
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import FingerprintMismatch, SourceError
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.pipeline import request as request_of_build
from celebahq_builder.pipeline import results
from celebahq_builder.pipeline.build import BuildResult, build
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.official import zip_name
from tests.conftest import SAMPLE
from tests.pipeline.runs import ROOT, hdf5_bytes
from tests.release import EXACT, Release, aligned, locked

Paths = tuple[Path, Path]


def build_release(out: Path, paths: Paths, root: Path = SAMPLE, *, with_deltas: bool = True, **request) -> BuildResult:
    """Build a release at 64 px, which `build` refuses: the real deltas are for 1024 px."""
    image_list, deltas = paths
    recipe = request.pop("recipe", EXACT)
    chosen = deltas if with_deltas else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_of_build, "check_official", lambda *_: None)
        request = {"workers": 1, **request}
        return build(
            read_celeba(root), out, recipe=recipe, device="cpu", image_list=image_list, deltas=chosen, **request
        )


def rejects(out: Path) -> dict[str, Rejected]:
    return {one.file: one.end for one in results.photo_statuses(Workspace(out)) if isinstance(one.end, Rejected)}


@pytest.fixture(scope="module")
def release() -> Release:
    """A release of four photos; not to be changed."""
    return Release()


@pytest.fixture(scope="module")
def paths(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return release.write(tmp_path_factory.mktemp("release") / "files")


@pytest.fixture(scope="module")
def built(paths: Paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all deltas; not to be changed."""
    out = tmp_path_factory.mktemp("official") / "run"
    summary = build_release(out, paths)
    assert (summary.photos, summary.kept) == (4, 4)
    return out


def test_the_official_images_in_the_official_order(built: Path, release: Release) -> None:
    with PyramidFile(Workspace(built).hdf5_path(64)) as pyramid:
        order = pyramid.photos.get("official_index")
        assert list(order) == sorted(release.files) == [2, 5, 7, 1000]
        assert pyramid.photos.get("file") == [release.files[index] for index in order]
        for image, index in zip(pyramid.level(64), order, strict=True):
            np.testing.assert_array_equal(image, release.finals[index])
    assert list(find_problems(built)) == []


def test_same_bytes_with_two_workers(built: Path, paths: Paths, tmp_path: Path) -> None:
    build_release(tmp_path / "run", paths, workers=2)
    assert hdf5_bytes(tmp_path / "run") == hdf5_bytes(built)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_killed_and_resumed(count: int, built: Path, paths: Paths, tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = (
        "from pathlib import Path; from celebahq_builder.pipeline.stages import exact\n"
        "from tests.pipeline.killed_build import killing; from tests.pipeline.test_official import build_release\n"
        f"exact.add_delta = killing(exact.add_delta, {count})\n"
        f"build_release(Path({str(out)!r}), (Path({str(paths[0])!r}), Path({str(paths[1])!r})))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    build_release(out, paths)
    assert hdf5_bytes(out) == hdf5_bytes(built)


def test_build_in_parts_and_redone(built: Path, paths: Paths, tmp_path: Path) -> None:
    """A stage that reads from disk gives the bytes that it gives in memory, also when it is redone."""
    out = tmp_path / "run"
    recipe = replace(EXACT, keep_stages=("crop", "upscale"))
    for until in ("crop", "upscale", "align"):
        build_release(out, paths, recipe=recipe, until=until)
    build_release(out, paths, recipe=recipe, start="align")
    images = {path.name: path.read_bytes() for path in (built / "stages" / "align").rglob("*.png")}
    assert {path.name: path.read_bytes() for path in (out / "stages" / "align").rglob("*.png")} == images
    build_release(out, paths, recipe=recipe, redo="align")
    assert {path.name: path.read_bytes() for path in (out / "stages" / "align").rglob("*.png")} == images


def test_build_without_deltas(paths: Paths, release: Release, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert build_release(out, paths, with_deltas=False).kept == 4
    with PyramidFile(Workspace(out).hdf5_path(64)) as pyramid:
        np.testing.assert_array_equal(pyramid.level(64)[1], aligned(release.files[5], 64))
    with pytest.raises(FingerprintMismatch, match=r"\[align\] deltas = none, this run asks added.*`redo` align"):
        build_release(out, paths)
    assert build_release(out, paths, redo="align").kept == 4
    with PyramidFile(Workspace(out).hdf5_path(64)) as pyramid:
        np.testing.assert_array_equal(pyramid.level(64)[1], release.finals[5])


def wrong_key(release: Release) -> None:
    final = release.finals[2] - aligned(release.files[2], 64)
    release.members[2] = locked(final, b"other bytes", release.files[2])


def missing_member(release: Release) -> None:
    del release.members[2]
    release.members[3] = b"another"


def wrong_proc(release: Release) -> None:
    release.rows[2][3] = "0" * 32


def wrong_proc_and_key(release: Release) -> None:
    wrong_proc(release)
    wrong_key(release)


def wrong_final(release: Release) -> None:
    release.rows[2][4] = "0" * 32


@pytest.mark.parametrize(
    ("spoil", "reason", "says"),
    [
        (wrong_key, Reason.DELTA_UNREADABLE, "the photo's bytes do not open delta00002.dat"),
        (missing_member, Reason.DELTA_MISSING, "deltas00000.zip has no delta00002.dat"),
        (
            wrong_proc,
            Reason.PROC_MD5_DIFFERS,
            "its delta can be decrypted, so the photo is the original; decoder or Pillow differ",
        ),
        (
            wrong_proc_and_key,
            Reason.PROC_MD5_DIFFERS,
            "the delta cannot be decrypted either: deltas00000.zip: the photo's bytes do",
        ),
        (wrong_final, Reason.FINAL_MD5_DIFFERS, "list and deltas are not of one release"),
    ],
)
def test_problem_of_one_photo_rejects_that_photo(
    spoil: Callable[[Release], None], reason: Reason, says: str, release: Release, tmp_path: Path
) -> None:
    spoilt = copy.deepcopy(release)
    spoil(spoilt)
    out = tmp_path / "run"
    summary = build_release(out, spoilt.write(tmp_path / "files"))
    assert (summary.kept, summary.failed, summary.reasons) == (3, 0, {reason.value: 1})
    rejected = rejects(out)[release.files[2]]
    assert rejected.reason is reason
    assert says in rejected.detail
    assert rejected.detail in Workspace(out).rejected_path.read_text().replace('""', '"')
    with PyramidFile(Workspace(out).hdf5_path(64)) as pyramid:
        assert list(pyramid.photos.get("official_index")) == [5, 7, 1000]


def spoilt_zip(paths: Paths, folder: Path, data: bytes | None) -> Paths:
    deltas = Path(shutil.copytree(paths[1], folder))
    (deltas / zip_name(0)).unlink()
    if data is not None:
        (deltas / zip_name(0)).write_bytes(data)
    return paths[0], deltas


def test_an_archive_that_is_missing_or_cut_short(paths: Paths, tmp_path: Path) -> None:
    summary = build_release(tmp_path / "a", spoilt_zip(paths, tmp_path / "missing", None))
    assert (summary.kept, summary.reasons) == (1, {"DELTA_MISSING": 3})
    whole = (paths[1] / zip_name(0)).read_bytes()
    cut = spoilt_zip(paths, tmp_path / "cut", whole[: len(whole) // 2])
    summary = build_release(tmp_path / "b", cut)
    assert (summary.kept, summary.reasons) == (1, {"DELTA_UNREADABLE": 3})
    shutil.copy(paths[1] / zip_name(0), cut[1])
    assert build_release(tmp_path / "b", cut, redo="align").kept == 4


def test_photos_that_are_not_the_originals(paths: Paths, tmp_path: Path) -> None:
    """One is gone, one was saved again, one holds the same image in other bytes."""
    root = Path(shutil.copytree(SAMPLE, tmp_path / "celeba"))
    folder = root / "img_celeba"
    (folder / "000001.jpg").unlink()
    buffer = io.BytesIO()
    Image.open(folder / "000002.jpg").save(buffer, "JPEG", quality=70)
    (folder / "000002.jpg").write_bytes(buffer.getvalue())
    with (folder / "000003.jpg").open("ab") as file:
        file.write(b"\0")
    summary = build_release(tmp_path / "run", paths, root)
    assert (summary.photos, summary.kept) == (4, 1)
    found = {file: rejected.reason.value for file, rejected in rejects(tmp_path / "run").items()}
    assert found == {"000001.jpg": "FILE_MISSING", "000002.jpg": "PROC_MD5_DIFFERS", "000003.jpg": "DELTA_UNREADABLE"}


def test_photos_that_the_table_lacks_are_counted(paths: Paths, release: Release, tmp_path: Path) -> None:
    longer = tmp_path / "longer.txt"
    longer.write_bytes(paths[0].read_bytes() + f"9 1 nobody.jpg {'0' * 32} {'0' * 32}\r\n".encode())
    summary = build_release(tmp_path / "run", (longer, paths[1]))
    assert (summary.photos, summary.kept, summary.reasons) == (5, 4, {"NOT_IN_TABLE": 1})


def test_missing_folder_of_deltas_ends_the_run(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the folder of deltas .* is gone; bring it back and run the same command"):
        build_release(tmp_path / "run", (paths[0], tmp_path / "none"))
