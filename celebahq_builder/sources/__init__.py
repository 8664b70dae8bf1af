"""Sources of photos and their landmarks: CelebA as its authors ship it, or any folder with a table.

No image is decoded here. Rows and files that cannot be used become `Rejected` outcomes, each with its reason.
"""
