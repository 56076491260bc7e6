"""
Which pictures show what my words say?
======================================

Can pictures be found by words, without a label? CLIP-like models have two towers, one for pictures
and one for texts, whose vectors share a space. ``ImageEmbedder`` and ``TextEmbedder`` of the same
model are these towers: embed the pictures once, ask in words, and nearest neighbours answer.

So that the script needs no network, it first trains a CLIP of few small layers, on scikit-learn's
handwritten digits and captions such as "a handwritten seven" (``_small_clip.py``). It then searches
pictures that it was not trained on. For your own photographs leave that out, and write::

    model = "openai/clip-vit-base-patch32"  # fetched from the hub, once
    files = sorted(Path("photos").rglob("*.jpg"))
    words = ["a dog on grass", "snow"]

Needs ``pip install skembed[examples]``.
"""

# %%
# A small CLIP, and pictures that it has not seen
# -----------------------------------------------
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _small_clip import CAPTIONS, SIDE, WORDS, train_small_clip
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from skembed import ImageEmbedder, TextEmbedder

scratch = tempfile.TemporaryDirectory()
model = Path(scratch.name) / "small-clip"
digits = load_digits()
pictures = [
    Image.fromarray((image * 255 / 16).astype(np.uint8)).convert("RGB").resize((SIDE, SIDE))
    for image in digits.images
]
known, unseen = train_test_split(np.arange(len(pictures)), random_state=0, train_size=0.5)
train_small_clip([pictures[i] for i in known], digits.target[known], model)

files = [Path(scratch.name) / f"{WORDS[digits.target[i]]}-{i:04d}.png" for i in unseen]
for file, i in zip(files, unseen, strict=True):
    pictures[i].save(file)

# %%
# Search: the pictures whose vectors are nearest to that of the words
# -------------------------------------------------------------------
words = [
    "a handwritten six",
    "the digit seven",
    "eight as someone wrote it",
    "a picture of the nine",
]
texts = TextEmbedder(model, normalize=True)
asked = texts.fit_transform(words)
# Files that are no picture become rows of NaN, are named in a warning, and left out.
images = ImageEmbedder(model, normalize=True, on_error="nan")
vectors = images.fit_transform(files)
print(f"pictures: {images.report_}")
is_good = ~np.isnan(vectors).any(axis=1)
files, vectors = np.array(files)[is_good], vectors[is_good]

index = NearestNeighbors(n_neighbors=6, metric="cosine").fit(vectors)
distances, hits = index.kneighbors(asked)
for query, distance, found in zip(words, distances, hits, strict=True):
    shown = (f"{file.stem} {1 - d:.2f}" for file, d in zip(files[found], distance, strict=True))
    print(f"{query:<26}{', '.join(shown)}")

# %%
# How good is it?
# ---------------
# The names of the files tell. To classify pictures without a single label, take the nearest
# caption.
truth = np.array([WORDS.index(file.name.partition("-")[0]) for file in files])
captions = texts.transform([CAPTIONS[0].format(word) for word in WORDS])
classifier = KNeighborsClassifier(1, metric="cosine").fit(captions, range(10))
is_right = classifier.predict(vectors) == truth
print(f"{is_right.mean():.1%} of {len(files)} unseen pictures have their own caption nearest")

# %%
# The hits
# --------
# A row for each query, the best on the left, with the cosine.
figure = plt.figure(figsize=(8, 7), layout="constrained")
strips = figure.subfigures(len(words))
for query, distance, found, strip in zip(words, distances, hits, strips, strict=True):
    strip.suptitle(query, x=0.01, horizontalalignment="left")
    for d, i, ax in zip(distance, found, strip.subplots(1, len(found)), strict=True):
        with Image.open(files[i]) as picture:
            ax.imshow(picture.convert("RGB"))
        ax.set_title(f"{1 - d:.2f}", fontsize="small")
        ax.axis("off")
plt.show()
scratch.cleanup()
