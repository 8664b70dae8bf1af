"""Evaluation of image sets: protocol, image sources, features, results and their reports."""
