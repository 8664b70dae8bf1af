"""The run directory: fingerprints, lock, full disks, verification, and its state."""

import contextlib
import errno
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.errors import (
    DiskFull,
    FingerprintMismatch,
    FormatError,
    RecipeError,
    SourceError,
    WorkspaceError,
    WorkspaceLocked,
)
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.integrity import Checked
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.hdf5.writer import PyramidWriter
from celebahq_builder.hdf5.writer import pack as pack_images
from celebahq_builder.outcome import Failed, Kept
from celebahq_builder.pipeline.build import build
from celebahq_builder.pipeline.stages import align, pack, select
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.state import RunState, StageState
from celebahq_builder.run_directory.workspace import StageFolder, Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.storage import HOST, RUN_TOKEN, as_storage_error, lock, read_json, write_atomic
from tests.conftest import PHOTO_STAGES, SMALL, TINY, build_tiny
from tests.disk import failing
from tests.pipeline.test_resume import digest


def test_second_run_names_the_holder(tmp_path: Path) -> None:
    with Workspace(tmp_path / "run").lock(), pytest.raises(WorkspaceLocked, match=f"process {os.getpid()} on"):
        build_tiny(tmp_path / "run")


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Workspace(tmp_path).lock():
        raise RuntimeError
    with Workspace(tmp_path).lock():
        pass


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(WorkspaceError, match="choose another `out`"):
        build_tiny(tmp_path / "run")


def test_other_settings_are_refused_by_name(tiny_copy: Path) -> None:
    other = replace(TINY, align=align.AlignSettings(supersampling=2))
    with pytest.raises(FingerprintMismatch, match=r"\[align\] supersampling = 4, this run asks 2.*`redo` align"):
        build_tiny(tiny_copy, recipe=other)


def test_other_photos_are_refused(tiny_copy: Path) -> None:
    with pytest.raises(FingerprintMismatch, match=r"1 photo missing from this run \(000005\.jpg\); `redo` photos"):
        build_tiny(tiny_copy, limit=4)


def test_a_setting_outside_all_tables_is_named_without_a_table(tiny_copy: Path) -> None:
    with pytest.raises(FingerprintMismatch, match=r"built with resolution = 64, this run asks 128; .*`redo` crop"):
        build_tiny(tiny_copy, resolution=128)


def test_redo_takes_new_settings(tiny_copy: Path, tmp_path: Path) -> None:
    other = replace(TINY, select=select.SelectSettings(keep=2))
    with pytest.raises(FingerprintMismatch, match=r"\[select\] keep = 3, this run asks 2"):
        build_tiny(tiny_copy, recipe=other)
    summary = build_tiny(tiny_copy, recipe=other, redo="select")
    build_tiny(tmp_path / "fresh", recipe=other)
    assert summary.kept == 2
    assert digest(tiny_copy) == digest(tmp_path / "fresh")


def test_redo_of_a_stage_that_is_not_kept(tiny_copy: Path, tiny_run: Path) -> None:
    build_tiny(tiny_copy, redo="upscale")
    assert digest(tiny_copy) == digest(tiny_run)


@pytest.mark.parametrize("until", PHOTO_STAGES)
def test_until_a_stage_then_from_the_next(until: str, tmp_path: Path, tiny_run: Path) -> None:
    out = tmp_path / "run"
    summary = build_tiny(out, until=until)
    assert not summary.complete
    assert Workspace(out).stage(until).mark_path.exists()
    if until != "score":
        assert len(list((Workspace(out).stage(until).root / "images").rglob("*.png"))) == 5
    start = PHOTO_STAGES[PHOTO_STAGES.index(until) + 1] if until != "score" else "select"
    build_tiny(out, start=start)
    assert digest(out) == digest(tiny_run)


def test_kept_stages_change_nothing(tmp_path: Path, tiny_run: Path) -> None:
    build_tiny(tmp_path / "run", recipe=replace(TINY, keep_stages=("crop", "denoise", "upscale")))
    with_them = Workspace(tmp_path / "run").hdf5_path(64)
    assert list(find_problems(tmp_path / "run")) == []
    import h5py

    with h5py.File(with_them) as new, h5py.File(Workspace(tiny_run).hdf5_path(64)) as old:
        assert np.array_equal(new["data64x64"][:], old["data64x64"][:])


def test_start_needs_the_stage_before(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="`start` align needs the results of upscale"):
        build_tiny(tmp_path / "run", start="align")
    assert not Workspace(tmp_path / "run").run_path.exists()
    with pytest.raises(RecipeError, match="`start` pack comes after `until` align"):
        build_tiny(tmp_path / "run", start="pack", until="align")


def test_shuffled_by_the_seed(tmp_path: Path, tiny_copy: Path) -> None:
    def files(out: Path) -> list[bytes]:
        import h5py

        with h5py.File(Workspace(out).hdf5_path(64)) as file:
            return list(file["photos/file"][:])

    shuffled = replace(TINY, pack=pack.PackSettings(order="shuffled"))
    orders = [files(tiny_copy)]
    for seed in range(6):
        build_tiny(tiny_copy, recipe=replace(shuffled, seed=seed), redo="pack")
        orders.append(files(tiny_copy))
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    with pytest.raises(FingerprintMismatch, match="seed"):
        build_tiny(tiny_copy, recipe=replace(shuffled, seed=6))


PARTIAL_KINDS = ("own", "dead", "live", "other host")


@functools.cache
def partial_name(kind: str) -> str:
    """Return the name of a partial file of this run, or of a process that is dead, alive or on another host."""
    with subprocess.Popen(["true"]) as ended:
        pass
    host, pid, token = {
        "own": (HOST, os.getppid(), RUN_TOKEN),
        "dead": (HOST, ended.pid, "0123abcd"),
        "live": (HOST, os.getppid(), "0123abcd"),
        "other host": (f"{HOST[:-1]}x", ended.pid, "0123abcd"),
    }[kind]
    return f".000001.png.{host}-{pid}-{token}.partial"


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a few kilobytes; skips the test where that is not allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_then_more_space(workers: int, tmp_path: Path, tiny_run: Path) -> None:
    with small_disk(tmp_path / "disk", "220k") as disk:
        with pytest.raises(DiskFull, match="free some and run the same command again"):
            build_tiny(disk / "run", workers=workers)
        for path in (disk / "run").rglob("*"):
            assert not path.name.endswith(".h5")
            if path.suffix == ".jsonl" and path.parent.name == "batches":
                assert [json.loads(line) for line in path.read_text().splitlines()]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        build_tiny(disk / "run", workers=workers)
        assert digest(disk / "run") == digest(tiny_run)


def test_full_disk_while_packing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 3, 64, 64), dtype=np.uint8)
    packed = pack_images(noise, 64, 3, Gzip())
    with small_disk(tmp_path / "disk", "300k") as disk:
        path = disk / "data.h5"

        def write() -> None:
            with PyramidWriter(path, count=32, resolution=64, channels=3, codec=Gzip()) as writer:
                writer.write(packed)
                writer.finish({}, {})

        with pytest.raises(DiskFull, match="no space left"):
            write()
        assert list(disk.iterdir()) == []


def test_full_device_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    failing(monkeypatch, errno.ENOSPC, lambda name: name.startswith(".file."))
    with pytest.raises(DiskFull, match="no space left"):
        write_atomic(path, b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EIO, WorkspaceError),
        (errno.EROFS, WorkspaceError),
        (errno.ENOTCONN, WorkspaceError),
        (errno.ESTALE, WorkspaceError),
        (errno.ENAMETOOLONG, OSError),
        (errno.EACCES, PermissionError),
    ],
)
def test_errors_of_writing(number: int, expected: type[Exception]) -> None:
    error = OSError(number, os.strerror(number), "file")
    found = as_storage_error(error, Path("out/file"))
    assert type(found) is expected
    assert (found is error) == isinstance(found, OSError)
    assert "file" in str(found)


def test_read_only_file_system_ends_the_run(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(WorkspaceError, match="file cannot be written: Read-only file system; check the disk"):
            write_atomic(disk / "file", b"x")


def test_verify_finds_changed_images(tiny_copy: Path) -> None:
    image = sorted((tiny_copy / "stages" / "align" / "images").rglob("*.png"))[0]
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    assert any(image.name in problem for problem in find_problems(tiny_copy))


def test_verify_finds_missing_files(tiny_copy: Path) -> None:
    Workspace(tiny_copy).hdf5_path(64).unlink()
    Workspace(tiny_copy).stage("score").manifest_path(0).unlink()
    problems = list(find_problems(tiny_copy))
    assert any("celebahq-64x64.h5 is missing" in problem for problem in problems)
    assert any("score: 1 of 2 manifests" in problem for problem in problems)


def test_changed_image_is_not_packed(tiny_copy: Path) -> None:
    image = sorted((tiny_copy / "stages" / "align" / "images").rglob("*.png"))[0]
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(WorkspaceError, match=r"was changed since it was made; `redo` align"):
        build_tiny(tiny_copy, recipe=replace(TINY, select=select.SelectSettings(keep=5)), redo="select")


def test_status_of_a_run(tiny_run: Path, tmp_path: Path) -> None:
    lines = "\n".join(status_lines(Workspace(tiny_run)))
    assert "in all: 3 kept + 2 rejected + 0 failed" in lines
    assert "LOW_SCORE: 2" in lines
    build_tiny(tmp_path / "run", until="align")
    assert "align    complete: 5 kept" in "\n".join(status_lines(Workspace(tmp_path / "run")))
    with pytest.raises(WorkspaceError, match="is not a run directory"):
        list(status_lines(Workspace(tmp_path)))


def test_status_of_a_run_that_is_not_done(tiny_copy: Path) -> None:
    """Throughput of the last command, and the time for the batch that is missing."""
    Workspace(tiny_copy).stage("score").manifest_path(1).unlink()
    Workspace(tiny_copy).timings_path.write_text(
        '{"unix_s": 50.0, "batches": 9, "seconds": {}}\n{"unix_s": 70.0, "batch": 7, "photos": 1, "seconds": {}}\n'
        '{"unix_s": 100.0, "batches": 2, "seconds": {}}\n{"unix_s": 108.0, "batch": 0, "photos": 4, "seconds": {}}\n'
    )
    [line] = [line for line in status_lines(Workspace(tiny_copy)) if "throughput" in line]
    assert line.startswith("throughput of the last command: 0.50 photos/s, about 8 s left; its last batch was finished")


def test_verify_says_what_it_checked(tiny_run: Path) -> None:
    checked = Checked()
    assert list(find_problems(tiny_run, checked)) == []
    assert checked == Checked("5 photos", manifests=5, files=5, images=3, levels=7, hashes=3)


@pytest.mark.parametrize("name", ["run.json", "summary.json", "stages/align/plan.json", "stages/align/stage.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"batch_photos": 4}'])
def test_damaged_files_of_a_run_are_named(name: str, content: bytes, tiny_copy: Path) -> None:
    (tiny_copy / name).write_bytes(content)
    for read in (status_lines, lambda workspace: find_problems(workspace.root)):
        with pytest.raises(WorkspaceError, match=Path(name).name if b"batch" not in content else "version") as caught:
            list(read(Workspace(tiny_copy)))
        assert len(str(caught.value)) < 1000


def test_paths_that_are_too_long() -> None:
    long = Path("x" * 5000)
    with pytest.raises(WorkspaceError, match="File name too long; choose another `out`"):
        build_tiny(long)
    with pytest.raises(WorkspaceError, match="cannot be read: File name too long"):
        list(status_lines(Workspace(long)))
    with pytest.raises(FormatError, match="cannot be read: File name too long"):
        list(find_problems(long))


def test_a_damaged_manifest_is_named(tiny_copy: Path) -> None:
    path = StageFolder(tiny_copy / "stages" / "align", "align").manifest_path(0)
    path.write_text("{")
    with pytest.raises(WorkspaceError, match=r"00000\.jsonl is damaged"):
        list(StageFolder(tiny_copy / "stages" / "align", "align").outcomes())


def test_names_with_separators_of_lines_survive_a_manifest(tmp_path: Path) -> None:
    outcomes = [Kept("a\u2028b.jpg", {"id": "c\x85"}), Failed("d\x1ee.jpg", "f\x0bg\nh")]
    stage = Workspace(tmp_path).stage("align")
    stage.write_manifest(0, outcomes)
    assert stage.read_manifest(0) == outcomes
    stage.write_manifest(1, [])
    assert stage.read_manifest(1) == []


def test_fingerprints_do_not_depend_on_workers(tmp_path: Path, tiny_run: Path) -> None:
    build_tiny(tmp_path / "run", workers=2)
    for name in ("align", "score", "select", "pack"):
        plans = [read_json(Workspace(out).stage(name).provenance_path) for out in (tmp_path / "run", tiny_run)]
        assert plans[0] == plans[1]


def test_sweep_deletes_partial_files_of_this_run_and_of_dead_processes(tmp_path: Path) -> None:
    images = tmp_path / "stages" / "align" / "images" / "00000"
    files = {kind: images / partial_name(kind) for kind in PARTIAL_KINDS}
    files |= {f"{kind} at the top": tmp_path / partial_name(kind) for kind in PARTIAL_KINDS}
    files |= {f"{kind} elsewhere": tmp_path / "downloads" / partial_name(kind) for kind in PARTIAL_KINDS}
    theirs = [tmp_path / "movie.partial", tmp_path / "movie.7.partial", images / f"folder{partial_name('dead')}"]
    theirs.append(tmp_path / "stages" / partial_name("dead") / "a.png")
    for path in (*files.values(), *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Workspace(tmp_path).sweep()
    assert all(path.exists() for path in theirs)
    assert {kind for kind, path in files.items() if not path.exists()} == {
        "own",
        "dead",
        "own at the top",
        "dead at the top",
    }


def test_an_earlier_last_stage_of_a_finished_run_changes_nothing(
    tiny_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_copy.rglob("*") if path.name != ".celebahq-lock"}
    with caplog.at_level("INFO"):
        result = build_tiny(tiny_copy, until="denoise")
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not Workspace(tiny_copy).stage("denoise").root.exists()
    assert (result.kept, result.complete) == (3, True)
    assert "all stages up to denoise are complete, and so are those up to pack" in caplog.text
    Workspace(tiny_copy).hdf5_path(64).unlink()
    result = build_tiny(tiny_copy, until="denoise")  # select is complete, and pack is not asked for
    assert (result.kept, result.complete, result.hdf5) == (3, False, None)
    assert not Workspace(tiny_copy).hdf5_path(64).exists()


def test_deleted_tables_and_page_are_written_again(tiny_copy: Path) -> None:
    workspace = Workspace(tiny_copy)
    paths = (workspace.selection_path, workspace.rejected_path, workspace.report_path)
    before = [path.read_bytes() for path in paths[:2]]
    for path in paths:
        path.unlink()
        build_tiny(tiny_copy)
    assert [path.read_bytes() for path in paths[:2]] == before
    assert workspace.report_path.exists()


def test_table_of_rejected_photos_when_none_is_kept(tmp_path: Path) -> None:
    """It is there at the error, and after a redo it is that of the new run."""
    root, out = Path(shutil.copytree(SMALL, tmp_path / "celeba")), tmp_path / "run"
    build_tiny(out, root, limit=2)
    for name in ("000001.jpg", "000002.jpg"):
        (root / "img_celeba" / name).write_bytes(b"")
    with pytest.raises(WorkspaceError, match=r"no photo was kept, .*rejected\.csv says why"):
        build_tiny(out, root, limit=2, redo="crop")
    rows = Workspace(out).rejected_path.read_text().splitlines()
    assert [row.split(",")[:4] for row in rows[-2:]] == [
        [f"{name}.jpg", name, "rejected", "EMPTY_FILE"] for name in ("000001", "000002")
    ]
    for path in (Workspace(out).selection_path, Workspace(out).summary_path):
        assert not path.exists()
    assert "EMPTY_FILE" in Workspace(out).report_path.read_text()


def test_photos_that_are_no_files_are_rejected(tmp_path: Path) -> None:
    root, out = Path(shutil.copytree(SMALL, tmp_path / "celeba")), tmp_path / "run"
    for name in ("000001.jpg", "000002.jpg", "000003.jpg"):
        (root / "img_celeba" / name).unlink()
    os.mkfifo(root / "img_celeba" / "000001.jpg")
    (root / "img_celeba" / "000002.jpg").symlink_to("/dev/zero")
    (root / "img_celeba" / "000003.jpg").mkdir()
    result = build_tiny(out, root, limit=4)
    assert (result.kept, result.failed, result.reasons) == (1, 0, {"UNREADABLE": 3})
    rejected = Workspace(out).rejected_path.read_text()
    for name, what in (("000001", "a named pipe"), ("000002", "a device"), ("000003", "a folder")):
        assert f"{name}.jpg: {what}, not a regular file" in rejected


def test_status_of_another_folder_names_it(tmp_path: Path) -> None:
    with lock(tmp_path, "folder of a training", "out"):
        pass
    with pytest.raises(WorkspaceError, match="it is the folder of a training; the command that made it resumes it"):
        list(status_lines(Workspace(tmp_path)))
    with pytest.raises(WorkspaceError, match="nowhere is not a run directory: it does not exist"):
        list(status_lines(Workspace(tmp_path / "nowhere")))


@pytest.mark.parametrize("name", ["run.json", "landmarks/landmarks.jsonl"])
def test_a_file_of_a_run_that_would_fill_the_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises((WorkspaceError, OSError), match=f"{1 << 40} bytes; at most"):
        list(status_lines(Workspace(tmp_path)))
    if name == "run.json":
        with pytest.raises(WorkspaceError, match="is not a run directory of this package"):
            build_tiny(tmp_path)


def test_discard_killed_after_the_manifests(tiny_copy: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is deleted last still says what it depends on, so a resumed run is refused or right."""
    unlinked: list[str] = []
    unlink = Path.unlink

    def counted(path: Path, missing_ok: bool = False) -> None:
        unlinked.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", counted)
    Workspace(tiny_copy).stage("align").discard()
    assert unlinked[:4] == ["stage.json", "00000.jsonl", "00001.jsonl", "plan.json"]
    assert len(unlinked) > 4
    assert all(name.endswith(".png") for name in unlinked[4:])


def test_discarded_stage_keeps_partial_files_of_live_processes(tmp_path: Path) -> None:
    stage = Workspace(tmp_path).stage("align")
    image = stage.image_path(0, "000001")
    for path in (image, stage.manifest_path(0), stage.provenance_path, stage.mark_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for kind in PARTIAL_KINDS:
        image.with_name(partial_name(kind)).touch()
    stage.discard()
    left = [path for path in stage.root.rglob("*") if not path.is_dir()]
    assert sorted(left) == sorted(image.with_name(partial_name(kind)) for kind in ("live", "other host"))
    for path in left:
        path.unlink()
    stage.discard()
    assert not stage.root.exists()


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the files of a folder but the lock, by relative paths."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name.name != ".celebahq-lock"}


def test_a_redo_keeps_files_of_others(tiny_copy: Path) -> None:
    theirs = [tiny_copy / "stages/align" / name for name in ("mine.png", "images/00000/mine.txt", "more/a.png")]
    theirs.append(tiny_copy / "report/examples/000001/mine.txt")
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    build_tiny(tiny_copy, redo="align")
    assert {path.read_text() for path in theirs} == {"mine"}
    Workspace(tiny_copy).stage("align").discard()
    assert set((tiny_copy / "stages/align").rglob("*.*")) == set(theirs[:3])


@pytest.mark.parametrize("link", ["crop", "align", "align/images", "align/images/00000", "align/batches"])
def test_a_redo_deletes_nothing_behind_a_link(link: str, tiny_copy: Path, tmp_path: Path) -> None:
    folder, elsewhere = tiny_copy / "stages" / link, tmp_path / "elsewhere"
    if folder.exists():
        folder.rename(elsewhere)
    elsewhere.mkdir(exist_ok=True)
    folder.symlink_to(elsewhere)
    before = contents(tiny_copy), contents(elsewhere)
    with pytest.raises(WorkspaceError, match=rf"/{link} is a link, which is not deleted through; put the folder in"):
        build_tiny(tiny_copy, redo="crop")
    assert (contents(tiny_copy), contents(elsewhere)) == before


def test_examples_behind_a_link_stay(tiny_copy: Path, tmp_path: Path) -> None:
    examples, elsewhere = tiny_copy / "report" / "examples", tmp_path / "elsewhere"
    examples.rename(elsewhere)
    examples.symlink_to(elsewhere)
    (elsewhere / "000009").mkdir()
    (elsewhere / "000009" / "align.jpg").touch()
    build_tiny(tiny_copy, redo="align")
    assert (elsewhere / "000009" / "align.jpg").exists()


def test_labels_of_others_beside_the_data_set(tiny_copy: Path) -> None:
    """A data set that is made again, by a redo or with more photos, takes no labels away that are not of the run."""
    labels = labels_path(Workspace(tiny_copy).hdf5_path(64))
    labels.write_bytes(b"mine")
    build_tiny(tiny_copy)  # nothing to do
    before = contents(tiny_copy)
    for asked in ({"redo": "pack"}, {"limit": 7}, {"limit": 7, "until": "score"}, {"redo": "photos", "limit": 4}):
        with pytest.raises(WorkspaceError, match=r"-labels\.npy was not written by this run.*; move it, then run"):
            build_tiny(tiny_copy, **asked)
    Workspace(tiny_copy).hdf5_path(64).unlink()
    with pytest.raises(WorkspaceError, match="was not written by this run"):
        build_tiny(tiny_copy)
    assert contents(tiny_copy).items() < before.items()


@pytest.mark.parametrize("name", ["selection.csv", "report/index.html", "stages/align/mine", "run.json"])
def test_folder_with_files_of_others(name: str, tmp_path: Path) -> None:
    """A run neither replaces nor deletes files that have the names of its own files."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("[1]")
    for redo in (None, "crop"):
        with pytest.raises(WorkspaceError, match=rf"holds {name.split('/')[0]} and is not a run directory of this"):
            build_tiny(tmp_path, redo=redo)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / name: "[1]"}


def test_a_run_without_the_mark_of_the_lock(tiny_copy: Path) -> None:
    """An earlier version had another lock."""
    (tiny_copy / ".celebahq-lock").rename(tiny_copy / "lock")
    (tiny_copy / "notes.txt").write_text("theirs")
    build_tiny(tiny_copy, redo="pack")
    assert list(find_problems(tiny_copy)) == []
    assert (tiny_copy / "notes.txt").read_text() == "theirs"


def test_a_record_without_a_table(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).stage("score").manifest_path(0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("crop", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(WorkspaceError, match=r"^0000\d\d.jpg: its line in a manifest lacks the CropRecord; .*`redo`"):
        build_tiny(tiny_copy, redo="select")


def test_a_run_of_an_earlier_version(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).run_path
    old = {key: value for key, value in read_json(path).items() if key not in ("photo_stages", "image_stage")}
    path.write_text(json.dumps(old))
    before = {file: file.read_bytes() for file in tiny_copy.rglob("*") if file.is_file()}
    for redo in (None, "crop"):
        with pytest.raises(WorkspaceError, match="was built by an earlier version, .* build again with another `out`"):
            build_tiny(tiny_copy, redo=redo)
    with pytest.raises(WorkspaceError, match="was built by an earlier version"):
        list(status_lines(Workspace(tiny_copy)))
    changed = [file for file in before if file.read_bytes() != before[file]]
    assert [file.name for file in changed] in ([], [".celebahq-lock"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"split": "train"', '"split": 7', "the table 'identity' is changed, .*split = '7' is not str"),
        ('"padded": ', '"faded": ', "the table 'align' is changed, corrupt, .*expected the keys padded"),
        ('"score": {', '"sore": {', "the table 'score' is changed, corrupt, .*expected the keys score"),
        ('"size": [', '"size": [1, ', "the table 'crop' is changed, corrupt, .*size = "),
        ('"crop": {', '"corp": {', "the table 'corp' is changed, corrupt, .*no stage writes it"),
        ('"identity"', '"identical"', "the table 'identity' is changed, corrupt, .*expected the keys id, index"),
    ],
)
def test_records_are_read_strictly(old: str, new: str, says: str, tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).stage("score").manifest_path(0)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(WorkspaceError, match=says) as caught:
        build_tiny(tiny_copy, redo="select")
    assert "\n" not in str(caught.value)


def test_state_of_a_run(tiny_run: Path, tmp_path: Path) -> None:
    assert Workspace(tmp_path / "none").read_state() == RunState()
    state = Workspace(tiny_run).read_state()
    assert state.stages.keys() == {"align", "score", "select", "pack"}
    assert state.stage("align").batches == {0, 1}
    assert state.stage("crop") == StageState()
    assert state.run is not None
    assert (state.run.image_stage, state.run.photo_stages) == ("align", list(PHOTO_STAGES))
    assert state.summary is not None
    assert (state.summary.photos, state.summary.kept, state.summary.reasons) == (5, 3, {"LOW_SCORE": 2})


def test_deleted_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanishing(*_: object) -> None:
        shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr("celebahq_builder.pipeline.build.run_photo_stages", vanishing)
    with pytest.raises(WorkspaceError):
        build_tiny(tmp_path / "run", until="score")


def test_run_inside_the_folder_of_photos(tmp_path: Path) -> None:
    root = Path(shutil.copytree(SMALL, tmp_path / "celeba"))
    out = root / "img_celeba" / "work"
    build_tiny(out, root, until="align")
    assert build_tiny(out, root).photos == 5


def test_missing_photos_do_not_change_later_stages(tmp_path: Path, tiny_run: Path) -> None:
    root, out = Path(shutil.copytree(SMALL, tmp_path / "celeba")), tmp_path / "run"
    build_tiny(out, root)
    photo = root / "img_celeba" / "000002.jpg"
    photo.rename(tmp_path / "away.jpg")
    keeping = replace(TINY, keep_stages=("denoise",))
    with pytest.raises(WorkspaceError, match=r"000002\.jpg was kept by align before"):
        build_tiny(out, root, recipe=keeping)
    (tmp_path / "away.jpg").rename(photo)
    build_tiny(out, root, recipe=keeping)
    assert build_tiny(out, root).kept == 3
    assert digest(out) == digest(tiny_run)


def test_deleted_folder_of_photos(tmp_path: Path) -> None:
    root = Path(shutil.copytree(SMALL, tmp_path / "celeba"))
    source = read_celeba(root)
    shutil.rmtree(root)
    with pytest.raises(SourceError, match="is gone"):
        build(source, tmp_path / "run", recipe=TINY, device="cpu", limit=3, workers=1)
    assert not list((tmp_path / "run" / "stages").rglob("*.jsonl"))


def test_deleted_manifest_is_written_again(tiny_copy: Path) -> None:
    path = Workspace(tiny_copy).stage("align").manifest_path(0)
    before = path.read_bytes()
    path.unlink()
    build_tiny(tiny_copy)
    assert path.read_bytes() == before
    assert list(find_problems(tiny_copy)) == []


@pytest.mark.parametrize("lost", [True, False])
def test_a_stage_is_complete_when_all_photos_are_accounted_for(lost: bool, tiny_copy: Path) -> None:
    stage = Workspace(tiny_copy).stage("score")
    stage.mark_path.unlink()
    manifest = stage.manifest_path(0)
    if lost:
        manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[1:]))
    else:
        shutil.copy(manifest, stage.manifest_path(2))
    accounted = "4 are accounted for in 2" if lost else "5 are accounted for in 3"
    with pytest.raises(WorkspaceError, match=rf"5 photos entered, {accounted} of 2 batches; .* `redo` score"):
        build_tiny(tiny_copy)
    assert not stage.mark_path.exists()


def test_photo_added_later_is_counted(tmp_path: Path) -> None:
    root, out = Path(shutil.copytree(SMALL, tmp_path / "celeba")), tmp_path / "run"
    build_tiny(out, root)
    shutil.copy(root / "img_celeba" / "000001.jpg", root / "img_celeba" / "new.jpg")
    assert build_tiny(out, root).reasons == {"LOW_SCORE": 2, "NOT_LISTED": 1}
    assert "new.jpg" in Workspace(out).rejected_path.read_text()
    assert list(find_problems(out)) == []


def test_verify_checks_the_result_after_a_shorter_run(tiny_copy: Path) -> None:
    build_tiny(tiny_copy, until="align")
    Workspace(tiny_copy).hdf5_path(64).unlink()
    assert list(find_problems(tiny_copy)) == ["celebahq-64x64.h5 is missing"]


def test_photos_of_all_outcomes_verify(tmp_path: Path) -> None:
    """Photos that a stage or the selection rejects are counted once."""
    result = build_tiny(tmp_path / "run", limit=10)
    assert result.rejected >= 2
    assert {"CORRUPT_IMAGE", "LOW_SCORE"} <= result.reasons.keys()
    assert list(find_problems(tmp_path / "run")) == []
