"""A build that kills itself, as a power cut would, at a named point: ``killed_build.py OUT POINT COUNT``."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celebahq_builder.hdf5 import writer
from celebahq_builder.pipeline import batch, build, build_report, workspace
from celebahq_builder.pipeline.stages import align, crop, denoise, score, select, upscale
from tests.conftest import build_tiny

POINTS: dict[str, tuple[Any, str]] = {
    "region": (crop, "cut"),
    "denoise": (denoise, "apply_all"),
    "upscale": (upscale, "apply_all"),
    "align": (align, "apply"),
    "score": (score, "apply_all"),
    "image": (batch, "write_partial"),
    "batch": (build, "publish_batch"),
    "manifest": (workspace.StageFolder, "write_manifest"),
    "complete": (workspace.StageFolder, "complete"),
    "select": (select, "best"),
    "pack": (writer.PyramidWriter, "write"),
    "publish": (writer.PyramidWriter, "finish"),
    "report": (build_report, "write"),
    "rename": (Path, "replace"),
}
"""Where a run can be killed: just before the COUNT-th call of a function."""


def killing(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that does as another one does until its `count`-th call, which kills the process."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


if __name__ == "__main__":
    out, point, count = sys.argv[1:]
    owner, name = POINTS[point]
    setattr(owner, name, killing(getattr(owner, name), int(count)))
    build_tiny(Path(out))
