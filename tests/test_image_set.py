"""Image files of a folder, and links to folders."""

from pathlib import Path

import pytest

from celebahq_builder.image_set import is_hidden, list_folder, list_images


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "._a.png",
        ".a.png",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/b/._a.png",
        "Thumbs.db",
        "@eaDir/a.png/thumb.jpg",
        "$RECYCLE.BIN/a.png",
        "lost+found/a.png",
        "#recycle/a.png",
        "@__thumb/a.png",
    ],
)
def test_hidden_and_system_files_are_no_images(name: str, tmp_path: Path) -> None:
    assert is_hidden(name)
    listing = list_folder(made(tmp_path, name, "b/c.PNG"))
    assert listing.images == ["b/c.PNG"]
    assert listing.others == []


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    made(tmp_path, "a.png", ".b.png", ".git/c.png", "d.txt", "e\x1b.TXT", "no-ending")
    remarks = list(list_folder(tmp_path).remarks())
    assert remarks == [
        "passed over 2 hidden or system files, such as .b.png",
        "ignored 3 files whose names are not those of images: 2 .txt, 1 no ending",
    ]


def test_sorted_by_parts_of_the_path(tmp_path: Path) -> None:
    assert list_folder(made(tmp_path, "a-b/c.png", "a/d.png", "b.jfif", "c.avif")).images == [
        "a/d.png",
        "a-b/c.png",
        "b.jfif",
        "c.avif",
    ]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    """Real folders come first, so a link never takes files from the folder that it leads to."""
    made(tmp_path / "far", "x.png", "deep/y.png")
    folder = made(tmp_path / "set", "b/a.png")
    (folder / "a").symlink_to(tmp_path / "far")
    (folder / "0").symlink_to(folder / "b")
    (folder / "b" / "loop").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (folder / "broken.png").symlink_to("missing.png")
    listing = list_folder(folder)
    assert listing.images == ["a/deep/y.png", "a/x.png", "b/a.png", "broken.png"]
    assert listing.followed == ["a"]
    assert sorted(listing.links) == ["0", "b/loop"]
    assert "read 1 linked folder: a" in list(listing.remarks())


def test_run_directories_are_no_photos(tmp_path: Path) -> None:
    made(tmp_path, "a.jpg", "run/run.json", "run/stages/align/b.png")
    assert list_images(tmp_path) == ["a.jpg"]
