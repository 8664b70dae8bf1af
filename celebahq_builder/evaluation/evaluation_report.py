"""The HTML page of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from celebahq_builder.config import flatten
from celebahq_builder.evaluation import result as result_module
from celebahq_builder.evaluation.result import Result
from celebahq_builder.html import charts
from celebahq_builder.html.page import render_page


def evaluation_page(title: Path, results: Sequence[Result]) -> bytes:
    """Return a page of the results of a source, or of all snapshots of a run; equal results make equal pages.

    Args:
        title: the source's path.
        results: one, or those of the snapshots, the earliest first.
    """
    return render_page("evaluation.html.j2", _contents(title, results))


def _contents(title: Path, results: Sequence[Result]) -> dict[str, Any]:
    snapshots = results[0].source.get("kimg") is not None and len(results) > 1
    last = results[-1]
    return {
        "name": title.name or str(title),
        "source": result_module.describe_source(last.source) if not snapshots else f"{title}: {len(results)} snapshots",
        "reference": result_module.describe_source(last.reference) if last.reference else None,
        "size": result_module.size(last),
        "charts": list(_charts(results)) if snapshots else [],
        "columns": [name for name, _, _ in result_module.columns_of(results)] if snapshots else [],
        "snapshots": list(_rows(results)) if snapshots else [],
        "baselines": list(_besides(results)) if snapshots else [],
        "numbers": list(result_module.rows(last)),
        "remarks": result_module.remarks(results),
        "settings": [(key, json.dumps(value)) for key, value in flatten(last.to_json()).items()],
    }


def _charts(results: Sequence[Result]) -> Iterator[charts.LineChart]:
    """Yield a chart of each number over kimg, with what stands beside it."""
    for name, metric, level in result_module.columns_of(results):
        there = [result for result in results if result_module.cell(result, metric, level, False) is not None]
        x = [float(result.source["kimg"]) for result in there]
        lines = {name: [_value(result, metric, level, False) for result in there]}
        score = there[-1].score(metric)
        if score and score.beside and all(result_module.cell(one, metric, level, True) is not None for one in there):
            lines[score.beside.what] = [_value(result, metric, level, True) for result in there]
        drawn = charts.line_chart(name, x, lines)
        if drawn:
            yield drawn


def _value(result: Result, metric: str, level: int | None, beside: bool) -> float:
    value = result_module.cell(result, metric, level, beside)
    return float("nan") if value is None else value


def _rows(results: Sequence[Result]) -> Iterator[list[str]]:
    for result in results:
        yield [f"{result.source['kimg']:,g}", f"{result.resolution}", *_cells(results, result, False)]


def _besides(results: Sequence[Result]) -> Iterator[list[str]]:
    for side, result in {result.resolution: result for result in results}.items():
        if any(score.beside and score.beside.number for score in result.scores):
            yield ["beside", f"{side}", *_cells(results, result, True)]


def _cells(results: Sequence[Result], result: Result, beside: bool) -> Iterator[str]:
    for _, metric, level in result_module.columns_of(results):
        value = result_module.cell(result, metric, level, beside)
        yield "-" if value is None else result_module.format_number(value)
