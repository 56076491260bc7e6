"""Fashion-MNIST, small gray pictures of clothes, as Debian's package has it.

``apt-get install dataset-fashion-mnist`` puts it where it is read.

Reference: Xiao, Rasul and Vollgraf, arXiv:1708.07747.
"""

import gzip
from pathlib import Path

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")
KINDS = ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag"]
KINDS += ["ankle boot"]


def fashion_mnist(n_rows):
    """Return pictures (n_rows, 28, 28) from 0 to 255, and the names of their kinds."""
    if not FOLDER.is_dir():
        raise SystemExit(f"Fashion-MNIST is not in {FOLDER}: apt-get install dataset-fashion-mnist")
    pictures = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    kinds = np.array(KINDS)[read("t10k-labels-idx1-ubyte.gz", 8)]
    return pictures[:n_rows], kinds[:n_rows]


def read(name, offset):
    """Read the bytes of an idx file after its header."""
    return np.frombuffer(gzip.decompress((FOLDER / name).read_bytes()), np.uint8, offset=offset)
