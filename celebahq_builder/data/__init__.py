"""Images for training: a data set, the order they are drawn in, minibatches, and their way to the device."""

from celebahq_builder.data.dataset import Batch, PyramidDataset, fade_in, to_device
from celebahq_builder.data.loader import Order, loader

__all__ = ["Batch", "Order", "PyramidDataset", "fade_in", "loader", "to_device"]
