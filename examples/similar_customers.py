"""
Which customers are alike?
==========================

Which rows of a mixed table are alike, when nobody says what they are? ``TabularEmbedder`` learns
from the rows alone what goes together, and near vectors are customers that are alike. The nearest
of one customer are shown column by column, and all are drawn on a map. Who left is not shown to the
embedder, and judges it afterwards.

Needs ``pip install skembed[examples]``; ``python tests/materials.py`` fetches the table.
"""

# %%
# Real customers; whether they left is put aside
# ----------------------------------------------
import matplotlib.pyplot as plt
from _modeldata import modeldata
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skembed import EmbeddingMapDisplay, TabularEmbedder

X = modeldata("wa_churn").dropna().sample(1500, random_state=0).reset_index(drop=True)
left = (X.pop("churn") == "Yes").to_numpy()

# %%
# Vectors from the rows alone, and the nearest of one customer
# ------------------------------------------------------------
vectors = TabularEmbedder().fit_transform(X)
nearest = NearestNeighbors(n_neighbors=11).fit(vectors).kneighbors(vectors)[1][:, 1:]
shown = ["tenure", "contract", "internet_service", "payment_method", "monthly_charges"]
print(X.loc[[0, *nearest[0, :3]], shown].to_string())

# %%
# Are neighbours of a kind?
# -------------------------
# The share that left among the ten nearest of those who did, by these vectors and by one-hot
# columns with scaled numbers. Both find neighbours of a kind, far more often than chance, and
# neither is clearly ahead: on a table as plain as this one the vectors spare the preparation of
# columns by hand, and give the map.
one_hot = make_column_transformer(
    (StandardScaler(), make_column_selector(dtype_include="number")),
    (OneHotEncoder(sparse_output=False), make_column_selector(dtype_exclude="number")),
).fit_transform(X)
plain = NearestNeighbors(n_neighbors=11).fit(one_hot).kneighbors(one_hot)[1][:, 1:]
print(f"{left.mean():.0%} of all customers left")
for name, near in (("TabularEmbedder", nearest), ("one-hot", plain)):
    print(f"of the neighbours of those who left, by {name}: {left[near][left].mean():.0%}")

# %%
# One map, two colourings
# -----------------------
# What lies together has a contract in common, and those who left lie where contracts are short.
figure, (ax, other) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
display = EmbeddingMapDisplay.from_embeddings(
    vectors, X["contract"].astype(str), metric="euclidean", legend=False, s=10, ax=ax
)
ax.set_title("contracts")
words = ["left" if each else "stayed" for each in left]
EmbeddingMapDisplay.from_embeddings(
    vectors, words, places=display.places, metric="euclidean", labels=False, s=10, ax=other
)
other.set_title("who left, which the embedder was not told")
plt.show()
