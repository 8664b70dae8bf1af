"""Selection and delivery: the best images arrive complete, only our own files go, and nothing is overwritten.

The record of delivered files survives a kill, names only files below the destination, and is never another file.
"""

import errno
import json
import math
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celebahq_builder.errors import DeliveryError, DiskFull, RecipeError
from celebahq_builder.filter import deliver
from celebahq_builder.filter.deliver import (
    RECORD_HEAD,
    RECORD_NAME,
    DeliveredFile,
    DeliveryMode,
    DeliveryRecord,
    plan_delivery,
)
from celebahq_builder.filter.run import Selection, rank
from tests.filter.folders import NAMES, carry_out, image_score, make_files

# --- Selection -----------------------------------------------------------------------------------------------------


scores_by_path = st.lists(
    st.tuples(st.text(max_size=3), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), unique_by=lambda p: p[0]
)


@given(scores_by_path, st.randoms())
def test_ranking_is_by_score_then_path_in_any_order_of_input(some: list[tuple[str, float]], random: Random) -> None:
    ranked = rank([image_score(*one) for one in some])
    shuffled = list(some)
    random.shuffle(shuffled)
    assert rank([image_score(*one) for one in shuffled]) == ranked
    assert [(one.score, one.path) for one in ranked] == sorted(
        ((score, path) for path, score in some), key=lambda one: (-one[0], one[1])
    )


@given(scores_by_path, st.integers(1, 9), st.floats(0, 1), st.floats(0.01, 100))
def test_number_of_kept_images(some: list[tuple[str, float]], keep: int, least: float, percent: float) -> None:
    ranked = rank([image_score(*one) for one in some])
    assert Selection().count(ranked) == len(some)
    assert Selection(keep=keep).count(ranked) == min(keep, len(some))
    above = Selection(min_score=least).count(ranked)
    assert all(one.score >= least for one in ranked[:above])
    assert all(one.score < least for one in ranked[above:])
    share = Selection(top_percent=percent).count(ranked)
    assert share == min(len(some), max(1, math.floor(Decimal(repr(percent)) * len(some) / 100)))


def test_a_percentage_is_exact() -> None:
    ranked = [image_score(str(i), 0.5) for i in range(100)]
    assert [Selection(top_percent=p).count(ranked) for p in (29, 57.0, 0.5, 100)] == [29, 57, 1, 100]
    assert Selection(top_percent=0.29).count(ranked * 100) == 29
    assert Selection(top_percent=10).count([]) == 0


def test_only_one_criterion_in_its_range_is_allowed() -> None:
    with pytest.raises(RecipeError, match=r"`keep` and `top_percent` both determine how many images are kept"):
        Selection(keep=3, top_percent=2.5)
    for wrong in (
        {"keep": 0},
        {"min_score": 1.5},
        {"min_score": math.nan},
        {"top_percent": 0},
        {"top_percent": math.nan},
    ):
        with pytest.raises(RecipeError, match="^`(keep|min_score|top_percent)` must be .*, got "):
            Selection(**wrong)
    some = Selection(), Selection(keep=3), Selection(min_score=0.25), Selection(top_percent=12.5)
    assert [one.description for one in some] == ["", "best 3", "scores of 0.25 or more", "best 12.5 %"]


# --- Delivery ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_files(tmp_path / "in")


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refuse_hard_links(monkeypatch: pytest.MonkeyPatch, out: Path, error: int) -> None:
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if error == errno.EXDEV and Path(source).is_relative_to(out):
            link(source, target)
        else:
            raise OSError(error, "no")

    monkeypatch.setattr(deliver.os, "link", refuse)


@pytest.mark.parametrize("mode", DeliveryMode)
@pytest.mark.parametrize("hard_links", [None, errno.EPERM, errno.EXDEV])
def test_the_selection_and_nothing_else_is_delivered(
    folder: Path, tmp_path: Path, mode: DeliveryMode, hard_links: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, out = tree(folder), tmp_path / "out"
    if hard_links:
        refuse_hard_links(monkeypatch, out, hard_links)
    assert carry_out(folder, out, mode) == [(name, "") for name in NAMES]
    assert tree(out) == {name: before[name] for name in NAMES}
    assert tree(folder) == before
    for name in NAMES:
        assert (out / name).stat().st_mtime_ns == 1_400_000_000_987_654_321
        assert (out / name).is_symlink() == (mode is DeliveryMode.LINK and hard_links is not None)
        if mode is DeliveryMode.LINK:
            assert (out / name).samefile(folder / name)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [RECORD_NAME]


@pytest.mark.parametrize("mode", DeliveryMode)
def test_a_file_is_recorded_before_it_gets_its_name(
    folder: Path, tmp_path: Path, mode: DeliveryMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is killed in between leaves a line without a file, not a file without a line."""
    out, named = tmp_path / "out", []
    for name in ("link", "symlink"):
        function = getattr(os, name)

        def recorded(source: Path, target: Path, function=function) -> None:
            path = Path(target).relative_to(out).as_posix()
            assert path in DeliveryRecord(out).files
            named.append(path)
            function(source, target)

        monkeypatch.setattr(os, name, recorded)
    carry_out(folder, out, mode)
    assert named == list(NAMES)


@pytest.mark.parametrize("mode", DeliveryMode)
def test_a_taken_name_is_refused_before_anything_is_done(folder: Path, tmp_path: Path, mode: DeliveryMode) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "a.jpg").write_text("mine")
    with pytest.raises(
        DeliveryError, match=r"1 of 4 names are taken in .*out, first sub/a.jpg: nothing is overwritten"
    ):
        plan_delivery(folder, out, mode, NAMES, prune=True)
    shutil.rmtree(out / "sub")
    (out / "sub").write_text("a file in the place of a folder")
    with pytest.raises(DeliveryError, match="3 of 4 names"):
        plan_delivery(folder, out, mode, NAMES)
    assert tree(out) == {"sub": b"a file in the place of a folder"}


@pytest.mark.parametrize("mode", DeliveryMode)
def test_a_name_taken_in_the_meantime_is_left_alone(folder: Path, tmp_path: Path, mode: DeliveryMode) -> None:
    out = tmp_path / "out"
    planned = plan_delivery(folder, out, mode, NAMES)
    (out / "sub").mkdir(parents=True)
    shutil.copy(folder / "sub" / "a.jpg", out / "sub" / "a.jpg")
    (out / "sub" / "a.jpg").write_bytes((folder / "sub" / "a.jpg").read_bytes())
    before = tree(folder)
    with pytest.raises(DeliveryError, match="appeared in the meantime"):
        list(deliver.deliver_images(planned))
    assert tree(folder) == before
    assert set(DeliveryRecord(out).files) == {"a.jpg"}  # the user's file is not ours, even with equal bytes
    assert not list(out.glob("*.partial"))


@pytest.mark.parametrize("mode", DeliveryMode)
def test_an_interrupted_delivery_is_resumed(folder: Path, tmp_path: Path, mode: DeliveryMode) -> None:
    out, before = tmp_path / "out", tree(folder)
    steps = deliver.deliver_images(plan_delivery(folder, out, mode, NAMES))
    next(steps), next(steps)
    steps.close()
    DeliveryRecord(out).add_partial().write_bytes(b"half")  # as a kill leaves it
    mine = out / ".celebahq-0123456789abcdef.partial"
    mine.write_text("not in the record")
    rest = plan_delivery(folder, out, mode, NAMES)
    assert rest.remaining == NAMES[2:]
    assert list(deliver.deliver_images(rest)) == [(name, "") for name in NAMES[2:]]
    assert list(out.glob("*.partial")) == [mine]
    mine.unlink()
    assert tree(out) == {name: before[name] for name in NAMES}
    assert plan_delivery(folder, out, mode, NAMES).remaining == ()


def test_an_image_that_is_gone_is_reported(folder: Path, tmp_path: Path) -> None:
    planned = plan_delivery(folder, tmp_path / "out", DeliveryMode.COPY, NAMES)
    (folder / "sub" / "a.jpg").unlink()
    ended = dict(deliver.deliver_images(planned))
    assert ended == {**dict.fromkeys(NAMES, ""), "sub/a.jpg": "No such file or directory"}


def test_a_copy_is_not_a_link(folder: Path, tmp_path: Path) -> None:
    carry_out(folder, tmp_path / "out", DeliveryMode.LINK)
    with pytest.raises(DeliveryError, match="4 of 4"):
        plan_delivery(folder, tmp_path / "out", DeliveryMode.COPY, NAMES)


def test_too_little_space_is_reported_before(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(deliver.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(DiskFull, match=r"needs \d+ bytes and its disk has 1 left; nothing was copied"):
        plan_delivery(folder, tmp_path / "out", DeliveryMode.COPY, NAMES)
    assert plan_delivery(folder, tmp_path / "out", DeliveryMode.LINK, NAMES).remaining == NAMES
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_incomplete_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync: Callable[[int], None] = os.fsync
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(deliver.os, "fsync", full)
    with pytest.raises(DiskFull, match="no space left to write"):
        carry_out(folder, tmp_path / "out", DeliveryMode.COPY)
    assert set(tree(tmp_path / "out")) == set(NAMES[:2])
    monkeypatch.undo()
    assert [path for path, _ in carry_out(folder, tmp_path / "out", DeliveryMode.COPY)] == list(NAMES[2:])


# --- Files of an earlier command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", DeliveryMode)
@pytest.mark.parametrize("hard_links", [None, errno.EXDEV])
def test_earlier_files_are_refused_and_pruned(
    folder: Path, tmp_path: Path, mode: DeliveryMode, hard_links: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, out = tree(folder), tmp_path / "out"
    if hard_links:
        refuse_hard_links(monkeypatch, out, hard_links)
    carry_out(folder, out, mode)
    (out / "mine.jpg").write_text("mine")
    with pytest.raises(
        DeliveryError, match=r"out holds 3 files of an earlier .*, first sub/a.jpg; .* add `prune`"
    ) as caught:
        plan_delivery(folder, out, mode, NAMES[:1])
    assert "\n" not in str(caught.value)
    assert set(tree(out)) == {*NAMES, "mine.jpg"}
    assert carry_out(folder, out, mode, NAMES[:1], prune=True) == [(name, "") for name in sorted(NAMES[1:])]
    assert tree(out) == {"a.jpg": before["a.jpg"], "mine.jpg": b"mine"}
    assert tree(folder) == before
    assert set(DeliveryRecord(out).files) == {"a.jpg"}


def test_pruning_spares_what_the_user_changed_or_put_there(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub" / "deep").mkdir(parents=True)
    shutil.copy2(folder / "sub" / "deep" / "b.jpg", out / "sub" / "deep" / "b.jpg")  # the user's own copy
    carry_out(folder, out, DeliveryMode.COPY)
    changed = out / "sub" / "a.jpg"
    stamp = changed.stat()
    changed.write_bytes(b"y" * stamp.st_size)  # the size and the time stamps stay
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    planned = plan_delivery(folder, out, DeliveryMode.COPY, NAMES[:1], prune=True)
    assert planned.changed == ("sub/a.jpg",)
    assert [file.path for file in planned.stale] == ["sub/ü 漢.png"]
    (out / "sub" / "ü 漢.png").write_text("changed after the plan")
    assert [path for path, problem in deliver.prune_files(planned) if problem] == ["sub/ü 漢.png"]
    assert set(tree(out)) == set(NAMES)


def test_pruning_follows_no_link_to_a_folder(folder: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", tree(folder)
    carry_out(folder, out, DeliveryMode.COPY)
    shutil.rmtree(out / "sub")
    (out / "sub").symlink_to(folder / "sub")
    planned = plan_delivery(folder, out, DeliveryMode.COPY, NAMES[:1], prune=True)
    assert planned.stale == ()
    assert list(deliver.prune_files(planned)) == []
    assert tree(folder) == before


def test_a_removed_file_leaves_the_record(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(folder, out, DeliveryMode.COPY)
    (out / "a.jpg").unlink()
    carry_out(folder, out, DeliveryMode.COPY, NAMES[1:])
    shutil.copy2(folder / "a.jpg", out / "a.jpg")  # now the user's
    assert plan_delivery(folder, out, DeliveryMode.COPY, NAMES[1:]).stale == ()


# --- The record ----------------------------------------------------------------------------------------------------


def test_a_cut_off_record_keeps_its_lines(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(folder, out, DeliveryMode.COPY, NAMES[:2])
    record = out / RECORD_NAME
    record.write_bytes(record.read_bytes() + b'{"file": "sub/')
    carry_out(folder, out, DeliveryMode.COPY)
    assert set(DeliveryRecord(out).files) == set(NAMES)
    record.write_bytes(RECORD_HEAD[:9])  # killed in its first write
    DeliveryRecord(out).add(DeliveredFile("a.jpg", 5, "sha256:0"))
    assert set(DeliveryRecord(out).files) == {"a.jpg"}


def test_a_record_leads_nowhere_else(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(folder, out, DeliveryMode.COPY, NAMES[:1])
    with (out / RECORD_NAME).open("a") as file:
        for path in ("../in/a.jpg", str(folder / "a.jpg")):
            content = DeliveredFile.at(path, folder / "a.jpg")
            line = {"file": path, "bytes": content.size_bytes, "content": content.content}
            file.write(f"{json.dumps(line)}\n")
        file.write(f"{json.dumps({'partial': '../in/a.jpg'})}\n")
    carry_out(folder, out, DeliveryMode.COPY, ("sub/a.jpg",), prune=True)
    assert (folder / "a.jpg").exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_the_user_in_the_place_of_the_record(folder: Path, tmp_path: Path, link: bool) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.write_text("mine")
    if link:
        (out / RECORD_NAME).symlink_to(mine)
    else:
        shutil.copy(mine, out / RECORD_NAME)
    with pytest.raises(DeliveryError, match=r"record of celebahq filter.*choose another `out`"):
        plan_delivery(folder, out, DeliveryMode.COPY, NAMES)
    assert (out / RECORD_NAME).read_text() == mine.read_text() == "mine"


def test_a_record_holds_any_name(tmp_path: Path) -> None:
    odd = b"\xff\n.jpg".decode("utf-8", "surrogateescape")
    file = DeliveredFile(odd, 5, "sha256:0")
    DeliveryRecord(tmp_path).add(file)
    assert DeliveryRecord(tmp_path).files == {odd: file}
