"""Fixtures of the tests of builds."""

import pytest

from celebahq_builder.pipeline import batch


@pytest.fixture(autouse=True)
def small_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples of the report at 96x96; at 768x768 they need a third of the time of a tiny build.

    The fixtures of longer scope, such as those of test_build_report.py, build with the full size.
    """
    monkeypatch.setattr(batch, "EXAMPLE_PX", 96)
