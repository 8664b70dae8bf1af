"""Score records: they survive JSON, fit into CSV, and agree with the modules that they must not import."""

import csv
import dataclasses
import io

from hypothesis import given
from hypothesis import strategies as st

from celebahq_builder.filter import store
from celebahq_builder.filter.store import UnscoredImage, from_json, kept_csv, table_csv, to_json
from celebahq_builder.imaging.quality_score import QualityScore
from celebahq_builder.outcome import Reason
from celebahq_builder.pipeline.stages import score
from tests.filter.folders import image_score


def test_the_repeated_constants_are_those_of_the_score() -> None:
    assert store.SCORE_VERSION == score.VERSION
    assert tuple(field.name for field in dataclasses.fields(QualityScore)) == store.SCORE_PARTS


@given(st.text(), st.sampled_from([*Reason, None]), st.text())
def test_records_survive_json(path: str, reason: Reason | None, detail: str) -> None:
    for record in (image_score(path, 0.123456), UnscoredImage(path, reason, detail, 5, 6)):
        assert from_json(to_json(record)) == record


def test_names_that_would_break_a_line_or_a_table() -> None:
    safe = ["a\rb.png", "a\nb.png", "a\x1b]0;x\x07.png", "a\u202f1.png", 'a",b.png']
    formulas = ["=1.png", "+1.png", "-1.png", "@1.png"]
    images = [image_score(name, 0.5) for name in (*safe, *formulas)]
    rows = list(csv.DictReader(io.StringIO(kept_csv(images).decode(), newline="")))
    assert [row["path"] for row in rows] == [*safe, *(f"./{name}" for name in formulas)]
    table = table_csv(images, 2, [UnscoredImage("=x", None, "a\nb")])
    rows = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
    assert [row["kept"] for row in rows] == ["yes"] * 2 + ["no"] * 8
    assert (rows[-1]["path"], rows[-1]["detail"], rows[-1]["reason"]) == ("./=x", "a\nb", "failed")
