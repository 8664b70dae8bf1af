"""Listing: everything below a folder is an image file, is listed as unusable, or is counted as skipped."""

import os
from pathlib import Path

import pytest

from celebahq_builder.errors import SourceError
from celebahq_builder.filter import listing
from celebahq_builder.outcome import Reason


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def paths(found: listing.ImageListing) -> list[str]:
    return list(found.images)


def test_images_at_any_depth_are_sorted_by_path(tmp_path: Path) -> None:
    files(tmp_path, "b.JPG", "a.png", "c/d/e.webp", "c.tiff", "ü/ñ 1.jpeg", "x.heic", "a/z.gif")
    found = listing.scan_folder(tmp_path, [])
    assert paths(found) == ["a.png", "a/z.gif", "b.JPG", "c.tiff", "c/d/e.webp", "x.heic", "ü/ñ 1.jpeg"]
    about = (tmp_path / "b.JPG").stat()
    assert found.images["b.JPG"] == (about.st_size, about.st_mtime_ns)


def test_skipped_files_are_counted(tmp_path: Path) -> None:
    files(tmp_path, "a.jpg", "n.txt", "m.TXT", "t.csv", "README", ".hidden.jpg", ".cache/b.jpg", "sub/.x.png", "jpg")
    skipped = listing.scan_folder(tmp_path, []).skipped
    assert skipped.suffixes == {".txt": 2, ".csv": 1, "": 2}
    assert skipped.hidden == 3
    assert skipped.linked_folders == skipped.excluded == []


def test_excluded_folders_may_be_written_in_any_way(tmp_path: Path) -> None:
    files(tmp_path, "a.jpg", "best/a.jpg", "sub/best/b.jpg")
    found = listing.scan_folder(tmp_path, [tmp_path / "sub" / ".." / "best", tmp_path / "none"])
    assert paths(found) == ["a.jpg", "sub/best/b.jpg"]
    assert found.skipped.excluded == ["best"]


def test_links(tmp_path: Path) -> None:
    folder, away = tmp_path / "in", tmp_path / "away"
    files(folder, "m.jpg", "sub/n.jpg")
    files(away, "o.jpg")
    (folder / "a.jpg").symlink_to("m.jpg")
    (folder / "b.jpg").symlink_to(away / "o.jpg")
    (folder / "c.jpg").symlink_to(away / "o.jpg")
    (folder / "d.jpg").symlink_to("nowhere.jpg")
    (folder / "e.jpg").symlink_to("e.jpg")
    (folder / "z.jpg").hardlink_to(folder / "m.jpg")
    (folder / "sub" / "up").symlink_to(folder)
    found = listing.scan_folder(folder, [])
    assert paths(found) == ["b.jpg", "m.jpg", "sub/n.jpg"]
    assert {one.path: (one.reason, one.detail) for one in found.unusable} == {
        "a.jpg": (Reason.SAME_FILE, "the same file as m.jpg"),
        "c.jpg": (Reason.SAME_FILE, "the same file as b.jpg"),
        "d.jpg": (Reason.UNREADABLE, "a broken link: No such file or directory"),
        "e.jpg": (Reason.UNREADABLE, "a broken link: Too many levels of symbolic links"),
        "z.jpg": (Reason.SAME_FILE, "the same file as m.jpg"),
    }
    assert found.skipped.linked_folders == ["sub/up"]


def test_a_pipe_is_unusable(tmp_path: Path) -> None:
    files(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    found = listing.scan_folder(tmp_path, [])
    assert paths(found) == ["a.jpg"]
    assert [(one.path, one.detail) for one in found.unusable] == [("b.jpg", "not a regular file")]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_folder_without_read_permission(tmp_path: Path) -> None:
    files(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    found = listing.scan_folder(tmp_path, [])
    (tmp_path / "closed").chmod(0o700)
    assert [(one.path, one.detail) for one in found.unusable] == [("closed/", "folder: Permission denied")]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path == tmp_path / "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refusing)
    found = listing.scan_folder(tmp_path, [])
    assert paths(found) == ["a.jpg"]
    assert [(one.path, one.detail) for one in found.unusable] == [("closed/", "folder: Permission denied")]
    with pytest.raises(SourceError, match="cannot be read: Permission denied"):
        listing.scan_folder(tmp_path / "closed", [])
