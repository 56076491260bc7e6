"""Sixteen labels of each kind: is it worth training the model, or will its frozen vectors do?

Reviews of food are great or not. Somebody has labelled sixteen of each and asks which classifier
will label the rest: one on words (TF-IDF), one on MiniLM's vectors as they were published, or one
on the vectors of a MiniLM that was trained on these labels: a projection of its vectors
("head"), small matrices beside its layers ("lora"), or all its weights, so that reviews of one kind
lie together (`Contrastive`). All are tried on the same reviews that nobody has labelled before, for
three draws of labels, as they are few enough for luck. A training's curve is drawn, and the last
line says what it all comes to.

The reviews are fetched by ``python tests/materials.py``. ``pip install skembed[examples]`` brings
what reads and draws them; ``--save figure.png`` writes the figure to a file.
"""

# %% Where the figure goes; a notebook has no command line, there it is shown
import argparse
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _food_reviews import food_reviews
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline

from skembed import Contrastive, FineTune, TextEmbedder, TrainingCurveDisplay

parser = argparse.ArgumentParser(description="Classify reviews from sixteen labels of each kind.")
parser.add_argument("--save", type=Path, help="a file for the figure (.png, .pdf); else a window")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)

# %% The reviews: 4,000 to draw labelled ones from, 400 to be tested on
N_EACH, N_TEST, DRAWS = 16, 400, 3

texts, ratings = food_reviews("train")
texts_test, ratings_test = (each[:N_TEST] for each in food_reviews("test"))
print(f"{N_EACH} labelled reviews of each kind, {N_TEST} to be tested on")


def draw(seed):
    """Return the rows of as many reviews of each kind."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.permutation(np.flatnonzero(ratings == kind))[:N_EACH] for kind in ("great", "other")]
    )


# %% Five ways to turn a review into numbers, under the same classifier
FROZEN = "frozen"


def make_embedder(training=None):
    """Return MiniLM, which reads the first 64 tokens of a review."""
    return TextEmbedder(max_length=64, on_truncate="ignore", training=training)


ways = {
    "TF-IDF": TfidfVectorizer(sublinear_tf=True),
    FROZEN: make_embedder(),
    "head": make_embedder(FineTune("head")),
    "lora": make_embedder(FineTune("lora", batch_size=8, n_epochs=8)),
    "contrastive": make_embedder(Contrastive(batch_size=8, n_epochs=8)),
}
scores = {name: [] for name in ways}
seconds = dict.fromkeys(ways, 0.0)
for seed in range(DRAWS):
    rows = draw(seed)
    for name, way in ways.items():
        pipe = make_pipeline(way, LogisticRegression(C=10))
        started = time.perf_counter()
        predicted = pipe.fit(texts[rows], ratings[rows]).predict(texts_test)
        seconds[name] += time.perf_counter() - started
        scores[name].append(balanced_accuracy_score(ratings_test, predicted))

print("Balanced accuracy (0.5 is chance): mean and each draw; seconds in all")
for name, found in scores.items():
    each = "  ".join(f"{score:.3f}" for score in found)
    print(f"  {name:<12} {np.mean(found):.3f}   {each}   {seconds[name]:5.1f} s")

# %% Look at a training: rows are too few to hold any out, so that the last epoch is kept
trained = ["head", "lora", "contrastive"]
figure, axes = plt.subplots(1, len(trained), figsize=(4.5 * len(trained), 4), layout="constrained")
for axis, name in zip(axes, trained, strict=True):
    TrainingCurveDisplay.from_estimator(ways[name], ax=axis)
    axis.set_title(f"{name}, the last draw")
if args.save:
    figure.savefig(args.save, dpi=100)
    print(f"the figure is in {args.save}")
elif plt.get_backend().lower() == "agg":
    print("no screen to show the figure on: --save figure.png writes it to a file")
else:
    plt.show()

# %% So?
best = max(trained, key=lambda name: np.mean(scores[name]))
gains = np.array(scores[best]) - np.array(scores[FROZEN])
if (gains > 0).all():
    verdict = f"training pays: {best} is better than the frozen model in every draw"
elif gains.mean() > 0:
    verdict = f"it is a toss-up: {best}, the best, beats the frozen model in some draws only"
else:
    verdict = "training does not pay: nothing trained is better than the frozen model"
print(f"With {N_EACH} labels of each kind {verdict} ({gains.mean():+.3f} on average).")
