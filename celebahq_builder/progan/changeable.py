"""What of a recipe a run may go on with other values of."""

from __future__ import annotations

CHANGEABLE = ("schedule.learning_rate", "schedule.learning_rates", "schedule.rampup_kimg", "loss", "precision", "ema")
"""Keys, or tables of keys, that may change where that is asked for: they decide neither what a checkpoint holds nor how
far it has come."""
