"""The HTML page of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from celebahq_builder.config import flatten
from celebahq_builder.evaluation import result as result_module
from celebahq_builder.evaluation.result import Result
from celebahq_builder.html.charts import LineChart, line_chart
from celebahq_builder.html.page import render_page


def evaluation_page(title: Path, results: Sequence[Result]) -> bytes:
    """Return a page with the results of a source, or of all snapshots of a run; equal results make equal pages.

    Args:
        title: path of the source.
        results: one result, or those of the snapshots, the earliest first.
    """
    last = results[-1]
    snapshots = last.source.get("kimg") is not None and len(results) > 1
    head, *rows = result_module.snapshot_table(results) if snapshots else [[]]
    source = f"{title}: {len(results)} snapshots" if snapshots else result_module.describe_source(last.source)
    return render_page(
        "evaluation.html.j2",
        {
            "name": title.name or str(title),
            "source": source,
            "reference": result_module.describe_source(last.reference) if last.reference else None,
            "size": result_module.describe_size(last),
            "charts": list(_charts(results)) if snapshots else [],
            "columns": head,
            "snapshots": rows,
            "numbers": list(result_module.score_table(last)),
            "remarks": result_module.remarks(results),
            "settings": [(key, json.dumps(value)) for key, value in flatten(last.to_json()).items()],
        },
    )


def _charts(results: Sequence[Result]) -> Iterator[LineChart]:
    """Yield a chart of each number over kimg, with its baseline if all these snapshots have one."""
    for column in result_module.columns(results):
        shown = [result for result in results if column.value(result) is not None]
        lines = {column.title: [value for result in shown if (value := column.value(result)) is not None]}
        baselines = [value for result in shown if (value := column.value(result, baseline=True)) is not None]
        score = shown[-1].score(column.metric)
        if score and score.baseline and len(baselines) == len(shown):
            lines[score.baseline.kind] = baselines
        chart = line_chart(column.title, [float(result.source["kimg"]) for result in shown], lines)
        if chart:
            yield chart
