"""Landmarks of faces: refinement by a small network, and its training."""
