"""torch-fidelity's modules, without those of its parts that need torchvision."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from celebahq_builder.errors import WeightsError

PACKAGE = "torch_fidelity"


def module(name: str) -> ModuleType:
    """Return a module of torch-fidelity, imported past the package's ``__init__``.

    That imports all there is, torchvision for its data sets among it, and so fails where torchvision is missing or was
    made for another torch; the modules used here need nothing but torch and numpy. A bare package stands in for it
    while the module is imported. What was imported of torch-fidelity before stays as it was, and nothing else stays
    in ``sys.modules``, so that a later ``import torch_fidelity`` is not misled.

    Args:
        name: below the package, such as ``feature_extractor_inceptionv3``.

    Raises:
        WeightsError: torch-fidelity is not installed.
    """
    if PACKAGE in sys.modules:
        return importlib.import_module(f"{PACKAGE}.{name}")
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.submodule_search_locations is None:
        raise WeightsError(
            "FID, KID and IS need the package torch-fidelity, which is not installed; "
            "pip install 'celebahq-builder[inception]', or pip install --no-deps torch-fidelity"
        )
    bare = ModuleType(PACKAGE)
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules[PACKAGE] = bare
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        for known in [key for key in sys.modules if key == PACKAGE or key.startswith(f"{PACKAGE}.")]:
            del sys.modules[known]
