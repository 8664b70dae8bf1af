"""The kept images arrive whole, nothing else is touched, and nothing is ever lost or overwritten."""

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celebahq_builder.errors import DeliveryError, DiskFull
from celebahq_builder.filter import delivery
from celebahq_builder.filter.delivery import Mode, plan

NAMES = ("a.jpg", "sub/a.jpg", "sub/ü 漢.png", "sub/deep/b.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
        os.utime(path, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    (tmp_path / "in" / "sub" / "not asked for.jpg").write_text("x")
    return tmp_path / "in"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def carry_out(folder: Path, out: Path, mode: Mode, **asked: Any) -> list[tuple[str, str]]:
    return list(delivery.deliver(plan(folder, out, mode, NAMES, **asked)))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("hard_links", [None, errno.EPERM, errno.EXDEV])
def test_all_that_was_asked_for_and_nothing_else(
    folder: Path, tmp_path: Path, mode: Mode, hard_links: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(folder)
    link = os.link
    if hard_links:

        def refuse(source: Path, target: Path) -> None:
            if hard_links == errno.EXDEV and Path(source).is_relative_to(tmp_path / "out"):
                link(source, target)
            else:
                raise OSError(hard_links, "no")

        monkeypatch.setattr(delivery.os, "link", refuse)
    out = tmp_path / "out"
    assert carry_out(folder, out, mode) == [(name, "") for name in NAMES]
    assert tree(out) == {name: before[name] for name in NAMES}
    left = {"sub/not asked for.jpg"} if mode is Mode.MOVE else set(before)
    assert set(tree(folder)) == left
    for name in NAMES:
        assert (out / name).stat().st_mtime_ns == 1_400_000_000_987_654_321
        assert (out / name).is_symlink() == (mode is Mode.LINK and hard_links is not None)
        if mode is Mode.LINK:
            assert (out / name).samefile(folder / name)
    assert not (out / delivery.PARTIAL).exists()


@pytest.mark.parametrize("mode", Mode)
def test_a_name_that_is_taken_stops_it_before_anything_is_done(folder: Path, tmp_path: Path, mode: Mode) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "a.jpg").write_text("mine")
    with pytest.raises(
        DeliveryError, match=r"1 of 4 names are taken in .*out, first sub/a.jpg: nothing is overwritten"
    ):
        plan(folder, out, mode, NAMES)
    shutil.rmtree(out / "sub")
    (out / "sub").write_text("a file where a folder is to be")
    with pytest.raises(DeliveryError, match="3 of 4 names"):
        plan(folder, out, mode, NAMES)
    assert tree(out) == {"sub": b"a file where a folder is to be"}


@pytest.mark.parametrize("mode", Mode)
def test_a_name_that_is_taken_meanwhile_is_left_alone(folder: Path, tmp_path: Path, mode: Mode) -> None:
    out = tmp_path / "out"
    planned = plan(folder, out, mode, NAMES)
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "a.jpg").write_text("mine")
    before = tree(folder)
    with pytest.raises(DeliveryError, match="appeared meanwhile"):
        list(delivery.deliver(planned))
    assert (out / "sub" / "a.jpg").read_text() == "mine"
    assert tree(folder)["sub/a.jpg"] == before["sub/a.jpg"]
    assert not (out / delivery.PARTIAL).exists()


@pytest.mark.parametrize("mode", Mode)
def test_one_that_was_stopped_goes_on(folder: Path, tmp_path: Path, mode: Mode) -> None:
    out, before = tmp_path / "out", tree(folder)
    steps = delivery.deliver(plan(folder, out, mode, NAMES))
    next(steps), next(steps)
    steps.close()
    (out / delivery.PARTIAL).mkdir()
    (out / delivery.PARTIAL / "copy").write_bytes(b"torn")  # as a kill leaves it
    rest = plan(folder, out, mode, NAMES, began=True)
    assert rest.left == NAMES[2:]
    assert list(delivery.deliver(rest)) == [(name, "") for name in NAMES[2:]]
    assert tree(out) == {name: before[name] for name in NAMES}
    assert plan(folder, out, mode, NAMES, began=True).left == ()


def test_a_move_that_was_stopped_between_its_two_halves(folder: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", tree(folder)
    (out / "sub").mkdir(parents=True)
    (out / "a.jpg").hardlink_to(folder / "a.jpg")
    shutil.copy2(folder / "sub" / "a.jpg", out / "sub" / "a.jpg")
    with pytest.raises(DeliveryError, match="2 of 4 names are taken"):
        plan(folder, out, Mode.MOVE, NAMES)
    assert carry_out(folder, out, Mode.MOVE, began=True) == [(name, "") for name in NAMES]
    assert tree(out) == {name: before[name] for name in NAMES}
    assert set(tree(folder)) == {"sub/not asked for.jpg"}


def test_a_move_never_takes_away_what_a_link_leads_to(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").symlink_to(folder / "a.jpg")
    with pytest.raises(DeliveryError, match="1 of 4"):
        plan(folder, out, Mode.MOVE, NAMES, began=True)


def test_a_link_is_moved_as_a_link(folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "away.jpg"
    away.write_text("away")
    (folder / "l.jpg").symlink_to("../away.jpg")
    assert list(delivery.deliver(plan(folder, tmp_path / "out", Mode.MOVE, ["l.jpg"]))) == [("l.jpg", "")]
    assert not os.path.lexists(folder / "l.jpg")
    assert (tmp_path / "out" / "l.jpg").readlink() == away
    assert away.read_text() == "away"


def test_what_is_gone_meanwhile_is_said(folder: Path, tmp_path: Path) -> None:
    planned = plan(folder, tmp_path / "out", Mode.COPY, NAMES)
    (folder / "sub" / "a.jpg").unlink()
    ended = dict(delivery.deliver(planned))
    assert ended == {**dict.fromkeys(NAMES, ""), "sub/a.jpg": "No such file or directory"}


def test_a_copy_is_another_file_than_a_link(folder: Path, tmp_path: Path) -> None:
    carry_out(folder, tmp_path / "out", Mode.LINK)
    with pytest.raises(DeliveryError, match="4 of 4"):
        plan(folder, tmp_path / "out", Mode.COPY, NAMES)


def test_too_little_space_is_said_before(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(delivery.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(DiskFull, match=r"needs \d+ bytes and its disk has 1 left; nothing was copied"):
        plan(folder, tmp_path / "out", Mode.COPY, NAMES)
    assert plan(folder, tmp_path / "out", Mode.LINK, NAMES).left == NAMES
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_nothing_torn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync: Callable[[int], None] = os.fsync
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(delivery.os, "fsync", full)
    with pytest.raises(DiskFull, match="no space left to write"):
        carry_out(folder, tmp_path / "out", Mode.COPY)
    assert set(tree(tmp_path / "out")) == set(NAMES[:2])
    monkeypatch.undo()
    assert [path for path, _ in carry_out(folder, tmp_path / "out", Mode.COPY)] == list(NAMES[2:])


def test_a_plan_survives_its_file(folder: Path, tmp_path: Path) -> None:
    odd = (*NAMES, b"\xff\n.jpg".decode("utf-8", "surrogateescape"))
    delivery.write_plan(
        tmp_path / "plan", delivery.Delivery(folder, tmp_path / "out", Mode.MOVE, odd, (), 0), "--keep 5"
    )
    assert delivery.read_plan(tmp_path / "plan") == (tmp_path / "out", "--keep 5", odd)
    assert delivery.read_plan(tmp_path / "none") is None


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_staging_folder_of_others(kind: str, folder: Path, tmp_path: Path) -> None:
    """Nothing is written or deleted through a link of that name."""
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    for one in (out, theirs):
        one.mkdir()
    (theirs / "copy").write_text("theirs")
    if kind == "link":
        (out / delivery.PARTIAL).symlink_to(theirs)
    else:
        (out / delivery.PARTIAL).write_text("theirs")
    with pytest.raises(DeliveryError, match="is no folder of this command; move it away, or give another --out"):
        carry_out(folder, out, Mode.COPY)
    assert tree(theirs) == {"copy": b"theirs"}
    assert [path.name for path in out.iterdir()] == [delivery.PARTIAL]


def test_a_copy_that_is_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "out" / delivery.PARTIAL).mkdir(parents=True)
    (tmp_path / "out" / delivery.PARTIAL / "copy").symlink_to(tmp_path / "theirs")
    assert carry_out(folder, tmp_path / "out", Mode.COPY) == [(name, "") for name in NAMES]
    assert (tmp_path / "theirs").read_text() == "theirs"
