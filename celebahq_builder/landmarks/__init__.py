"""Landmarks of photos: found by a face detector, or compared with it."""
