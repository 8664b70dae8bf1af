"""What is wrong with a data set: images that occur twice, padding, black bars; a table and a page of images.

hashes      an image -> 255 bits that survive coding and small shifts, and those of its mirror image
groups      images that belong together
duplicates  all pairs of a file: the same, nearly the same, mirrored
borders     bars along edges, images of one colour
padding     what part of a crop lay outside its photo
scan        the passes over a file
findings    what they found, and as JSON
table       findings as lines of text
page        findings as a page of images
command     the way through all of these
"""

from celebahq_builder.inspect.audit.audit_report import audit

__all__ = ["audit"]
