"""
Do similar reviews lie together?
================================

Do reviews that mean the same have vectors that lie together, even if they share no word? 1,463 real
reviews of food, those of fewer than 40 words, go through MiniLM. They are grouped without labels
and drawn as a map, on which phrases of our own are then put: "good food" should land by "tasty
dishes", and far from what is said of dogs.

Needs ``pip install skembed[examples]``; ``python tests/materials.py`` fetches the reviews.
"""

# %%
# The reviews, and a vector of each
# ---------------------------------
import matplotlib.pyplot as plt
import numpy as np
from _food_reviews import food_reviews
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from skembed import EmbeddingMapDisplay, TextEmbedder

texts, _ = food_reviews("train")
texts = np.array([text for text in texts if len(text.split()) < 40], dtype=object)
embedder = TextEmbedder(normalize=True)
vectors = embedder.fit_transform(texts)
print(embedder.report_)

# %%
# Pairs of phrases
# ----------------
# The cosine of two vectors is 1 where texts mean the same to the model, and near 0 where they have
# nothing to do with each other. No two of these phrases share a word that matters. Below is the
# mean cosine of each phrase with the phrases of a topic, itself left out. The model is not as good
# as a reader: to it a dark roast is as near to food as to espresso.
phrases = {
    "food": ["good food", "tasty dishes"],
    "dogs": ["my dog loves it", "a treat for puppies"],
    "parcels": ["the box arrived crushed", "it was damaged in shipping"],
    "coffee": ["a smooth dark roast", "my morning espresso"],
}
asked = [phrase for pair in phrases.values() for phrase in pair]
placed = embedder.transform(asked)
cosines = cosine_similarity(placed)
np.fill_diagonal(cosines, np.nan)
print(f"{'':<28}" + "".join(f"{topic:>9}" for topic in phrases))
for phrase, row in zip(asked, cosines, strict=True):
    means = np.nanmean(row.reshape(len(phrases), 2), axis=1)
    print(f"{phrase:<28}" + "".join(f"{mean:9.2f}" for mean in means))

# %%
# The review that is nearest to each phrase
# -----------------------------------------
nearest = cosine_similarity(placed, vectors).argmax(axis=1)
for phrase, i in zip(asked, nearest, strict=True):
    print(f"{phrase:<28}{texts[i]:.70}")

# %%
# Groups that nobody named
# ------------------------
# k-means finds groups in the vectors. They are called by words that are frequent in the group and
# rare elsewhere.
N_GROUPS = 10
groups = KMeans(N_GROUPS, n_init=4, random_state=0).fit_predict(vectors)
pattern = r"[a-z]{3,}"
counter = CountVectorizer(stop_words="english", min_df=10, max_df=0.2, token_pattern=pattern)
counts = counter.fit_transform(texts) > 0
words = counter.get_feature_names_out()
overall = np.asarray(counts.mean(axis=0)).ravel()
names = []
for group in range(N_GROUPS):
    here = np.asarray(counts[groups == group].mean(axis=0)).ravel()
    telling = here * np.log(here.clip(1e-9) / overall)
    names.append(", ".join(words[telling.argsort()[::-1][:2]]))
    print(f"{(groups == group).sum():4d}  {names[group]}")

# %%
# The map
# -------
# Each phrase is put among the reviews that are nearest to it. The line below the map says how far
# it can be trusted: two dimensions cannot keep all of 384.
display = EmbeddingMapDisplay.from_embeddings(
    vectors, np.array(names)[groups], labels=False, s=12, alpha=0.8
)
for i, ((x, y), phrase) in enumerate(zip(display.place(placed), asked, strict=True)):
    display.ax_.plot(x, y, "*", color="black", markeredgecolor="white", markersize=14)
    display.ax_.annotate(
        phrase,
        (x, y),
        (-8, 0) if i % 2 else (8, 0),
        textcoords="offset points",
        ha="right" if i % 2 else "left",
        va="center",
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
    )
display.ax_.set_title(f"{len(texts):,} reviews in {N_GROUPS} groups, and phrases put among them")
plt.show()
