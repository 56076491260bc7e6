r"""Which pictures show what my words say? Search images by text in the space of a CLIP model.

CLIP-like models have two towers, one for pictures and one for texts, whose vectors share a space.
`ImageEmbedder(model)` and `TextEmbedder(model)` are these towers: embed the pictures once, then ask
in words, and nearest neighbours answer. The hits are listed with their scores and shown side by
side, in a window or in a file.

Your own photographs, with a model of the hub (fetched once) or one in a folder::

    python examples/search_pictures_by_words.py --model openai/clip-vit-base-patch32 \
        --pictures ~/photos --save hits.png "a dog on grass" "snow"

Without arguments the script needs no network: it trains a CLIP of few small layers from nothing, on
scikit-learn's handwritten digits and captions such as "a handwritten seven", for some seconds. It
then searches pictures that it was not trained on, and counts how many of the hits are right.

Needs ``pip install skembed[examples]``.
"""

# %% What is asked for; a notebook has no command line, there the defaults hold
import argparse
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _small_clip import CAPTIONS, SIDE, WORDS, train_small_clip
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from skembed import ImageEmbedder, TextEmbedder

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

parser = argparse.ArgumentParser(description="Search pictures by words.")
parser.add_argument("words", nargs="*", help='what to search for: "a dog on grass" "snow"')
parser.add_argument("--pictures", type=Path, help="a folder; those below it are searched too")
parser.add_argument("--model", help="a CLIP-like model: its id on the hub, or its folder")
parser.add_argument("--cache", default="run", help="a folder that keeps the pictures' vectors")
parser.add_argument("--top", type=int, default=6, help="how many pictures to find (default: 6)")
parser.add_argument("--save", type=Path, help="a file for the hits (.png, .pdf); else a window")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.pictures and not (args.model and args.words):
    parser.error("--pictures needs a --model and words to search for")
if args.model and not args.pictures:
    parser.error("--model needs --pictures")
if args.top < 1:
    parser.error("--top must be 1 or more")

# %% Without pictures of one's own: half of the digits train a small CLIP, the others are searched
scratch = tempfile.TemporaryDirectory()
if args.pictures:
    model, folder, words = args.model, args.pictures.expanduser(), args.words
else:
    model, folder = Path(scratch.name) / "small-clip", Path(scratch.name) / "pictures"
    words = args.words or [
        caption.format(word) for caption, word in zip(CAPTIONS, WORDS[6:], strict=True)
    ]
    digits = load_digits()
    pictures = [
        Image.fromarray((image * 255 / 16).astype(np.uint8)).convert("RGB").resize((SIDE, SIDE))
        for image in digits.images
    ]
    known, unseen = train_test_split(np.arange(len(pictures)), random_state=0, train_size=0.5)
    started = time.perf_counter()
    train_small_clip([pictures[i] for i in known], digits.target[known], model)
    print(f"trained a small CLIP on {len(known)} pictures in {time.perf_counter() - started:.0f} s")
    folder.mkdir()
    for i in unseen:
        pictures[i].save(folder / f"{WORDS[digits.target[i]]}-{i:04d}.png")

# %% Embed the words and the pictures; from here on the model is any CLIP
files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
if not files:
    sys.exit(f"no pictures in {folder}: looked for {', '.join(sorted(SUFFIXES))}")
texts = TextEmbedder(model, normalize=True)
asked = texts.fit_transform(words)  # first: a model that reads no texts is found out at once
# Files that are no picture become rows of NaN, and are named in a warning.
images = ImageEmbedder(
    model, normalize=True, on_error="nan", cache=args.cache, verbose=bool(args.pictures)
)
vectors = images.fit_transform(files)
print(f"pictures: {images.report_}")
is_good = ~np.isnan(vectors).any(axis=1)
if not is_good.any():
    sys.exit("none of the pictures can be read")
files, vectors = np.array(files)[is_good], vectors[is_good]

# %% Search: the pictures whose vectors are nearest to that of the words
n_hits = min(args.top, len(files))
index = NearestNeighbors(n_neighbors=n_hits, metric="cosine").fit(vectors)
distances, hits = index.kneighbors(asked)
for query, distance, found in zip(words, distances, hits, strict=True):
    print(f"\n{query}\n  rank  cosine  picture")
    for rank, (d, i) in enumerate(zip(distance, found, strict=True), start=1):
        print(f"  {rank:4d}  {1 - d:6.3f}  {files[i].relative_to(folder)}")

# %% How good is it? Of the digits it is known, by the names of their files
if not args.pictures:
    truth = np.array([WORDS.index(file.name.partition("-")[0]) for file in files])
    captions = texts.transform([CAPTIONS[0].format(word) for word in WORDS])
    is_right = truth[index.kneighbors(captions, 12, return_distance=False)] == np.c_[:10]
    print("\nOf the 12 pictures nearest to each digit's caption, so many show it")
    for word, n_right in zip(WORDS, is_right.sum(axis=1), strict=True):
        print(f"  {CAPTIONS[0].format(word):<20} {n_right:2d}  {'#' * n_right}")
    # Classify without a single labelled picture: the nearest caption names the digit.
    classifier = KNeighborsClassifier(1, metric="cosine").fit(captions, range(10))
    accuracy = accuracy_score(truth, classifier.predict(vectors))
    print(f"{accuracy:.1%} of {len(files)} unseen pictures have their own caption nearest")

# %% Look at the hits: a row for each query, the best on the left
figure = plt.figure(figsize=(1.8 * n_hits, 2.2 * len(words)), layout="constrained")
strips = figure.subfigures(len(words), squeeze=False)[:, 0]
for query, distance, found, strip in zip(words, distances, hits, strips, strict=True):
    strip.suptitle(query, x=0.01, horizontalalignment="left", fontsize=10)
    for d, i, axis in zip(
        distance, found, strip.subplots(1, n_hits, squeeze=False)[0], strict=True
    ):
        with Image.open(files[i]) as picture:
            shown = ImageOps.exif_transpose(picture).convert("RGB")
        shown.thumbnail((256, 256))
        axis.imshow(shown)
        axis.set_title(f"{1 - d:.2f}", fontsize=8)
        axis.axis("off")
if args.save:
    figure.savefig(args.save, dpi=100)
    print(f"\nthe pictures found are in {args.save}")
elif plt.get_backend().lower() == "agg":
    print("\nno screen to show the pictures found on: --save hits.png writes them to a file")
else:
    plt.show()
scratch.cleanup()
