"""Bounds on what is read from files of users, so that a hostile or damaged file cannot exhaust the memory.

A reader compares the size that a file announces with its bound before it takes the memory. No refusal needs more than
1 GB.
"""

MAX_IMAGE_PIXELS = 100_000_000
"""Pixels of one image: 300 MB as RGB. Photos of 100 megapixels are the largest that cameras in common use make."""

MAX_IMAGE_FILE_BYTES = 1 << 28
"""Bytes of one image file, 256 MB: enough for an uncompressed TIFF of 80 megapixels."""

MAX_TEXT_BYTES = 1 << 26
"""Bytes of one text file that is parsed line by line, 64 MB: the landmark table of 202,599 photos has 13 MB."""

MAX_TOML_BYTES = 1 << 18
"""Bytes of one TOML file, 256 KB: a recipe has 3 KB, a registry about 1 KB per network. TOML is parsed slowly."""

MAX_JSON_BYTES = 1 << 26
"""Bytes of one JSON document, 64 MB: parsed, it takes about ten times as much."""

MAX_LANDMARK_JSON_BYTES = 1 << 29
"""Bytes of one JSON file of landmarks, 512 MB, read entry by entry: ffhq-dataset-v2.json has 268 MB."""

MAX_JSON_ENTRY_CHARACTERS = 1 << 22
"""Characters of one entry of such a file, 4 million: one of ffhq-dataset-v2.json has 4 thousand."""

MAX_LOG_BYTES = 1 << 29
"""Bytes of one log of this package that is read as a whole, 512 MB: 3 million images that `celebahq filter` copied."""

MAX_TABLE_ROWS = 1_000_000
"""Rows of one landmark table: read, they take 0.8 GB. CelebA has 202,599."""

MAX_LIST_BYTES = 1 << 24
"""Bytes of one list of names, such as ids or the official image list, 16 MB: the official list has 3 MB."""

MAX_VALUE_BYTES = 1 << 16
"""Bytes of one text value, such as a name, a label or a cell of a table, 64 KB."""

MAX_CHUNK_BYTES = 1 << 28
"""Bytes of one chunk, record or row group after decompression, 256 MB: 85 images of 1024x1024."""

MAX_ITEMS = 50_000_000
"""Images or rows of one data set; LSUN, the largest set in common use, has 10 million in a category."""

MAX_WEIGHTS_HEADER_BYTES = 1 << 20
"""Bytes of the header of a safetensors file, 1 MB: that of the largest ProGAN generator has 10 kB. The library allows
100 MB, which take more than 1 GB after parsing."""

MAX_COMMUNITY_WEIGHTS_BYTES = 1 << 31
"""Bytes of one weight file of another project, 2 GB: Real-ESRGAN has 67 MB, the largest upscalers in use 0.6 GB."""

MAX_CHECKPOINT_BYTES = 1 << 32
"""Bytes of one checkpoint of a training, 4 GB: networks of twice the paper's width and their optimizers take 2.6 GB."""

MAX_HDF5_CHECK_BYTES = 1 << 29
"""Memory in which HDF5 must be able to read the structure and the columns of a file, 512 MB beside that of Python."""

MAX_HDF5_CHECK_CPU_S = 2
"""Processor time in which HDF5 must be able to do so, plus one second per GB of the file; 30,000 images take 0.1 s."""
