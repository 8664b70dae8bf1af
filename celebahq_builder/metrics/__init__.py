"""Numbers that say how near a set of images is to another; pure arithmetic, files stay outside."""
