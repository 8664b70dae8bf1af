"""Text out of files that others made, on its way to a terminal, a page or an image."""

from __future__ import annotations


class CelebAHQError(Exception):
    """Base of all errors that a user can cause and mend."""


class RecipeError(CelebAHQError):
    """A recipe file, a setting or an option that cannot be used."""


class SourceError(CelebAHQError):
    """The folder of photos or the landmark table cannot be read as one."""


class WorkspaceError(CelebAHQError):
    """The run directory is not in a state to work in."""


class WorkspaceLocked(WorkspaceError):
    """Another process holds the run directory."""


class FingerprintMismatch(WorkspaceError):
    """The run directory holds results of other settings than those asked for."""


class DiskFull(WorkspaceError):
    """A file could not be written for want of space."""


class DeliveryError(CelebAHQError):
    """Images cannot be delivered without overwriting others."""


class WeightsError(CelebAHQError):
    """A weight file is missing, altered, or belongs to another network."""


class FormatError(CelebAHQError):
    """A data set file is missing, truncated, or not of the format asked for."""


class TrainingError(CelebAHQError):
    """A training run cannot start, go on, or be resumed."""


def printable(text: str) -> str:
    """Return a text on one line, with a question mark for what is no letter, digit, sign or blank."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
