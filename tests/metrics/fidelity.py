"""torch-fidelity's own metrics on features: their modules import all of the package, torchvision with it."""

import importlib
import sys
from types import ModuleType

from celebahq_builder.metrics.inception import import_torch_fidelity


def metric(name: str) -> ModuleType:
    """Import a metric's module; in place of the readers of data sets that it also names there is nothing.

    The functions from features to figures are the package's, and call none of these.
    """

    class Nothing(ModuleType):
        def __getattr__(self, _: str) -> None:
            return None

    package, before = "torch_fidelity", dict(sys.modules)
    bare = ModuleType(package)
    bare.__path__ = [import_torch_fidelity("helpers").__spec__.origin.rpartition("/")[0]]  # type: ignore[union-attr]
    stand_in = Nothing(f"{package}.utils")
    try:
        sys.modules[package], sys.modules[f"{package}.utils"] = bare, stand_in
        return importlib.import_module(f"{package}.{name}")
    finally:
        for known in [key for key in sys.modules if key.split(".")[0] == package]:
            del sys.modules[known]
        sys.modules.update({key: found for key, found in before.items() if key.split(".")[0] == package})
