"""
Sixteen labels of each kind: does training pay?
===============================================

Somebody has labelled sixteen great reviews of food and sixteen others. Which classifier should
label the rest: one on words (TF-IDF), one on MiniLM's vectors as they were published, or one on the
vectors of a MiniLM that was trained on these labels? Two trainings are tried: a projection of the
frozen vectors (``FineTune("head")``), and all weights, so that reviews of one kind lie together
(``Contrastive``).

Needs ``pip install skembed[examples]``; ``python tests/materials.py`` fetches the reviews.
"""

# %%
# The reviews
# -----------
# All ways see the same reviews, for three draws of labels, as these are few enough for luck. 300
# other reviews judge.
import matplotlib.pyplot as plt
import numpy as np
from _food_reviews import food_reviews
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline

from skembed import Contrastive, FineTune, TextEmbedder, TrainingCurveDisplay

N_EACH, N_TEST, N_DRAWS = 16, 300, 3

texts, ratings = food_reviews("train")
texts_test, ratings_test = (each[:N_TEST] for each in food_reviews("test"))


def draw(seed):
    """Return the rows of as many reviews of each kind."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.permutation(np.flatnonzero(ratings == kind))[:N_EACH] for kind in ("great", "other")]
    )


# %%
# Four ways to turn a review into numbers, under the same classifier
# ------------------------------------------------------------------
# MiniLM reads the first 48 tokens of a review. ``Contrastive`` takes 24 steps of 8 rows.
def minilm(training=None):
    """Return MiniLM, trained or as it was published."""
    return TextEmbedder(max_length=48, on_truncate="ignore", training=training)


ways = {
    "TF-IDF": TfidfVectorizer(sublinear_tf=True),
    "frozen": minilm(),
    "head": minilm(FineTune("head")),
    "contrastive": minilm(Contrastive(batch_size=8, n_epochs=6)),
}
scores = {name: [] for name in ways}
for seed in range(N_DRAWS):
    rows = draw(seed)
    for name, way in ways.items():
        pipe = make_pipeline(way, LogisticRegression(C=10)).fit(texts[rows], ratings[rows])
        predicted = pipe.predict(texts_test)
        scores[name].append(balanced_accuracy_score(ratings_test, predicted))

print("balanced accuracy (0.5 is chance): mean and each draw")
for name, found in scores.items():
    print(f"  {name:<12} {np.mean(found):.3f}   " + "  ".join(f"{each:.3f}" for each in found))

# %%
# So?
# ---
# MiniLM was made to tell what a text is about, not whether its writer is pleased, so its frozen
# vectors are no better here than counted words. A projection cannot add what they lack. Training
# the model itself can, from as few as 32 labels. With other questions the answer may be another: a
# grid search over ``training`` asks your own rows.
gains = np.array(scores["contrastive"]) - np.array(scores["frozen"])
print(f"contrastive beats frozen in {(gains > 0).sum()} of {N_DRAWS} draws, by {gains.mean():+.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for place, found in enumerate(scores.values()):
    left.plot([place] * N_DRAWS, found, "o", color="tab:blue", alpha=0.6)
    left.plot(place, np.mean(found), "_", color="black", markersize=30)
left.set_xticks(range(len(scores)), scores)
left.axhline(0.5, color="0.7", linestyle="--")
left.set(
    xlim=(-0.5, len(scores) - 0.5),
    ylabel="balanced accuracy (dashed: chance)",
    title="Each draw of labels, and the mean",
)
left.spines[["top", "right"]].set_visible(False)
TrainingCurveDisplay.from_estimator(ways["contrastive"], ax=right)
right.set_title("contrastive: training on the last draw")
plt.show()
