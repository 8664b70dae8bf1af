"""``extract``, ``compare``, ``inspect``, ``view`` and ``audit`` as a user types them."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from celebahq_builder import progress
from celebahq_builder.__main__ import main
from celebahq_builder.inspect import contact_sheet
from tests.hdf5.files import Images, damage, hashes, noise, store


@pytest.fixture
def celebahq(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command; return exit code, stdout and stderr. Its errors end where a terminal would see them."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["celebahq", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def images() -> Images:
    return noise(12, 16)


@pytest.fixture
def ours(tmp_path: Path, images: Images) -> Path:
    ids = [f"{i * 7:06d}" for i in range(12)]
    columns = {"id": ids, "file": [f"{one}.jpg" for one in ids], "score": np.linspace(1, 0, 12)}
    return store(tmp_path / "ours.h5", images, sha256=hashes(images), **columns)


@pytest.fixture
def theirs(tmp_path: Path, images: Images) -> Path:
    """As the ProGAN authors' tool writes it: levels, nothing else."""
    return store(tmp_path / "theirs.h5", images)


# --- Sound files --------------------------------------------------------------------------------------------------


def test_extract(celebahq, ours: Path, tmp_path: Path, images: Images) -> None:
    out = tmp_path / "out"
    code, told, err = celebahq(
        "extract", ours, "--index", "10:,0", "--id", "000007", "--id", "000021.jpg", "--out", out
    )
    assert (code, err) == (0, "")
    names = {"00010.png": "000070", "00011.png": "000077", "00000.png": "000000", "00001.png": "000007"}
    names["00003.png"] = "000021"
    assert told.splitlines() == [
        *(f"{out / file}  {name}" for file, name in names.items()),
        "5 of 12 images",
        f"images: {out}",
    ]
    assert {one.name for one in out.iterdir()} == set(names)
    for file in names:
        with Image.open(out / file) as image:
            np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), images[int(file[:5])])


def test_extract_from_levels_alone_and_grey(celebahq, theirs: Path, tmp_path: Path) -> None:
    code, told, _ = celebahq("extract", theirs, "--index", "-1", "--out", tmp_path / "a", "--resolution", "4")
    assert (code, told.splitlines()[0]) == (0, str(tmp_path / "a" / "00011.png"))
    code, told, _ = celebahq("extract", theirs, "--out", tmp_path / "all")
    assert told.splitlines() == ["12 of 12 images", f"images: {tmp_path / 'all'}"]
    assert len(list((tmp_path / "all").glob("*.png"))) == 12
    grey = store(tmp_path / "grey.h5", noise(2, 4, channels=1))
    assert celebahq("extract", grey, "--index", ":", "--out", tmp_path / "b")[0] == 0
    with Image.open(tmp_path / "b" / "00001.png") as image:
        assert image.mode == "L"


def test_compare(celebahq, ours: Path, theirs: Path, tmp_path: Path, images: Images) -> None:
    code, told, err = celebahq("compare", ours, ours)
    assert (code, err, told.splitlines()[-1]) == (
        0,
        "",
        "equal: 12 images, 12 of them by their recorded SHA-256 (--full reads them)",
    )
    assert "12 pairs not read" in told
    code, told, _ = celebahq("compare", ours, theirs)
    assert (code, told.splitlines()[-1]) == (0, "equal: 12 images")
    assert "not read" not in told
    with h5py.File(theirs, "r+") as file:
        file["data16x16"][5, 0, 0, 0] ^= 255
    code, told, err = celebahq("compare", ours, theirs, "--worst", "1")
    assert (code, err, told.splitlines()[-1]) == (1, "", "different: 1 of 12 pairs differ")
    assert "worst 1" in told
    assert celebahq("compare", ours, theirs, "--resolution", "8")[0] == 0
    assert celebahq("compare", ours, theirs, "--by", "position", "--full")[0] == 1
    fewer = store(tmp_path / "fewer.h5", images[:7])
    assert celebahq("compare", theirs, fewer)[0] == 1


def test_inspect(celebahq, ours: Path, theirs: Path) -> None:
    code, told, _ = celebahq("inspect", ours)
    assert code == 0
    assert "scores: 0.0000 to 1.0000, median 0.5000" in told
    assert "####" in told
    assert celebahq("inspect", theirs)[0] == 0


def test_view(celebahq, ours: Path, theirs: Path, tmp_path: Path) -> None:
    said = {}
    for name, more in {
        "first": [],
        "index": ["--index", "3,1"],
        "id": ["--id", "000007"],
        "random": ["--random", "--grid", "2x2"],
        "again": ["--random", "--grid", "2x2", "--seed", "0"],
        "other": ["--random", "--grid", "2x2", "--seed", "1"],
        "best": ["--best", "--grid", "3X1"],
        "worst": ["--worst", "--grid", "3x1", "--level", "4"],
        "both": ["--best", "--worst", "--grid", "2x1", "--no-captions"],
        "too many": ["--index", ":", "--grid", "5x1"],
    }.items():
        code, said[name], err = celebahq("view", ours, "--out", tmp_path / f"{name}.png", *more)
        assert (code, err) == (0, "")
    assert {name: lines.splitlines()[-1] for name, lines in said.items()} == {
        name: f"image: {tmp_path / name}.png" for name in said
    }
    shown = {name: lines.splitlines()[:-1] for name, lines in said.items()}
    assert shown["first"] == ["12 of 12 images at 16x16"]
    assert shown["index"] == ["2 of 12 images at 16x16"]
    assert shown["worst"] == ["3 of 12 images at 4x4"]
    assert shown["too many"][0] == "5 of 12 images at 16x16"
    assert shown["too many"][1] == "7 more do not fit; choose them by --index, or give a larger --grid"
    sheets = {name: (tmp_path / f"{name}.png").read_bytes() for name in said}
    assert sheets["random"] == sheets["again"] != sheets["other"]
    for name, same in {"best": "0,1,2", "worst": "9,10,11", "both": "0,11", "id": "1"}.items():
        more = {"worst": ["--level", "4"], "both": ["--no-captions"]}.get(name, [])
        out = tmp_path / f"{name}-by-index.png"
        assert celebahq("view", ours, "--out", out, "--index", same, *more)[0] == 0
        assert out.read_bytes() == sheets[name]
    for name, more in {"grid": ["--grid", "3x2"], "plain": ["--no-captions"], "page": []}.items():
        assert celebahq("view", ours, "--out", tmp_path / f"{name}.html", *more)[0] == 0
    pages = {name: (tmp_path / f"{name}.html").read_text("utf-8") for name in ("grid", "plain", "page")}
    assert {name: text.count("<figure>") for name, text in pages.items()} == {"grid": 6, "plain": 12, "page": 12}
    assert {name: "repeat(3, " in text for name, text in pages.items()} == {"grid": True, "plain": False, "page": False}
    assert {name: "<figcaption" in text for name, text in pages.items()} == {"grid": True, "plain": False, "page": True}
    for name in ("theirs.jpg", "theirs.html"):
        assert celebahq("view", theirs, "--out", tmp_path / name)[0] == 0
        assert (tmp_path / name).stat().st_size > 1000


def test_view_without_out(celebahq, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    pages = []
    for _ in range(2):
        code, told, _ = celebahq("view", ours)
        assert code == 0
        pages.append(Path(told.splitlines()[-1].removeprefix("page: ")))
    assert pages[0] != pages[1]
    assert [page.name for page in pages] == ["ours.html", "ours.html"]
    assert all(page.is_relative_to(tmp_path / "temporary") for page in pages)
    assert pages[0].read_text().count("<figure>") == 12
    monkeypatch.setattr(contact_sheet, "IMAGES_MAX", 5)
    told = celebahq("view", ours)[1].splitlines()
    assert told[0] == "5 of 12 images at 16x16"
    assert told[1].startswith("7 more do not fit")


def test_start_without_torch(ours: Path, tmp_path: Path) -> None:
    """It takes seconds to import, more than these commands take; all of them run in one process, one after another."""
    shutil.copy(ours, tmp_path / "back.h5")
    missing, fine = tmp_path / "missing.h5", 0
    commands = (
        (["evaluate", missing, "--metrics", "fid"], 1),
        (["audit", missing, "--out", tmp_path / "audit"], 1),
        (["evaluate", ours, "--against", missing, "--metrics", "swd"], 1),
        (["inspect", missing], 1),
        (["inspect", ours], fine),
        (["verify", ours], fine),
        (["compare", ours, tmp_path / "back.h5"], fine),
        (["extract", ours, "--index", "0", "--out", tmp_path / "out"], fine),
        (["view", ours, "--out", tmp_path / "a.png"], fine),
        (["view", ours, "--out", tmp_path / "a.html"], fine),
        (["import", ours, "--out", tmp_path / "imported.h5", "--workers", "1"], fine),
        (["export", ours, "--to", "images", "--out", tmp_path / "images", "--workers", "1"], fine),
    )
    program = (
        "import sys\nfrom celebahq_builder.__main__ import main\n"
        f"for arguments in {[list(map(str, arguments)) for arguments, _ in commands]!r}:\n"
        "    sys.argv = ['celebahq', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit as end: print(f'ended with {end.code}:', 'torch' in sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    said = [line for line in ended.stderr.splitlines() if line.startswith("ended with")]
    assert said == [f"ended with {code}: False" for _, code in commands], ended.stderr


def test_audit(celebahq, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes to the current folder, wherever the file is, and overwrites nothing but an audit of this file."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    code, told, err = celebahq("audit", ours)
    assert (code, err) == (0, "")
    made = here / "ours-audit"
    assert told.splitlines()[-2:] == [f"findings: {made / 'audit.json'}", f"page: {made / 'index.html'}"]
    assert sorted(one.name for one in made.iterdir()) == ["audit.json", "index.html"]
    (made / "index.html").write_text("old")
    assert celebahq("audit", ours)[0] == 0
    assert "old" not in (made / "index.html").read_text().splitlines()
    (tmp_path / "other").mkdir()
    other = shutil.copy(ours, tmp_path / "other")
    before = [path.read_bytes() for path in sorted(made.iterdir())]
    check_line(celebahq("audit", other), 1, f"ours-audit holds the audit of {ours}; choose another --out")
    assert [path.read_bytes() for path in sorted(made.iterdir())] == before
    shutil.rmtree(tmp_path / "other")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["here", "ours.h5"]


def test_the_former_option_of_evaluate_names_the_command(celebahq, ours: Path) -> None:
    code, told, err = celebahq("evaluate", ours, "--audit")
    assert (code, told, err.splitlines()[-1]) == (
        2,
        "",
        "Error: --audit is a command of its own now: celebahq audit FILE.h5",
    )


def test_progress(
    celebahq, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all images that are read, where that takes longer than a moment."""
    monkeypatch.setattr(progress, "MOMENT_S", 0.0)
    caplog.set_level("INFO")
    for arguments, said in [
        (["extract", theirs, "--index", ":7", "--out", tmp_path / "out"], ["extract: 7 of 7 images"]),
        (["view", theirs, "--out", tmp_path / "a.png"], ["view: 12 of 12 images"]),
        (["view", theirs, "--out", tmp_path / "a.html"], ["view: 12 of 12 images"]),
        (["compare", theirs, theirs], [f"compare {r}x{r}: 12 of 12 images" for r in (16, 8, 4, 2, 1)]),
    ]:
        caplog.clear()
        assert celebahq(*arguments)[0] == 0
        assert [line.partition(",")[0] for line in caplog.messages] == said


# --- All others -----------------------------------------------------------------------------------------------------


def damaged(kind: str, at: Path) -> Path:
    """Make a file that none of the commands can use."""
    path = at / f"{kind}.h5"
    if kind == "text":
        path.write_text("no HDF5")
    elif kind == "truncated":
        whole = store(path, noise(9, 16)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "no levels":
        with h5py.File(path, "w") as file:
            file["images"] = noise(2, 4)
    elif kind == "floats":
        with h5py.File(path, "w") as file:
            for r in (4, 2, 1):
                file[f"data{r}x{r}"] = np.zeros((2, 3, r, r), np.float32)
    elif kind == "lengths":
        with h5py.File(path, "w") as file:
            for r in (4, 2, 1):
                file[f"data{r}x{r}"] = noise(r, r)
    elif kind == "flat":
        with h5py.File(path, "w") as file:
            file["data2x2"], file["data1x1"] = np.zeros((2, 12), np.uint8), np.zeros((2, 3), np.uint8)
    elif kind == "empty":
        store(path, noise(0, 4))
    elif kind == "folder":
        path.mkdir()
    return path


BROKEN = ("text", "truncated", "no levels", "floats", "lengths", "flat", "empty", "folder", "nothing")


def check_line(result: tuple[int, str, str], code: int, *parts: str) -> None:
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].count("\n") == 1, result[2]
    assert result[2].startswith("error: ")
    for part in parts:
        assert part in result[2]


@pytest.mark.parametrize("kind", BROKEN)
def test_files_that_cannot_be_used(kind: str, celebahq, theirs: Path, tmp_path: Path) -> None:
    path = damaged(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    check_line(celebahq("extract", path, "--index", ":", "--out", tmp_path / "out"), 1, str(path))
    check_line(celebahq("view", path, "--out", tmp_path / "sheet.png"), 1, str(path))
    check_line(celebahq("view", path, "--out", tmp_path / "sheet.html"), 1, str(path))
    check_line(celebahq("compare", path, theirs), 2, str(path))
    check_line(celebahq("compare", theirs, path), 2, str(path))
    if kind in ("text", "truncated", "no levels", "nothing", "folder"):
        check_line(celebahq("inspect", path), 1, str(path))
    else:  # it says what there is, wrong or not
        code, told, err = celebahq("inspect", path)
        assert (code, str(path) in told + err) == (bool(err), True)
    assert sorted(tmp_path.iterdir()) == before


def test_options_that_cannot_be(celebahq, ours: Path, theirs: Path, tmp_path: Path) -> None:
    out, png = ["--out", tmp_path / "out"], ["--out", tmp_path / "sheet.png"]
    (tmp_path / "taken.png").write_text("mine")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "00002.png").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for arguments, part in [
        (["extract", ours, *out, "--index", "12"], "no image 12; the file has 12: 0 to 11, or -1 to -12"),
        (["extract", ours, *out, "--id", "nobody"], "no image of the id or source file nobody"),
        (["extract", theirs, *out, "--id", "000007"], "has no ids or source files"),
        (["extract", ours, *out, "--index", "0", "--resolution", "32"], "no level 32x32; it has 16, 8, 4, 2, 1"),
        (
            ["extract", ours, "--index", "1:4", "--out", tmp_path / "taken"],
            "00002.png exists with other contents; nothing is overwritten",
        ),
        (["view", ours, "--out", tmp_path / "taken.png"], "taken.png exists and is not overwritten"),
        (["view", ours, "--out", tmp_path / "sheet.gif"], "ends in .png, .jpg, .jpeg or .html"),
        (["view", ours, *png, "--grid", "8"], "--grid 8: expected columns x rows, such as 8x5"),
        (["view", ours, *png, "--grid", "0x5"], "--grid 0x5: expected columns x rows"),
        (["view", ours, *png, "--resolution", "32"], "no level 32x32"),
        (["view", ours, *png, "--random", "--best"], "exclude each other"),
        (["view", ours, *png, "--random", "--index", "1"], "exclude each other"),
        (["view", ours, *png, "--worst", "--id", "000007"], "exclude each other"),
        (["view", theirs, *png, "--best"], "has no scores"),
    ]:
        check_line(celebahq(*arguments), 1, part)
    check_line(celebahq("compare", ours, theirs, "--by", "id"), 2, "cannot be matched by id")
    check_line(celebahq("compare", ours, theirs, "--resolution", "32"), 2, "no level 32x32")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken.png").read_text() == "mine"


def test_damaged_images(celebahq, ours: Path, theirs: Path, tmp_path: Path) -> None:
    damage(theirs, 16, 5)
    check_line(celebahq("extract", theirs, "--index", ":", "--out", tmp_path / "out"), 1, "image 5 of data16x16")
    check_line(celebahq("view", theirs, "--out", tmp_path / "new" / "a.png"), 1, "image 5 of data16x16")
    check_line(celebahq("compare", ours, theirs), 2, "image 5 of data16x16 cannot be read")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ours.h5", "theirs.h5"]
    assert celebahq("extract", theirs, "--index", "0:5", "--out", tmp_path / "out")[0] == 0


def test_columns_that_do_not_fit(celebahq, ours: Path, tmp_path: Path) -> None:
    with h5py.File(ours, "r+") as file:
        del file["photos/score"]
        file["photos/score"] = np.zeros(11)
    check_line(celebahq("view", ours, "--out", tmp_path / "a.png"), 1, "photos/score has 11 rows, expected 12")
    with h5py.File(ours, "r+") as file:
        del file["photos/score"]
        file.create_dataset("photos/score", data=["high"] * 12, dtype=h5py.string_dtype())
    check_line(celebahq("view", ours, "--out", tmp_path / "a.png"), 1, "photos/score holds no numbers")


def test_blosc2(tmp_path: Path) -> None:
    """Its package is loaded where a file needs it, and named where it is missing; each in a process of its own."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for r in (4, 2, 1):
            file.create_dataset(f"data{r}x{r}", data=noise(2, r), chunks=(1, 3, r, r), **hdf5plugin.Blosc2())
    arguments = ["celebahq", "extract", str(path), "--index", "1", "--out", str(tmp_path / "out")]
    missing = "import sys; sys.modules['hdf5plugin'] = None; "
    for before, code, said in (
        (missing, 1, "pip install '.[blosc2]' in the folder of the project"),
        ("import sys; ", 0, ""),
    ):
        program = f"{before}sys.argv = {arguments!r}; from celebahq_builder.__main__ import main; main()"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stderr.count("\n")) == (code, int(bool(said))), ended.stderr
        assert said in ended.stderr
        assert (tmp_path / "out").exists() == (not said)
    with Image.open(tmp_path / "out" / "00001.png") as image:
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), noise(2, 4)[1])


def test_real_images(celebahq, shared: Path, tmp_path: Path) -> None:
    """CelebA-HQ at 1024: what comes out of the file is what went in, through the file's whole size."""
    files = sorted((shared / "data" / "celebahq_1024").rglob("*.jpg"))[:2]
    if not files:
        pytest.skip(f"no CelebA-HQ images in {shared / 'data' / 'celebahq_1024'}")
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    path = tmp_path / "real.h5"
    with h5py.File(path, "w") as file:
        for r in [1024 >> k for k in range(11)]:
            step = 1024 // r
            level = np.stack([pixels[:, ::step, ::step] for pixels in images])
            file.create_dataset(f"data{r}x{r}", data=level, chunks=(1, 3, r, r), compression="gzip", compression_opts=1)
    assert celebahq("extract", path, "--index", "1", "--out", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "00001.png") as image:
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), images[1])
    assert celebahq("compare", path, path)[0] == 0
    assert celebahq("view", path, "--out", tmp_path / "a.png")[1].startswith("2 of 2 images at 256x256\n")
