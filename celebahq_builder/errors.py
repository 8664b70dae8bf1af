"""Exceptions of this package, and text that is safe to print.

CelebAHQError
├── RecipeError          a recipe, a setting or an argument that cannot be used
├── SourceError          the folder of photos or its landmark table
├── WorkspaceError       the run directory
│   ├── WorkspaceLocked      another process works in it
│   ├── FingerprintMismatch  it was built with other settings
│   └── DiskFull             no space left
├── DeliveryError        images that cannot be delivered without overwriting files
├── ClusterError         a Dask cluster that cannot be reached or used
├── WeightsError         a weight file that is missing, changed or of another network
├── FormatError          a data set file that is missing, truncated or of another format
└── TrainingError        a training that cannot start or resume

Errors in data, files and settings have one of these classes. Functions also raise TypeError and ValueError for
arguments of a wrong type or shape. From a command, any other exception is a bug. The command line prints ``str(error)``
on one line and exits with code 1. A message says what is wrong, what was expected, what was found, where, and what to
do. It names arguments of functions in backquotes; the command line prints options instead. An OSError of a path that
the system refuses (no permission, name too long) may also arise; the command line prints it on one line, too.
"""

from __future__ import annotations

import unicodedata


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


class ClusterError(CelebAHQError):
    """A Dask cluster does not answer, or its workers cannot be used."""


class WeightsError(CelebAHQError):
    """A weight file is missing, was changed, or belongs to another network."""


class FormatError(CelebAHQError):
    """A data set file is missing, truncated, or not of the expected format."""


class TrainingError(CelebAHQError):
    """A training cannot start or resume."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of the message of an error that is not blank, or the type of the error if there is none.

    >>> first_line(ValueError("\n\nbad\nvalue")), first_line(ValueError())
    ('bad', 'ValueError')
    """
    return next(filter(str.strip, str(error).splitlines()), type(error).__name__)


def printable(text: str, keep: str = "") -> str:
    r"""Return a text on one line, with escapes for characters that could change the line, the terminal or the reading.

    The function escapes control characters, format characters (such as those that change the direction of writing),
    line and paragraph separators, and the surrogates by which Python represents bytes that are not UTF-8.

    Args:
        text: a name, or a message that contains names.
        keep: characters that are not escaped.

    Example:
        >>> printable("photo\n\x1b[31m\u202egpj.exe")
        'photo\\n\\x1b[31m\\u202egpj.exe'
        >>> printable("caf\udce9.jpg")
        'caf\\xe9.jpg'
    """
    if text.isprintable():
        return text
    return "".join(
        _escape(letter) if letter not in keep and unicodedata.category(letter) in _ESCAPED else letter
        for letter in text
    )


_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories: control, format, surrogate, line separator, paragraph separator."""


def _escape(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, see `os.fsdecode`
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
