"""Real tables and texts from Debian's package of R's modeldata; R is not needed.

``python tests/materials.py`` fetches the package (``apt-get download``, nothing is installed);
``pip install rdata`` reads it.
"""

import bz2
import gzip
import lzma
import os
import zlib
from pathlib import Path

import rdata

FOLDER = "66c2e08bb4bf695d/usr/lib/R/site-library/modeldata/data"  # in the materials' folder


def modeldata(name, folder=None):
    """Return a data frame of the package.

    `folder` has Rdata.rdx and Rdata.rdb; None is where ``python tests/materials.py`` puts them.
    """
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "skembed" / "materials" / FOLDER
        if not folder.is_dir():
            raise SystemExit(
                f"This needs {name!r} of Debian's package r-cran-modeldata: fetch it with "
                "`python tests/materials.py`, on a machine with apt-get"
            )
    # A lazy-load database of R: an index, and compressed records.
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
