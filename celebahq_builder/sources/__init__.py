"""Photos and their landmarks: CelebA as its authors ship it, or any folder with a table.

Nothing is decoded here. Rows and files that cannot be used become `Rejected` records, each for its reason.
"""
