"""Which customers are alike? Rows of a table as vectors, without labels, searched and drawn.

`TabularEmbedder` learns from the rows alone what goes together; near vectors are customers that are
alike. The nearest of one customer are shown column by column, and all are drawn by t-SNE. Who left
was not shown to the embedder, and still lies together.

Verdict: of the ten nearest neighbours of customers who left, 48% left as well (26% of all did).
Neighbours on one-hot columns with scaled numbers are as good (49%): use vectors for the map, or
where columns are too many and too mixed to be scaled by hand.

Needs ``pip install skembed[examples]`` and ``python tests/materials.py``. Draws
similar_customers.png into the folder for temporary files.
"""

# %% Real customers; whether they left is put aside
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _modeldata import modeldata
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skembed import TabularEmbedder

X = modeldata("wa_churn").dropna().sample(2000, random_state=0).reset_index(drop=True)
left = (X.pop("churn") == "Yes").to_numpy()

# %% Vectors from the rows alone, and the nearest of one customer
embedder = TabularEmbedder()
vectors = embedder.fit_transform(X)
nearest = NearestNeighbors(n_neighbors=11).fit(vectors).kneighbors(vectors)[1][:, 1:]
shown = ["tenure", "contract", "internet_service", "payment_method", "monthly_charges"]
print("A customer, and the three most alike:")
print(X.loc[[0, *nearest[0, :3]], shown].to_string())

# %% Are neighbours of a kind? The share that left, among the ten nearest of those who did
one_hot = make_column_transformer(
    (StandardScaler(), make_column_selector(dtype_include="number")),
    (OneHotEncoder(sparse_output=False), make_column_selector(dtype_exclude="number")),
).fit_transform(X)
plain = NearestNeighbors(n_neighbors=11).fit(one_hot).kneighbors(one_hot)[1][:, 1:]
print(f"{left.mean():.0%} of all customers left")
for name, near in (("skembed", nearest), ("one-hot", plain)):
    print(f"of the neighbours of those who left, by {name}: {left[near][left].mean():.1%}")

# %% A map: what lies together, and who left
places = TSNE(random_state=0).fit_transform(vectors)
figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
for ax, values, title in (
    (axes[0], np.where(left, "left", "stayed"), "who left (not shown to the embedder)"),
    (axes[1], X["contract"].astype(str).to_numpy(), "contracts"),
):
    for value in np.unique(values):
        of_value = values == value
        ax.scatter(*places[of_value].T, s=6, label=value)
    ax.set(title=title, xticks=[], yticks=[])
    ax.legend(markerscale=3)
target = Path(tempfile.gettempdir()) / "similar_customers.png"
figure.savefig(target)
print(f"The map: {target}")
