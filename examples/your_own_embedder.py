"""Does a function of mine embed as well as a model does? Both in one search.

A lookup, a session of another runtime or the client of a service is a function from texts to
vectors, and `FunctionEmbedder` makes an embedder of it. Here two of them compete with the packaged
MiniLM for telling apart which part of scikit-learn a docstring belongs to: counts of letter triples
computed on the spot, and a service that answers slowly and now and then says that it has too much
to do. (The service is made up, so that the script needs no network.) One grid search has all
three as candidates. At the end stands how many texts the search asked for, and how few the service
was sent.

Runs without a network on the packaged MiniLM: ``pip install skembed[demo]``.
"""

# %% The texts: what the functions and classes of scikit-learn say of themselves
import inspect
import time
from collections import Counter
from importlib import import_module

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skembed import FunctionEmbedder, TextEmbedder

PARTS = ("cluster", "datasets", "decomposition", "ensemble", "linear_model", "metrics")

texts, parts = [], []
for part in PARTS:
    module = import_module(f"sklearn.{part}")
    for name in sorted(module.__all__):
        first = (inspect.getdoc(getattr(module, name)) or "").partition("\n\n")[0]
        texts.append(first.replace("\n", " "))
        parts.append(part)

print(f"{len(texts)} texts of {len(PARTS)} parts, for example: {texts[0]!r}\n")


# %% A function that is all in its code: its vectors are stored under that code
def letter_triples(rows):
    """Count triples of letters, each in one of 512 places."""
    counts = np.zeros((len(rows), 512))
    for row, text in zip(counts, rows, strict=True):
        for start in range(len(text) - 2):
            triple = text[start : start + 3].lower().encode()
            row[int.from_bytes(triple, "big") % 509] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


# %% A service: it has a client, so its vectors are stored under a version that we name
class TooManyRequestsError(Exception):
    """What a client raises when it is told to come back later."""

    status_code = 429
    retry_after = 0.05


class Client:
    """Stands for the client of a hosted service, and keeps the books."""

    def __init__(self):
        self.n_calls = self.n_refused = self.n_texts = 0
        self.directions = np.random.default_rng(0).normal(size=(512, 64))

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

# %% One search over all of them
pipeline = Pipeline([("embed", TextEmbedder()), ("classify", LogisticRegression(max_iter=1000))])
grid = {"embed": list(candidates.values()), "classify__C": [1, 10, 100]}
started = time.perf_counter()
search = GridSearchCV(pipeline, grid, cv=4).fit(texts, parts)
seconds = time.perf_counter() - started

# %% Which one tells the parts apart best?
majority = Counter(parts).most_common(1)[0][1] / len(parts)
print("Cross-validated share of texts whose part is told right:")
print(f"{'the most frequent part':>24}  {'#' * round(40 * majority):40}  {majority:.2f}")
of_candidate = search.cv_results_["param_embed"]
for title, embedder in candidates.items():
    best = search.cv_results_["mean_test_score"][of_candidate == embedder].max()
    print(f"{title:>24}  {'#' * round(40 * best):40}  {best:.2f}")

# %% And what did it cost?
n_asked = 3 * 4 * len(texts)  # by values of C and folds, each of which holds every text
print(
    f"\nThe search took {seconds:.1f} s. It asked for {n_asked:,} vectors of each candidate; the "
    f"service was sent {client.n_texts} texts ({len(set(texts))} are distinct) in {client.n_calls} "
    f"calls, {client.n_refused} of which it refused and was asked again."
)
