"""Torch modules only; each states shapes, dtype and range in its docstring."""
