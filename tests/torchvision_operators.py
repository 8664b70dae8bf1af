"""Importing of torchvision where its compiled library does not load, beside a build of torch that it was not made for.

spandrel imports torchvision, and its networks that the tests run use nothing of it. torchvision describes two of its
operators when it is imported, which must exist by then.
"""

import functools
import importlib

from torch.library import Library

OPERATORS = ("nms", "qnms")

definitions = Library("torchvision", "FRAGMENT")


@functools.cache
def define_missing_operators() -> None:
    """Define operators without an implementation, if torchvision cannot be imported without them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in OPERATORS:
            definitions.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
