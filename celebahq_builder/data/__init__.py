"""Pictures for training and evaluation: a data set, the order they are drawn in, minibatches, a device."""

from celebahq_builder.data.dataset import PyramidDataset
from celebahq_builder.data.device import Batch, faded, to_device
from celebahq_builder.data.loader import loader
from celebahq_builder.data.order import Order

__all__ = ["Batch", "Order", "PyramidDataset", "faded", "loader", "to_device"]
