"""The cut: how many are kept, of which, in which order."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celebahq_builder.errors import RecipeError
from celebahq_builder.filter.record import PARTS, Scored, Unscored, from_json, printable, to_json
from celebahq_builder.filter.selection import Cut, rank
from celebahq_builder.outcome import Reason


def scored(path: str, score: float) -> Scored:
    return Scored(path, 1, 2, (score, *[0.5] * (len(PARTS) - 1)), 30, 20, ("grey",))


images = st.lists(
    st.tuples(st.text(max_size=3), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), unique_by=lambda p: p[0]
)


@given(images, st.randoms())
def test_best_first_and_equal_ones_by_path_in_whatever_order_they_come(
    some: list[tuple[str, float]], random: Random
) -> None:
    ranked = rank([scored(*one) for one in some])
    shuffled = list(some)
    random.shuffle(shuffled)
    assert rank([scored(*one) for one in shuffled]) == ranked
    assert [(one.score, one.path) for one in ranked] == sorted(
        ((score, path) for path, score in some), key=lambda one: (-one[0], one[1])
    )


@given(images, st.integers(1, 9), st.floats(0, 1), st.floats(0.01, 100))
def test_how_many_are_kept(some: list[tuple[str, float]], keep: int, least: float, percent: float) -> None:
    ranked = rank([scored(*one) for one in some])
    assert Cut().count(ranked) == len(some)
    assert Cut(keep=keep).count(ranked) == min(keep, len(some))
    above = Cut(min_score=least).count(ranked)
    assert all(one.score >= least for one in ranked[:above])
    assert all(one.score < least for one in ranked[above:])
    share = Cut(top_percent=percent).count(ranked)
    assert share == min(len(some), max(1, math.floor(len(some) * percent / 100 + 1e-9)))


def test_a_share_is_what_was_typed() -> None:
    ranked = [scored(str(i), 0.5) for i in range(100)]
    assert [Cut(top_percent=p).count(ranked) for p in (29, 57.0, 0.5, 100)] == [29, 57, 1, 100]
    assert Cut(top_percent=10).count([]) == 0


def test_one_of_them_at_most() -> None:
    with pytest.raises(RecipeError, match=r"give one of --keep 3 and --top 2\.5, not both"):
        Cut(keep=3, top_percent=2.5)
    assert (Cut().words, Cut(keep=3).words, Cut(min_score=0.25).words) == ("", "--keep 3", "--min-score 0.25")


@given(st.text(), st.sampled_from([*Reason, None]), st.text())
def test_records_survive_their_json(path: str, reason: Reason | None, detail: str) -> None:
    for one in (scored(path, 0.123456), Unscored(path, reason, detail, 5, 6)):
        assert from_json(to_json(one)) == one


def test_names_that_are_no_utf_8() -> None:
    name = b"\xff\xe4.jpg".decode("utf-8", "surrogateescape")
    assert printable(name) == "\\xff\\xe4.jpg"
    assert printable("ä 漢.jpg") == "ä 漢.jpg"
