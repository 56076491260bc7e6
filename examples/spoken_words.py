"""Which layer of a speech model, pooled how, tells voices and kinds of words apart?

Short words of three voices (two women speak English and French, a man Italian) go through
`AudioEmbedder` into a linear classifier. The layer of the network and the pooling of its frames are
hyper-parameters: a grid search chooses both. Two questions are asked of the same clips: whose voice
is it, and is it a number, an ordinal, a letter, or a word to spell with (Alfa, Bravo)?

Words that took no part in a search judge it: all clips of a name (``digits/7``) are in one fold, in
the outer folds that give the score as in the inner ones that choose.

Offline there is no pretrained speech model to be had, so the script makes a wav2vec 2.0 of three
small layers with random weights and saves it to a folder. It shows how the search is set up, and
what a network knows before it has learned: its convolutions are random filters, and the score is
that of pooled random features, below what log-mel bands and MFCC give for nothing. It says nothing
of wav2vec 2.0. For that, name a model of the hub (or another folder) and the layers to try::

    python examples/spoken_words.py facebook/wav2vec2-base --layers 0 4 8 -1

The clips are read where Debian's packages put them:
``apt-get install asterisk-core-sounds-{en,fr,it}-wav``.
"""

# %% What is asked for; a notebook has no command line, there the defaults hold
import argparse
import string
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
from transformers.utils.logging import disable_progress_bar

from skembed import AudioEmbedder

SOUNDS = Path("/usr/share/asterisk/sounds")
VOICES = {"en": "en_US_f_Allison", "fr": "fr_CA_f_June", "it": "it_IT_m_Carlo"}
NUMBERS = [*range(1, 21), *range(30, 100, 10)]
KINDS = {
    "number": [f"digits/{n}" for n in NUMBERS],
    "ordinal": [f"digits/h-{n}" for n in NUMBERS],
    "letter": [f"letters/{letter}" for letter in string.ascii_lowercase],
    "spelling": [f"phonetic/{letter}_p" for letter in string.ascii_lowercase],
}

parser = argparse.ArgumentParser(description="Search the layer and pooling of a speech model.")
parser.add_argument("model", nargs="?", help="a speech model: its id on the hub, or its folder")
parser.add_argument("--layers", nargs="+", type=int, default=[0, 1, -1], help="layers to try")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
for language, name in VOICES.items():
    if not (SOUNDS / name).is_dir():
        sys.exit(f"{SOUNDS / name} is missing: apt-get install asterisk-core-sounds-{language}-wav")

# %% The clips: what they are, who says them, and the name that keeps their words together
rows = [
    (SOUNDS / folder / f"{name}.wav", voice, kind, name)
    for voice, folder in VOICES.items()
    for kind, names in KINDS.items()
    for name in names
]
files, voices, kinds, words = (np.array(column) for column in zip(*rows, strict=True))


# %% The models: of the hub or a random one, and two baselines
def save_random_model(folder):
    """Save a wav2vec 2.0 of three small layers, with what prepares its samples."""
    disable_progress_bar()
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


scratch = tempfile.TemporaryDirectory()
model = args.model or save_random_model(scratch.name)
title = args.model or "random wav2vec 2.0"
poolings = {"audioembedder__pooling": ["mean", "mean+std", "max"]}
candidates = {
    title: (model, {"audioembedder__layer": args.layers, **poolings}),
    "logmel": ("logmel", poolings),
    "mfcc": ("mfcc", poolings),
}


# %% Search in the inner folds, score in the outer ones
def make_search(model, grid):
    pipeline = make_pipeline(
        AudioEmbedder(model), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)
    )
    return GridSearchCV(pipeline, grid, cv=GroupKFold(3))


def score(search, y):
    """Return the accuracy in each outer fold, and the settings chosen there."""
    accuracies, chosen = [], []
    for train, test in GroupKFold(4, shuffle=True, random_state=0).split(files, y, words):
        search.fit(files[train], y[train], groups=words[train])
        accuracies.append(search.score(files[test], y[test]))
        chosen.append(", ".join(str(value) for value in search.best_params_.values()))
    return np.array(accuracies), chosen


def chance(y):
    """Return the accuracy of always naming the most frequent class."""
    return DummyClassifier().fit(files, y).score(files, y)


scores = {}
for question, y in [("whose voice", voices), ("what kind of word", kinds)]:
    print(f"\n{question}: {len(files)} clips of {len(set(words))} words, {len(set(y))} classes")
    for name, (model, grid) in candidates.items():
        started = time.perf_counter()
        search = make_search(model, grid)
        accuracies, chosen = score(search, y)
        scores[question, name] = accuracies
        order = "(layer, pooling)" if len(grid) > 1 else "(pooling)"
        seconds = time.perf_counter() - started
        print(f"  {name:<20} {seconds:5.1f} s; chosen {order}: {'; '.join(dict.fromkeys(chosen))}")

# %% The table: accuracy on words that took no part in the search
print("\nAccuracy on new words, mean +- standard deviation of 4 folds")
print(f"  {'':<20} {'whose voice':>18} {'what kind of word':>18}")
print(f"  {'most frequent class':<20} {chance(voices):>18.3f} {chance(kinds):>18.3f}")
for name in candidates:
    cells = [scores[question, name] for question in ("whose voice", "what kind of word")]
    print(f"  {name:<20} " + " ".join(f"{s.mean():9.3f} +- {s.std():.3f}" for s in cells))
if not args.model:
    print("Random weights only show the way: name a model of the hub to see what training brings.")
scratch.cleanup()
