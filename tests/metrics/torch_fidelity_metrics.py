"""torch-fidelity's own metrics on features, imported without torchvision."""

import importlib
import sys
from types import ModuleType

from celebahq_builder.metrics.inception import import_torch_fidelity


def import_metric(name: str) -> ModuleType:
    """Import the module of a metric; the readers of data sets that it imports are replaced by None.

    The functions from features to figures are the package's own and call none of these.
    """

    class Nothing(ModuleType):
        def __getattr__(self, _: str) -> None:
            return None

    package, before = "torch_fidelity", dict(sys.modules)
    bare = ModuleType(package)
    bare.__path__ = [import_torch_fidelity("helpers").__spec__.origin.rpartition("/")[0]]
    stand_in = Nothing(f"{package}.utils")
    try:
        sys.modules[package], sys.modules[f"{package}.utils"] = bare, stand_in
        return importlib.import_module(f"{package}.{name}")
    finally:
        for known in [key for key in sys.modules if key.split(".")[0] == package]:
            del sys.modules[known]
        sys.modules.update({key: found for key, found in before.items() if key.split(".")[0] == package})
