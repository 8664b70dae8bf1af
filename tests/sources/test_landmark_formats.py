"""Tables that other programs write: 68 points as CSV and .pts files, FFHQ's metadata, faces of five points as JSON."""

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import SourceError
from celebahq_builder.limits import MAX_JSON_ENTRY_CHARACTERS, MAX_LANDMARK_JSON_BYTES
from celebahq_builder.outcome import Reason
from celebahq_builder.sources import landmark_json
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.landmark_json import _entries
from celebahq_builder.sources.photo import COLUMNS, PhotoSource, five_points, is_mirrored
from tests.sources.tree import FACE, reasons

KPS = np.reshape(FACE, (5, 2)).tolist()


def points_of(face: Sequence[float] = FACE) -> np.ndarray:
    """Return 68 points [68, 2] of a face: six around each eye, the nose and the corners of the mouth where they are."""
    points = np.random.default_rng(0).uniform(20, 90, (68, 2)).round(2)
    circle = np.array([(-6, 0), (-3, -2), (3, -2), (6, 0), (3, 2), (-3, 2)])
    five = np.reshape(face, (5, 2))
    points[36:42], points[42:48] = five[0] + circle, five[1] + circle
    points[30], points[48], points[54] = five[2:]
    return points


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def read(folder: Path, content: object) -> PhotoSource:
    """Read a table of some JSON value, or of some text."""
    table = folder.parent / "table"
    table.write_bytes(content.encode() if isinstance(content, str) else json.dumps(content).encode())
    return read_folder(folder, table)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos", "a.jpg", "b.jpg")


# --- 68 points --------------------------------------------------------------------------------------------------


def test_reduction_is_that_of_ffhq() -> None:
    """As recreate_aligned_images of ffhq-dataset takes them apart; the left eye is that on the left of the image."""
    points = np.random.default_rng(1).normal(50, 20, (68, 2))
    outer = points[48:60]
    expected = [points[36:42].mean(0), points[42:48].mean(0), points[27:31][3], outer[0], outer[6]]
    np.testing.assert_allclose(five_points(points.ravel().tolist()), np.ravel(expected), rtol=1e-12)
    assert not is_mirrored(five_points(points_of().ravel().tolist()))


def csv_68(names: Sequence[str], face: np.ndarray, file: str = "a.jpg", separator: str = ",") -> str:
    """Return a table of one row; the names tell the axis by their first letter and the point by their number."""
    values = {f"{axis}{point}": face[point, i] for point in range(68) for i, axis in enumerate("xy")}
    cells = [str(values[name.strip().replace("_", "")]) for name in names]
    return f"file{separator}{separator.join(names)}\n{file}{separator}{separator.join(cells)}\n"


OPENFACE = [f" {axis}_{point}" for axis in "xy" for point in range(68)]
PAIRS = [f"{axis}{point}" for point in range(68) for axis in "xy"]


@pytest.mark.parametrize("names", [OPENFACE, PAIRS, PAIRS[::-1]])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_68_points(names: Sequence[str], separator: str, folder: Path) -> None:
    source = read(folder, csv_68(names, points_of(), separator=separator))
    assert [photo.file for photo in source.photos] == ["a.jpg"]
    np.testing.assert_allclose(source.photos[0].landmarks, FACE, rtol=1e-12)
    assert reasons(source) == [("b.jpg", Reason.NOT_LISTED)]


def test_other_columns_of_openface_are_ignored(folder: Path) -> None:
    head, row = csv_68(OPENFACE, points_of()).splitlines()
    more = [f"{name}_{i}" for name in ("X", "Y", "Z", "eye_lmk_x") for i in range(68)]
    text = f"confidence, {head}, {', '.join(more)}\n0.98, {row}, {', '.join('7' * len(more))}\n"
    assert read(folder, text).photos[0].landmarks[:2] == pytest.approx(FACE[:2])


@pytest.mark.parametrize(("bad", "said"), [("x", "x of point 3 is x, not a number"), ("inf", "is inf, not a number")])
def test_csv_of_68_points_with_a_bad_row(bad: str, said: str, folder: Path) -> None:
    head, row = csv_68(PAIRS, points_of()).splitlines()
    cells = row.split(",")
    cells[1 + 2 * 3] = bad
    source = read(folder, "\n".join((head, row, ",".join(cells).replace("a.jpg", "b.jpg"), "b.jpg,1,2")))
    assert [photo.file for photo in source.photos] == ["a.jpg"]
    assert reasons(source) == [("b.jpg", Reason.BAD_ROW)] * 2
    assert said in source.rejected[0].detail
    assert source.rejected[1].detail == "table:4: expected 136 landmark numbers, got 2"


def test_csv_that_lacks_a_point(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"column lefteye_x is missing; .*\(or file, x_0, y_0, .* docs/landmarks\.md"):
        read(folder, csv_68(PAIRS[:-1], points_of()))


def test_pandas_writes_an_index(folder: Path) -> None:
    text = f",file,{','.join(COLUMNS)}\n0,a.jpg,{','.join(map(str, FACE))}\n1,b.jpg,{','.join(map(str, FACE))}\n"
    source = read(folder, text)
    assert [photo.landmarks for photo in source.photos] == [FACE, FACE]
    assert source.rejected == ()


# --- .pts files -------------------------------------------------------------------------------------------------


def pts(points: np.ndarray) -> str:
    """Return a file as iBUG writes it; its coordinates count from 1."""
    lines = "\n".join(f"{x:.6f} {y:.6f}" for x, y in points + 1)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{lines}\n}}\n"


def test_pts_files_beside_the_photos(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "sub/b.PNG", "c.jpg")
    for name in ("a", "sub/b"):
        (tmp_path / f"{name}.pts").write_text(pts(points_of()))
    source = read_folder(tmp_path, tmp_path)
    assert [photo.file for photo in source.photos] == ["a.jpg", "sub/b.PNG"]
    for photo in source.photos:
        np.testing.assert_allclose(photo.landmarks, FACE, rtol=1e-9)
    assert reasons(source) == [("c.jpg", Reason.NOT_LISTED)]


def test_pts_files_in_a_folder_of_their_own(folder: Path, tmp_path: Path) -> None:
    photos(folder, "b.png", "caf\u00e9.jpg")
    table = photos(tmp_path / "points", "note.txt") / "x"
    for name in ("a", "b", "gone", "cafe\u0301"):
        table.with_name(f"{name}.pts").write_text(pts(points_of()))
    source = read_folder(folder, tmp_path / "points")
    assert [photo.file for photo in source.photos] == ["a.jpg", "caf\u00e9.jpg"]
    assert reasons(source) == [("b.jpg", Reason.BAD_ROW), ("b.png", Reason.BAD_ROW), ("gone.pts", Reason.FILE_MISSING)]
    assert source.rejected[0].detail == "b.pts may belong to b.jpg or b.png; keep one of them"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the lines version, n_points"),
        ("n_points: 68\n{\n1 2\n", "expected the lines version, n_points"),
        ("version: 1\nn_points: 29\n{\n}\n", "expected 68 points in the order of iBUG, got n_points 29"),
        ("version: 1\nn_points: 68\n{\n1 2\n3\n}\n", "expected 136 numbers in braces, got 3"),
        (f"n_points: 68\n{{{'nan 1 ' * 68}}}", "x of point 0 is nan, not a number"),
        ("{" * 60_000, "expected the lines"),
        ("version: " + "1 " * 30_000, "expected the lines"),
        ("x" * 70_000, "it cannot be read: 70000 bytes; at most 65536 are read"),
        (b"\xff\xfe", "it is not a text in UTF-8"),
    ],
)
def test_pts_files_that_are_none(text: str | bytes, said: str, folder: Path) -> None:
    (folder / "a.pts").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SourceError, match=re.escape(f"no .pts file can be used, first a.pts: {said}")):
        read_folder(folder, folder)
    (folder / "b.pts").write_text(pts(points_of()))
    source = read_folder(folder, folder)
    assert [photo.file for photo in source.photos] == ["b.jpg"]
    assert reasons(source) == [("a.jpg", Reason.BAD_ROW)]
    assert source.rejected[0].detail.startswith(f"photos: a.pts: {said}")


def test_folders_that_are_no_table(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"photos is a folder without \.pts files; expected a CSV table, a folder"):
        read_folder(folder, folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "a.pts").write_text(pts(points_of()))
    with pytest.raises(SourceError, match=r"none of the 1 \.pts files .* the first is sub/a\.pts"):
        read_folder(folder, folder)
    (tmp_path / "one.pts").write_text(pts(points_of()))
    with pytest.raises(SourceError, match=r"this looks like a \.pts file: give the folder of these files"):
        read_folder(folder, tmp_path / "one.pts")


# --- FFHQ -------------------------------------------------------------------------------------------------------


def ffhq_entry(number: int, category: str) -> dict[str, object]:
    wild = f"in-the-wild-images/00000/{number:05d}.png"
    return {
        "category": category,
        "metadata": {"photo_url": "https://example.org", "author": "é"},
        "image": {"file_path": f"images1024x1024/00000/{number:05d}.png", "face_landmarks": [[0.5, 0.5]] * 68},
        "thumbnail": {},
        "in_the_wild": {
            "file_path": wild,
            "pixel_size": [100, 100],
            "face_rect": [1, 2, 3, 4],
            "face_landmarks": points_of().tolist(),
            "face_quad": [[0, 0]] * 4,
        },
    }


@pytest.mark.parametrize("whole", [False, True])
def test_metadata_of_ffhq(whole: bool, tmp_path: Path) -> None:
    root = tmp_path / "ffhq"
    photos(root / "in-the-wild-images", "00000/00000.png", "00000/00001.png")
    data = {"0": ffhq_entry(0, "training"), "1": ffhq_entry(1, "validation")}
    source = read(root if whole else root / "in-the-wild-images", data)
    prefix = "in-the-wild-images/" if whole else ""
    assert [photo.file for photo in source.photos] == [f"{prefix}00000/0000{i}.png" for i in range(2)]
    assert [(photo.id, photo.split) for photo in source.photos] == [("00000", "train"), ("00001", "val")]
    np.testing.assert_allclose([photo.landmarks for photo in source.photos], [FACE, FACE], rtol=1e-12)
    assert source.rejected == ()


# --- Faces of five points ---------------------------------------------------------------------------------------


def named_face(viewer: bool) -> dict[str, object]:
    """Return a face as the package retinaface returns it, with names of the viewer's or of the person's sides."""
    left, right = ("left", "right") if viewer else ("right", "left")
    names = (f"{left}_eye", f"{right}_eye", "nose", f"mouth_{left}", f"mouth_{right}")
    return {"score": 0.99, "facial_area": [1, 2, 3, 4], "landmarks": dict(zip(names, KPS, strict=True))}


@pytest.mark.parametrize("viewer", [False, True])
def test_faces_of_retinaface(viewer: bool, folder: Path) -> None:
    """The geometry of the faces decides whether names such as left_eye mean the viewer's or the person's side."""
    moved = named_face(viewer)
    moved["landmarks"] = {name: [x + 100, y] for name, (x, y) in dict(moved["landmarks"]).items()}  # type: ignore[call-overload]
    source = read(folder, {"a.jpg": {"face_1": moved, "face_2": named_face(viewer)}, "b.jpg": {}})
    assert [(photo.id, photo.landmarks[0]) for photo in source.photos] == [("a_0", 30), ("a_1", 130)]
    assert source.photos[0].landmarks == FACE
    assert reasons(source) == [("b.jpg", Reason.NOT_LISTED)]
    assert source.rejected[0].detail == "table: entry 2 lists no face"


def test_a_single_mirrored_face_stays_mirrored(folder: Path) -> None:
    faces = {f"{i}.jpg": {"face_1": named_face(viewer=i == 1)} for i in range(5)}
    assert [is_mirrored(photo.landmarks) for photo in read(folder, faces).photos] == [i == 1 for i in range(5)]


KPS_FACE = {"bbox": [1.0, 2.0, 3.0, 4.0], "kps": KPS, "det_score": 0.9, "landmark_3d_68": [[1, 2, 3]] * 68}
MOVED = [[x + 100, y] for x, y in KPS]


@pytest.mark.parametrize(
    "data",
    [
        {"a.jpg": [KPS_FACE, {**KPS_FACE, "kps": MOVED}]},
        {"./a.jpg": [KPS, MOVED]},
        [{"file": "a.jpg", "faces": [KPS_FACE, {"kps": MOVED}]}],
        [{"file": "a.jpg", "kps": KPS}, {"file": "a.jpg", **KPS_FACE, "kps": MOVED}],
        {"a.jpg": [{"landmarks": points_of().tolist()}, {"landmarks": MOVED}]},
        {"a.jpg": [{"box": [1, 2, 3, 4], "keypoints": named_face(viewer=True)["landmarks"]}, {"kps": MOVED}]},
    ],
)
def test_faces_of_insightface_and_others(data: object, folder: Path) -> None:
    source = read(folder, data)
    assert [(photo.file, photo.id) for photo in source.photos] == [("a.jpg", "a_0"), ("a.jpg", "a_1")]
    np.testing.assert_allclose([photo.landmarks for photo in source.photos], [FACE, np.ravel(MOVED)])
    assert reasons(source) == [("b.jpg", Reason.NOT_LISTED)]


@pytest.mark.parametrize("face", [KPS_FACE, KPS, {"face_1": named_face(viewer=False)}])
def test_one_face_need_not_be_a_list(face: object, folder: Path) -> None:
    source = read(folder, "\ufeff \n" + json.dumps({"a.jpg": face}))
    assert [(photo.id, photo.landmarks) for photo in source.photos] == [("a", FACE)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"a.jpg": [{"box": 1}]}, "entry 1: expected a face with kps, face_landmarks, landmarks, keypoints, got box"),
        ({"a.jpg": [{"kps": KPS[:4]}]}, "expected 5 or 68 points [x, y], got 4"),
        ({"a.jpg": [{"kps": None}]}, "expected 5 or 68 points [x, y], got nothing"),
        ({"a.jpg": [{"kps": [*KPS[:4], [1, 2, 3]]}]}, "point 4 is [1, 2, 3], expected two numbers [x, y]"),
        ({"a.jpg": [{"kps": [*KPS[:4], [True, "2"]]}]}, "point 4 is [True, '2'], expected two numbers"),
        ({"a.jpg": {"face_1": {"landmarks": {"left_eye": [1, 2]}}}}, "names left_eye, right_eye, nose"),
        ({"a.jpg": 5}, "expected a list of faces, got a number"),
        ({"a.jpg": None}, "expected a list of faces, got nothing"),
        ([{"name": "a.jpg", "kps": KPS}], "expected the name of a file, got nothing"),
        ([KPS], "expected an object with file and kps, got a list"),
        ([[]], "expected an object with file and kps, got a list"),
        ({"0": {"in_the_wild": {"file_path": 7}}}, "expected the name of a file, got a number"),
        ({"\ud800.jpg": [KPS_FACE]}, r"the file name \ud800.jpg is not valid Unicode"),
        ({}, "it is empty"),
        ([], "it is empty"),
    ],
)
def test_json_that_lists_no_faces(entry: object, said: str, folder: Path) -> None:
    with pytest.raises(SourceError, match=re.escape(said)) as caught:
        read(folder, entry)
    assert "expected a CSV table, a folder of .pts files, ffhq-dataset-v2.json" in str(caught.value)
    if entry:  # beside a good entry, it is a bad row
        good = {"b.jpg": KPS_FACE} if isinstance(entry, dict) else [{"file": "b.jpg", "kps": KPS}]
        both = {**entry, **good} if isinstance(entry, dict) and isinstance(good, dict) else [*entry, *good]  # type: ignore[misc]
        source = read(folder, both)
        assert [photo.file for photo in source.photos] == ["b.jpg"]
        assert Reason.BAD_ROW in [one.reason for one in source.rejected]


def test_json_of_photos_without_faces_only(folder: Path) -> None:
    with pytest.raises(SourceError, match="none of its 2 entries lists a face"):
        read(folder, {"a.jpg": [], "b.jpg": {}})


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "nan, not a number"), (1e300, "not a position in px"), (10**400, "position|not a")],
)
def test_numbers_that_are_no_positions(value: float, said: str, folder: Path) -> None:
    source = read(folder, {"a.jpg": {"kps": [[value, 40.0], *KPS[1:]]}, "b.jpg": KPS_FACE})
    assert [photo.file for photo in source.photos] == ["b.jpg"]
    assert re.search(said, source.rejected[0].detail)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a.jpg": [', "value 2: "),
        ('{"a.jpg" [1]}', "expected a name and ':' in value 1"),
        ("{1: 2}", "expected a name and ':' in value 1"),
        ('[{"file": 1} 2]', "expected ',' or ']' after value 1"),
        ("[1, 2] 3", "text follows the end of the document"),
        ("[" * 200_000, "value 1 is nested too deeply"),
        ('{"a": ' + "[" * 200_000, "value 2 is nested too deeply"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        ('["' + "x" * (MAX_JSON_ENTRY_CHARACTERS * 2), "is not complete after 4194304 characters"),
        ("{", "value 1: Expecting value"),
        ("[1" + "x" * (MAX_JSON_ENTRY_CHARACTERS * 2), "expected ',' or ']' after value 1"),
        ('{"a": [\xff', "value 2: Expecting value"),
    ],
)
def test_json_that_cannot_be_read(text: str, said: str, folder: Path) -> None:
    with pytest.raises(SourceError, match=re.escape(said)) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_json_files_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(SourceError, match="cannot be read as JSON: it is not UTF-8"):
        read_folder(folder, table)
    table.write_bytes(b"{")
    os.truncate(table, MAX_LANDMARK_JSON_BYTES + 1)
    with pytest.raises(SourceError, match="bytes; at most 536870912 are read"):
        read_folder(folder, table)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.dictionaries(st.text(max_size=4), JSON, max_size=4) | st.lists(JSON, max_size=4),
    st.integers(1, 9),
    st.booleans(),
)
def test_entries_are_those_of_the_whole_document(data: object, block: int, ascii_only: bool) -> None:
    """Blocks may end anywhere in a value."""
    text = json.dumps(data, ensure_ascii=ascii_only, indent=block % 3 or None).encode("utf-8", "replace")
    expected = json.loads(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landmark_json, "BLOCK_CHARACTERS", block)
        found = list(_entries(io.BytesIO(text)))
    pairs = expected.items() if isinstance(expected, dict) else [(None, value) for value in expected]
    assert found == list(pairs)


# --- Order of the numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [csv_68(PAIRS, points_of()), json.dumps({"a.jpg": KPS_FACE}), None])
def test_tables_whose_order_is_known_need_none(content: str | None, folder: Path, tmp_path: Path) -> None:
    table = folder
    (folder / "a.pts").write_text(pts(points_of()))
    if content is not None:
        table = tmp_path / "table"
        table.write_text(content)
    said = "in 1 of 1 rows the face is mirrored; .* read with `landmark_order` subject; leave it out"
    with pytest.raises(SourceError, match=said):
        read_folder(folder, table, "subject")


def test_an_order_is_for_any_table(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "table").write_text(json.dumps({"a.jpg": {"kps": [point[::-1] for point in KPS]}}))
    with pytest.raises(SourceError, match="x and y seem to be exchanged; `landmark_order` yx reads such a table"):
        read_folder(folder, tmp_path / "table")
    assert read_folder(folder, tmp_path / "table", "yx").photos[0].landmarks == FACE
