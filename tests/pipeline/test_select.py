import csv
import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.imaging.quality_score import QualityScore
from celebahq_builder.outcome import Failed, Kept, Reason, Rejected
from celebahq_builder.pipeline.face import Identity, PhotoRecord
from celebahq_builder.pipeline.results import rejected_csv
from celebahq_builder.pipeline.stages.crop import CropRecord
from celebahq_builder.pipeline.stages.pack import in_order
from celebahq_builder.pipeline.stages.select import Candidate, SelectRecord, select_best, selection_csv


def candidate(name: str, score: float) -> Candidate:
    return Candidate((f"{name}.jpg", ""), name, score)


def record(name: str, score: float, rank: int = 1, index: int = 0) -> PhotoRecord:
    crop = CropRecord((90, 90), (), ((0.0, 0.0), (0.0, 9.0), (9.0, 9.0), (9.0, 0.0)), 2.0, 1.0, 1, "")
    scored = QualityScore(score, 1.0, 1.0, 1.0, 1.0)
    identity = Identity(name, index, (1.5,) * 10, "train", ())
    return PhotoRecord(f"{name}.jpg", identity).with_part(crop).with_part(scored).with_part(SelectRecord(rank))


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=12), st.integers(1, 14), st.randoms())
def test_best_by_score_then_by_id_in_any_order(scores: list[float], keep: int, chance: random.Random) -> None:
    photos = [candidate(f"{i:03d}", score) for i, score in enumerate(scores)]
    shuffled = chance.sample(photos, len(photos))
    selected, rest = select_best(shuffled, keep)
    assert selected == sorted(photos, key=lambda one: (-one.score, one.id))[:keep]
    assert len(selected) + len(rest) == len(photos)
    assert {r.photo for r in rest} | {one.key[0] for one in selected} == {one.key[0] for one in photos}
    assert all(r.reason == Reason.LOW_SCORE for r in rest)


def test_rejected_photos_name_score_and_cut() -> None:
    _, rest = select_best([candidate("a", 0.5), candidate("b", 0.25)], 1)
    assert rest == [Rejected("b.jpg", Reason.LOW_SCORE, "score 0.2500; the last one kept has 0.5000")]


def test_tables_are_csv() -> None:
    rows = list(csv.DictReader(selection_csv([record('a"b', 0.5), record("c,d", 0.25, 2)]).decode().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert [row["file"] for row in rows] == ['a"b.jpg', "c,d.jpg"]
    assert rows[0]["lefteye_x"] == "1.5"
    assert rows[0]["quad2_y"] == "9.000"
    ended = [
        ("a", Rejected("a.jpg", Reason.EMPTY_FILE, "0 bytes")),
        ("b_1", Failed("b.jpg", "OSError: x", "b_1")),
        ("c", Kept("c.jpg")),
    ]
    rows = list(csv.DictReader(rejected_csv(ended).decode().splitlines()))
    assert [(row["file"], row["id"], row["outcome"], row["reason"]) for row in rows] == [
        ("a.jpg", "a", "rejected", "EMPTY_FILE"),
        ("b.jpg", "b_1", "failed", ""),
    ]


def test_tables_keep_line_ends_in_names() -> None:
    for name in ("a\rb", "a\nb", "a\r\nb"):
        text = selection_csv([record(name, 0.5)]).decode()
        assert [row["id"] for row in csv.DictReader(io.StringIO(text, newline=""))] == [name]


def test_orders_of_the_file() -> None:
    ranked = [record("c", 0.9, 1, 2), record("a", 0.8, 2, 0), record("b", 0.7, 3, 1)]
    assert in_order(ranked, "rank", 0) == ranked
    assert [one.identity.id for one in in_order(ranked, "photo", 0)] == ["a", "b", "c"]
    many = [record(f"{i:02d}", 0.5, i + 1, i) for i in range(20)]
    assert in_order(many, "shuffled", 1) == in_order(many[::-1], "shuffled", 1)
    assert in_order(many, "shuffled", 1) != in_order(many, "shuffled", 2)
    assert sorted(one.identity.index for one in in_order(many, "shuffled", 1)) == list(range(20))
