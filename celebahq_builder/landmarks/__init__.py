"""Landmarks of photos: found by a face detector, refined by a small network, compared with given ones."""
