"""Audit of an HDF5 file: duplicates, borders, padding and scores."""
