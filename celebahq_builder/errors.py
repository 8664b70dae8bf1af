"""Exceptions of this package, and text that is safe to print.

CelebAHQError
├── RecipeError          a recipe, a setting or an argument that cannot be used
├── SourceError          the folder of photos or its landmark table
├── WorkspaceError       the run directory
│   ├── WorkspaceLocked      another process works in it
│   ├── FingerprintMismatch  it was built with other settings
│   └── DiskFull             no space left
├── DeliveryError        images that cannot be delivered without overwriting files
├── WeightsError         a weight file that is missing, changed or of another network
├── FormatError          a data set file that is missing, truncated or of another format
└── TrainingError        a training that cannot start or resume

Errors in data, files and settings have one of these classes. Functions also raise TypeError and ValueError for
arguments of a wrong type or shape. From a command, any other exception is a bug. The command line prints ``str(error)``
on one line and exits with code 1. A message says what is wrong, what was expected, what was found, where, and what to
do. It names arguments of functions in backquotes; the command line prints options instead.
"""

from __future__ import annotations


class CelebAHQError(Exception):
    """Base class of all errors that a user can cause and correct."""


class RecipeError(CelebAHQError):
    """A recipe file, a setting or an argument cannot be used."""


class SourceError(CelebAHQError):
    """The folder of photos or the landmark table cannot be read."""


class WorkspaceError(CelebAHQError):
    """The run directory is not in a state to work in."""


class WorkspaceLocked(WorkspaceError):
    """Another process has locked the folder."""


class FingerprintMismatch(WorkspaceError):
    """The run directory holds results of other settings than the requested ones."""


class DiskFull(WorkspaceError):
    """A file could not be written because no space is left."""


class DeliveryError(CelebAHQError):
    """Images cannot be delivered without overwriting files."""


class WeightsError(CelebAHQError):
    """A weight file is missing, was changed, or belongs to another network."""


class FormatError(CelebAHQError):
    """A data set file is missing, truncated, or not of the expected format."""


class TrainingError(CelebAHQError):
    """A training cannot start or resume."""


def printable(text: str) -> str:
    r"""Return a text on one line, with a question mark for every character that cannot be printed.

    >>> printable("photo\n\x1b[31m.jpg")
    'photo??[31m.jpg'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
