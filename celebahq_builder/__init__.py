"""Builds CelebA-HQ from in-the-wild CelebA photos and five landmarks."""

__version__ = "0.1.0"
