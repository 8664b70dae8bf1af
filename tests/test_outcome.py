"""Every photo ends as exactly one outcome, and every outcome survives its manifest."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.outcome import Failed, Kept, Outcome, Reason, Rejected, Rejection, from_json, to_json

KEYS = st.text(min_size=1, max_size=8).filter(lambda key: key not in ("photo", "face", "outcome"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
OUTCOMES = st.one_of(
    st.builds(Kept, st.text(), st.dictionaries(KEYS, VALUES, max_size=4), st.text()),
    st.builds(Rejected, st.text(), st.sampled_from(Reason), st.text(), st.text()),
    st.builds(Failed, st.text(), st.text(), st.text()),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(OUTCOMES)
def test_round_trip(outcome: Outcome) -> None:
    assert from_json(json.loads(json.dumps(to_json(outcome)))) == outcome


def test_what_a_line_says() -> None:
    assert to_json(Kept("a.jpg", {"score": 0.5})) == {"photo": "a.jpg", "outcome": "kept", "score": 0.5}
    assert to_json(Rejected("a.jpg", Reason.TOO_LARGE, "9 px")) == {
        "photo": "a.jpg",
        "outcome": "rejected",
        "reason": "TOO_LARGE",
        "detail": "9 px",
    }
    assert to_json(Failed("a.jpg", "disk")) == {"photo": "a.jpg", "outcome": "failed", "error": "disk"}
    several = {"photo": "a.jpg", "face": "a_1", "outcome": "failed", "error": "disk"}
    assert to_json(Failed("a.jpg", "disk", "a_1")) == several


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_in_words(reason: Reason) -> None:
    assert reason.value == reason.name
    assert reason.describe
    assert reason.describe[0].islower()


def test_no_two_reasons_read_alike() -> None:
    assert len({reason.describe for reason in Reason}) == len(Reason)


def test_rejection_carries_reason_and_detail() -> None:
    rejection = Rejection(Reason.EMPTY_FILE, "0 bytes")
    assert (rejection.reason, rejection.detail, str(rejection)) == (Reason.EMPTY_FILE, "0 bytes", "EMPTY_FILE: 0 bytes")
    assert isinstance(rejection, CelebAHQError)


@pytest.mark.parametrize(
    "values", [{"photo": "a", "outcome": "rejected", "reason": "UGLY", "detail": ""}, {"photo": "a"}]
)
def test_altered_lines_are_noticed(values: dict[str, str]) -> None:
    """As the reader of manifests expects: ValueError, KeyError or TypeError."""
    with pytest.raises((ValueError, KeyError)):
        from_json(values)
