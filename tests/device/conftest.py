"""A CUDA device for the tests of this folder: the machine's, or a pretend one.

On a machine without a GPU the files ``test_cuda_*.py`` are not collected; `test_on_pretend_device` runs them in child
processes. On a machine with a GPU: ``python -m pytest tests/device -n 8``.
"""

from collections.abc import Iterator

import pytest
import torch

from tests.device import pretend

if not (pretend.ACTIVE or torch.cuda.is_available()):
    collect_ignore_glob = ["test_cuda_*.py"]


@pytest.fixture
def device() -> Iterator[torch.device]:
    """A CUDA device; the pretend one starts with no host syncs counted."""
    if not pretend.ACTIVE:
        yield torch.device("cuda:0")
        torch.cuda.empty_cache()
        return
    with pretend.cuda() as made:
        pretend.syncs.clear()
        yield made
