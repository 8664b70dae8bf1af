"""`celebahq filter`: scores any folder of images and takes the best; `score_image` scores one.

listing     which files below a folder are images
scoring     an image of any size -> its score
worker      files -> records, in a worker process
record      what is known of an image
catalogue   the scores folder: what is scored already, and what was made of it
selection   all records -> best first, and how many of them are kept
table       records -> CSV
delivery    the kept images, copied, linked or moved
page        one HTML page of all that
command     the way through all of these
"""

from celebahq_builder.filter.scoring import score_image
from celebahq_builder.imaging.quality_score import QualityScore

__all__ = ["QualityScore", "score_image"]
