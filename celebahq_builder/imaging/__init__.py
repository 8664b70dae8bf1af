"""Pure functions on arrays and tensors: no paths, no settings files, no state."""
