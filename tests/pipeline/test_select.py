import csv
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.outcome import Failed, Kept, Reason, Rejected
from celebahq_builder.pipeline.stages import pack, select


def candidate(name: str, score: float, index: int = 0) -> Kept:
    record = {"id": name, "score": score, "index": index, "landmarks": [1.5] * 10, "zoom": 2.0, "split": "train"}
    return Kept(f"{name}.jpg", {**record, "quad": [[0.0, 0.0], [0.0, 9.0], [9.0, 9.0], [9.0, 0.0]]})


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=12), st.integers(1, 14), st.randoms())
def test_best_by_score_then_by_id_whatever_the_order(scores: list[float], keep: int, chance: random.Random) -> None:
    photos = [candidate(f"{i:03d}", score) for i, score in enumerate(scores)]
    shuffled = chance.sample(photos, len(photos))
    selected, rest = select.best(shuffled, keep)
    assert selected == sorted(photos, key=lambda k: (-k.record["score"], k.record["id"]))[:keep]
    assert len(selected) + len(rest) == len(photos)
    assert {r.photo for r in rest} | {k.photo for k in selected} == {k.photo for k in photos}
    assert all(r.reason == Reason.LOW_SCORE for r in rest)


def test_rejects_say_score_and_cut() -> None:
    _, rest = select.best([candidate("a", 0.5), candidate("b", 0.25)], 1)
    assert rest == [Rejected("b.jpg", Reason.LOW_SCORE, "score 0.2500; the last one kept has 0.5000")]


def test_tables_are_csv() -> None:
    rows = list(
        csv.DictReader(select.selection_csv([candidate('a"b', 0.5), candidate("c,d", 0.25)]).decode().splitlines())
    )
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert [row["file"] for row in rows] == ['a"b.jpg', "c,d.jpg"]
    assert rows[0]["lefteye_x"] == "1.5"
    assert rows[0]["quad2_y"] == "9.000"
    ended = [Rejected("a.jpg", Reason.EMPTY_FILE, "0 bytes"), Failed("b.jpg", "OSError: x"), candidate("c", 1)]
    rows = list(csv.DictReader(select.rejected_csv(ended).decode().splitlines()))
    assert [(row["file"], row["outcome"], row["reason"]) for row in rows] == [
        ("a.jpg", "rejected", "EMPTY_FILE"),
        ("b.jpg", "failed", ""),
    ]


def test_orders_of_the_file() -> None:
    ranked = [candidate("c", 0.9, 2), candidate("a", 0.8, 0), candidate("b", 0.7, 1)]
    assert pack.in_order(ranked, "rank", 0) == ranked
    assert [k.record["id"] for k in pack.in_order(ranked, "photo", 0)] == ["a", "b", "c"]
    many = [candidate(f"{i:02d}", 0.5, i) for i in range(20)]
    assert pack.in_order(many, "shuffled", 1) == pack.in_order(many[::-1], "shuffled", 1)
    assert pack.in_order(many, "shuffled", 1) != pack.in_order(many, "shuffled", 2)
    assert sorted(k.record["index"] for k in pack.in_order(many, "shuffled", 1)) == list(range(20))
