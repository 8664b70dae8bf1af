"""The run directory: fingerprints, lock, stages, status, verification, and its state."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.errors import FingerprintMismatch, RecipeError, WorkspaceError, WorkspaceLocked
from celebahq_builder.pipeline.stages import align, pack, select
from celebahq_builder.pipeline.status import status_lines
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.state import RunState, StageState
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import lock
from tests.conftest import PHOTO_STAGES, TINY, build_tiny
from tests.pipeline.runs import assert_same, hdf5_bytes


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
    assert_same(tiny_copy, tmp_path / "fresh")


def test_redo_of_a_stage_that_is_not_kept(tiny_copy: Path, tiny_run: Path) -> None:
    build_tiny(tiny_copy, redo="upscale")
    assert_same(tiny_copy, tiny_run)


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
    assert hdf5_bytes(out) == hdf5_bytes(tiny_run)


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


def test_table_of_rejected_photos_when_none_is_kept(celeba: Path, tmp_path: Path) -> None:
    """It is there at the error, and after a redo it is that of the new run."""
    out = tmp_path / "run"
    build_tiny(out, celeba, limit=2)
    for name in ("000001.jpg", "000002.jpg"):
        (celeba / "img_celeba" / name).write_bytes(b"")
    with pytest.raises(WorkspaceError, match=r"no photo was kept, .*rejected\.csv says why"):
        build_tiny(out, celeba, limit=2, redo="crop")
    rows = Workspace(out).rejected_path.read_text().splitlines()
    assert [row.split(",")[:4] for row in rows[-2:]] == [
        [f"{name}.jpg", name, "rejected", "EMPTY_FILE"] for name in ("000001", "000002")
    ]
    for path in (Workspace(out).selection_path, Workspace(out).summary_path):
        assert not path.exists()
    assert "EMPTY_FILE" in Workspace(out).report_path.read_text()


def test_photos_that_are_no_files_are_rejected(celeba: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for name in ("000001.jpg", "000002.jpg", "000003.jpg"):
        (celeba / "img_celeba" / name).unlink()
    os.mkfifo(celeba / "img_celeba" / "000001.jpg")
    (celeba / "img_celeba" / "000002.jpg").symlink_to("/dev/zero")
    (celeba / "img_celeba" / "000003.jpg").mkdir()
    result = build_tiny(out, celeba, limit=4)
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


def test_a_run_without_the_mark_of_the_lock(tiny_copy: Path) -> None:
    """An earlier version had another lock."""
    (tiny_copy / ".celebahq-lock").rename(tiny_copy / "lock")
    (tiny_copy / "notes.txt").write_text("theirs")
    build_tiny(tiny_copy, redo="pack")
    assert list(find_problems(tiny_copy)) == []
    assert (tiny_copy / "notes.txt").read_text() == "theirs"


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


def test_run_inside_the_folder_of_photos(celeba: Path, tmp_path: Path) -> None:
    out = celeba / "img_celeba" / "work"
    build_tiny(out, celeba, until="align")
    assert build_tiny(out, celeba).photos == 5


def test_missing_photos_do_not_change_later_stages(celeba: Path, tmp_path: Path, tiny_run: Path) -> None:
    out = tmp_path / "run"
    build_tiny(out, celeba)
    photo = celeba / "img_celeba" / "000002.jpg"
    photo.rename(tmp_path / "away.jpg")
    keeping = replace(TINY, keep_stages=("denoise",))
    with pytest.raises(WorkspaceError, match=r"000002\.jpg was kept by align before"):
        build_tiny(out, celeba, recipe=keeping)
    (tmp_path / "away.jpg").rename(photo)
    build_tiny(out, celeba, recipe=keeping)
    assert build_tiny(out, celeba).kept == 3
    assert hdf5_bytes(out) == hdf5_bytes(tiny_run)


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


def test_photo_added_later_is_counted(celeba: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    build_tiny(out, celeba)
    shutil.copy(celeba / "img_celeba" / "000001.jpg", celeba / "img_celeba" / "new.jpg")
    assert build_tiny(out, celeba).reasons == {"LOW_SCORE": 2, "NOT_LISTED": 1}
    assert "new.jpg" in Workspace(out).rejected_path.read_text()
    assert list(find_problems(out)) == []


def test_verify_checks_the_result_after_a_shorter_run(tiny_copy: Path) -> None:
    build_tiny(tiny_copy, until="align")
    Workspace(tiny_copy).hdf5_path(64).unlink()
    assert list(find_problems(tiny_copy)) == ["celebahq-64x64.h5 is missing"]
