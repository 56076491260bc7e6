"""
Does a function of mine embed as well as a model?
=================================================

Does a function of my own embed as well as a model does? A lookup, a session of another runtime or
the client of a service is a function from texts to vectors, and ``FunctionEmbedder`` makes an
embedder of it. Two of them compete with the packaged MiniLM for telling from which part of
scikit-learn a docstring is: counts of letter triples computed on the spot, and a service that
answers slowly and now and then says that it has too much to do. (The service is made up, so that
the script needs no network.) One grid search has all three as candidates.

Needs ``pip install skembed[examples]``.
"""

# %%
# The texts
# ---------
# What the functions and classes of scikit-learn say of themselves.
import time

import matplotlib.pyplot as plt
import numpy as np
from _docstrings import first_sentences
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skembed import FunctionEmbedder, TextEmbedder

PARTS = ("cluster", "datasets", "decomposition", "ensemble", "linear_model", "metrics")
texts, parts = first_sentences(*(f"sklearn.{part}" for part in PARTS))
print(f"{len(texts)} texts of {len(PARTS)} parts, such as {texts[0]!r}")


# %%
# A function that is all in its code
# ----------------------------------
# Its vectors are stored under that code.
def letter_triples(rows):
    """Count triples of letters, each in one of 509 places."""
    counts = np.zeros((len(rows), 509))
    for row, text in zip(counts, rows, strict=True):
        for start in range(len(text) - 2):
            triple = text[start : start + 3].lower().encode()
            row[int.from_bytes(triple, "big") % 509] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


# %%
# A service
# ---------
# It has a client, which is no code that could be compared, so its vectors are stored under a
# version that we name. When it refuses, it is called again, and a warning says so.
class TooManyRequestsError(Exception):
    """What a client raises when it is told to come back later."""

    status_code = 429
    retry_after = 0.05


class Client:
    """Stands for the client of a hosted service, and keeps the books."""

    def __init__(self):
        self.n_calls = self.n_refused = self.n_texts = 0
        self.directions = np.random.default_rng(0).normal(size=(509, 64))

    def embed(self, rows):
        """Return vectors, if it is not too busy."""
        self.n_calls += 1
        time.sleep(0.02)
        if self.n_calls % 4 == 0:
            self.n_refused += 1
            raise TooManyRequestsError("come back later")
        self.n_texts += len(rows)
        return letter_triples(rows) @ self.directions


client = Client()
candidates = {
    "MiniLM": TextEmbedder(),
    "letter triples": FunctionEmbedder(letter_triples),
    "the service": FunctionEmbedder(client.embed, version="triples-small-1", batch_size=32),
}

# %%
# One search over all of them
# ---------------------------
pipeline = Pipeline([("embed", TextEmbedder()), ("classify", LogisticRegression(max_iter=1000))])
grid = {"embed": list(candidates.values()), "classify__C": [1, 10, 100]}
search = GridSearchCV(pipeline, grid, cv=4).fit(texts, parts)

# %%
# What did it cost?
# -----------------
# The search asks for each text's vector again and again; the service is sent each text once.
n_asked = 3 * 4 * len(texts)  # by values of C and folds, each of which holds every text
print(f"{n_asked:,} vectors asked of each candidate")
print(f"the service: {client.n_texts} texts in {client.n_calls} calls, {client.n_refused} refused")

# %%
# Which one tells the parts apart best?
# -------------------------------------
of_candidate = search.cv_results_["param_embed"]
scores = {
    name: search.cv_results_["mean_test_score"][of_candidate == embedder].max()
    for name, embedder in candidates.items()
}
scores["the commonest part"] = np.unique(parts, return_counts=True)[1].max() / len(parts)
for name, score in scores.items():
    print(f"{name:<20} {score:.2f}")
figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
bars = ax.barh(list(scores), list(scores.values()), color=["tab:blue"] * 3 + ["0.7"])
ax.bar_label(bars, fmt=" {:.2f}")
ax.set(xlim=(0, 1), xlabel="cross-validated accuracy")
ax.invert_yaxis()
ax.spines[["top", "right"]].set_visible(False)
plt.show()
