"""Quality filter: scores a folder of images of any size and keeps the best of them.

listing           the image files below a folder
score             an image of any size -> its score; the worker that scores files
records           the score of a file or the reason why it has none, as JSON and CSV
store             the scores folder, from which a killed command resumes
deliver           the selection, copied or linked into another folder; removal of files delivered earlier
delivery_record   the files that were delivered, so that only these are removed
report            the HTML page and the closing lines
run               `filter_folder`, which does all of this in order

Names are loaded on first use, because the score needs torch and most of this package does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celebahq_builder.filter.run import filter_folder
    from celebahq_builder.filter.score import score_image
    from celebahq_builder.imaging.quality_score import QualityScore

__all__ = ["QualityScore", "filter_folder", "score_image"]


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name == "filter_folder":
        from celebahq_builder.filter import run

        return run.filter_folder
    if name in __all__:
        from celebahq_builder.filter import score

        return getattr(score, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
