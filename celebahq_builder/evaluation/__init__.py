"""How good a set of pictures is: which of them, against which others, by which protocol; the result and its record."""
