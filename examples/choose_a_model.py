"""
Which model for my rows?
========================

Which of some embedders is best on my own rows, by more than luck, and what does each cost?
``compare_embedders`` gives all of them the same folds and the same probes. Here counted words, the
static vectors of GloVe, MiniLM, and a MiniLM with a trained head compete: from which part of SciPy
or scikit-learn is a short docstring?

Needs ``pip install skembed[examples]``; ``python tests/materials.py`` fetches GloVe.
"""

# %%
# Texts and candidates
# --------------------
# Any transformer may take part: an embedder, frozen or trained, a pipeline, a vectorizer of
# scikit-learn. For pictures, sound and tables it is the same, with pixels or one-hot columns as the
# baseline.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from _docstrings import first_sentences
from _glove import write_glove
from sklearn.feature_extraction.text import TfidfVectorizer

from skembed import FineTune, TextEmbedder
from skembed.model_selection import compare_embedders

PARTS = ("interpolate", "linalg", "ndimage", "optimize", "signal", "stats")
texts, parts = first_sentences(*(f"scipy.{part}" for part in PARTS), "sklearn.metrics")
print(f"{len(texts)} texts, such as {texts[0]!r}")

scratch = tempfile.TemporaryDirectory()
glove = write_glove(texts, Path(scratch.name) / "glove.txt")
embedders = {
    "TF-IDF": TfidfVectorizer(sublinear_tf=True),
    "GloVe": TextEmbedder(glove),
    "MiniLM": TextEmbedder(),
    "MiniLM, trained head": TextEmbedder(training=FineTune("head")),
}

# %%
# One call
# --------
# The sentence first. Its differences are of pairs, fold by fold; what lies within the interval may
# be luck, and is called so.
comparison = compare_embedders(embedders, texts, parts)
print(comparison)

# %%
# How good they are
# -----------------
# Beside the scores of the probes stand ``agreement``, how many of a row's nearest neighbours are of
# its class, and ``clusters``, how far k-means finds the classes by itself (adjusted Rand index).
quality = ["score", "score_interval", "behind_best", "behind_interval", "agreement", "clusters"]
print(comparison.frame[quality].round(3).to_string())

# %%
# What they cost
# --------------
# ``rows_per_second`` counts rows that the model had to run on, ``again_per_second`` the same rows
# once more, from the store. The trained head has no speed of its own: it found MiniLM's vectors in
# the store.
cost = ["load_seconds", "fit_seconds", "rows_per_second", "again_per_second", "width", "model_mib"]
print(comparison.frame.loc["linear", cost].round(1).to_string())

# %%
# The picture
# -----------
# Look where the probes differ. A linear model weighs features itself, and counted words serve it
# nearly as well as vectors. Neighbours, clusters and search take the vectors as they are, and there
# a model that was made to embed is ahead. A head trained on the labels gathers the classes further,
# as ``clusters`` shows; whether more rows are told apart for it, the sentence above says.
comparison.plot()
plt.show()
scratch.cleanup()
