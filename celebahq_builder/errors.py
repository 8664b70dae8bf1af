"""The exceptions of this package: whatever a user can cause has one, everything else is a bug.

CelebAHQError
├── RecipeError          a recipe, a setting or an option that makes no sense
├── SourceError          the folder of photos or its landmark table
├── WorkspaceError       the run directory
│   ├── WorkspaceLocked      another process is at work in it
│   ├── FingerprintMismatch  it was built with other settings
│   └── DiskFull             no space left
├── DeliveryError        names that are taken where pictures are to be delivered
├── WeightsError         a weight file that is missing, altered or of another network
├── FormatError          a data set file that is missing, truncated or of another format
└── TrainingError        a training run that cannot start, go on or be resumed

The command line prints ``str(error)`` on one line and exits with code 1. Each message says what is wrong,
what was expected, what was found, where, and what to do about it.
"""


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
    """Pictures cannot be delivered without overwriting others."""


class WeightsError(CelebAHQError):
    """A weight file is missing, altered, or belongs to another network."""


class FormatError(CelebAHQError):
    """A data set file is missing, truncated, or not of the format asked for."""


class TrainingError(CelebAHQError):
    """A training run cannot start, go on, or be resumed."""
