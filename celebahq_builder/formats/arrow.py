"""The package pyarrow, which only Parquet needs."""

from __future__ import annotations

from types import ModuleType

from celebahq_builder.errors import FormatError


def pyarrow() -> ModuleType:
    """Return pyarrow with its Parquet module.

    Raises:
        FormatError: it is not installed.
    """
    try:
        import pyarrow as package
        import pyarrow.parquet
    except ImportError:
        raise FormatError(
            "Parquet needs pyarrow, which is not installed: pip install 'celebahq-builder[parquet]'"
        ) from None
    return package  # type: ignore[no-any-return]
