"""How good a set of images is: which of them, against which others, by which protocol; the result and its record."""
