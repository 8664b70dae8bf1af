"""`celebahq filter`: scores any folder of pictures and takes the best; `score_image` scores one.

listing     which files below a folder are pictures
scoring     a picture of any size -> its score
worker      files -> records, in a worker process
record      what is known of a picture
catalogue   the scores folder: what is scored already, and what was made of it
selection   all records -> best first, and how many of them are kept
table       records -> CSV
delivery    the kept pictures, copied, linked or moved
page        one HTML page of all that
command     the way through all of these
"""

from celebahq_builder.filter.scoring import score_image
from celebahq_builder.imaging.quality_score import QualityScore

__all__ = ["QualityScore", "score_image"]
