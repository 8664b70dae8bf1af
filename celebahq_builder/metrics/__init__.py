"""Numbers that say how near a set of pictures is to another; pure arithmetic, files stay outside."""
