"""Food reviews from a shop, as Debian's package of R's modeldata has them; R is not needed.

4,000 reviews to learn from (3,980 distinct) and 1,000 to be tested on, each rated "great" (65%) or
"other". ``python tests/materials.py`` fetches the package (``apt-get download``, nothing is
installed); ``pip install rdata`` reads it.

Reference: J. McAuley and J. Leskovec, "From amateurs to connoisseurs: modeling the evolution of
user expertise through online reviews", WWW 2013, doi:10.1145/2488388.2488466.
"""

import bz2
import gzip
import lzma
import os
import zlib
from pathlib import Path

import numpy as np
import rdata

FOLDER = "66c2e08bb4bf695d/usr/lib/R/site-library/modeldata/data"  # in the materials' folder


def food_reviews(part, folder=None):
    """Return the texts and ratings of "train" or "test", two arrays of strings.

    `folder` has Rdata.rdx and Rdata.rdb; None is where ``python tests/materials.py`` puts them.
    """
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "skembed" / "materials" / FOLDER
        if not folder.is_dir():
            raise SystemExit(
                "This needs food reviews, which Debian's package r-cran-modeldata has: fetch them "
                "with `python tests/materials.py`, on a machine with apt-get"
            )
    frame = read_frame(folder, {"train": "training_data", "test": "testing_data"}[part])
    return frame["review"].to_numpy(object), frame["score"].astype(str).to_numpy(object)


def read_frame(folder, name):
    """Read a data frame from a lazy-load database of R: an index, and compressed records."""
    index = convert(gzip.decompress((folder / "Rdata.rdx").read_bytes()))
    offset, size = map(int, index["variables"][name])
    with (folder / "Rdata.rdb").open("rb") as file:
        file.seek(offset)
        return convert(decompress(file.read(size)))


def decompress(record):
    """Return a record's content: after 4 bytes of its size, one says how it is compressed."""
    tag, rest = record[4:5], record[5:]
    if tag == b"2":
        return bz2.decompress(rest)
    if tag == b"Z":
        raw = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26}]
        return lzma.decompress(rest, lzma.FORMAT_RAW, filters=raw)
    return zlib.decompress(record[4:])


def convert(content):
    """Turn R's serialised content into Python's, data frames into pandas'."""
    classes = rdata.conversion.DEFAULT_CLASS_MAP
    parsed = rdata.parser.parse_data(content, extension=".rds")
    return rdata.conversion.convert(parsed, {**classes, "tbl_df": classes["data.frame"]})


if __name__ == "__main__":
    for each in ("train", "test"):
        texts, ratings = food_reviews(each)
        share = np.mean(ratings == "great")
        print(f"{each}: {len(texts):,} reviews, {share:.1%} great; the first: {texts[0]:.60}...")
