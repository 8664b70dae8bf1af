"""Pure functions on arrays and tensors, without paths, settings files or state."""
