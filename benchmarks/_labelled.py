"""Labelled rows for the benchmark of training: texts, pictures and sounds, with their embedders.

Each task has rows to draw from and rows to be tested on, an embedder to train, and vectors that
need no model. Nothing is read or imported before it is asked for.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

sys.path.append(str(Path(__file__).parents[1] / "examples"))

__all__ = ["TASKS", "Task", "draw", "load"]

N_ROWS = 1000  # that "all" stands for, at most
N_WORDS = 24  # of a docstring
N_TOKENS = 64  # of a review, at most
N_PICTURES = 2000  # to draw from, and as many to be tested on
SIDE_SMALL, SIDE_LITE = 32, 64  # pixels that a picture is enlarged to
N_SECONDS = (1.6, 4.0)  # of a prompt


@dataclass
class Task:
    """Rows to draw from and to be tested on; what embeds them, with a model and without one."""

    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray
    embed: Callable[[Any], Any]
    """Makes an embedder with a strategy."""
    classify: Callable[[], Any]
    """Makes the classifier of the vectors."""
    baseline: Any
    """Makes vectors without a model."""
    caps: str


def draw(task: Task, n_each: int | None, seed: int) -> np.ndarray:
    """Return so many rows of each class, or as many of all as are affordable."""
    rng = np.random.default_rng(seed)
    if n_each is None:
        return rng.permutation(len(task.y))[:N_ROWS]
    rows = [rng.permutation(np.flatnonzero(task.y == each))[:n_each] for each in np.unique(task.y)]
    return rng.permutation(np.concatenate(rows))


def load(name: str) -> Task:
    """Return a task."""
    return TASKS[name]()


# Texts ------------------------------------------------------------------------------------------


def of_unit_length() -> Any:
    """Return the classifier of vectors of unit length: weaker penalties than the default do better.

    With 4,000 reviews and 1,300 docstrings, 10 is the best of 0.1, 1, 10 and 100 for frozen MiniLM.
    """
    return LogisticRegression(C=10, max_iter=2000)


def texts(X: Any, y: Any, X_test: Any, y_test: Any, caps: str) -> Task:
    """Return a task of texts: MiniLM beside TF-IDF."""
    from skembed import TextEmbedder

    def embed(training: Any) -> Any:
        return TextEmbedder(max_length=N_TOKENS, on_truncate="ignore", training=training)

    tfidf = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    return Task(X, y, X_test, y_test, embed, of_unit_length, tfidf, caps)


def docstrings() -> Task:
    """Which module is a docstring from?"""
    from _data import read_docstrings

    found: dict[str, str] = {}
    for name, docstring in read_docstrings().items():
        module = name.rpartition(".")[0]
        text = " ".join(docstring.split()[:N_WORDS])
        found.setdefault(text, "sklearn" if module.startswith("sklearn.") else module)
    X, y = np.array(list(found), dtype=object), np.array(list(found.values()))
    labels, sizes = np.unique(y, return_counts=True)
    large = np.isin(y, labels[sizes >= 92])  # 64 to learn from, and as good as 30% to be tested on
    X, X_test, y, y_test = train_test_split(
        X[large], y[large], test_size=0.3, random_state=0, stratify=y[large]
    )
    return texts(X, y, X_test, y_test, f"the first {N_WORDS} words of each")


def reviews() -> Task:
    """Is a review of food great or not?"""
    from _food_reviews import food_reviews

    (X, y), (X_test, y_test) = food_reviews("train"), food_reviews("test")
    caps = f"at most {N_TOKENS} tokens of each"
    return texts(X, y, X_test, y_test, caps)


# Pictures ---------------------------------------------------------------------------------------


def standardised() -> Any:
    """Return the classifier of vectors of any length."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))


class Enlarge:
    """Turns a picture into pixels from -1 to 1, of a side."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Any) -> Any:
        """Return pixels (3, side, side), float32."""
        import torch

        pixels = np.asarray(image.resize((self.side, self.side)), np.float32)
        return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)


def fashion(make: Callable[[], tuple[Any, Any]]) -> Task:
    """Which garment is it? With a network and what prepares its pictures."""
    from skembed import ImageEmbedder

    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        raise SystemExit(f"Fashion-MNIST is not in {folder}: apt-get install dataset-fashion-mnist")

    def read(name: str, offset: int) -> np.ndarray:
        content = gzip.decompress((folder / name).read_bytes())
        return np.frombuffer(content, np.uint8, offset=offset)

    parts = []
    for part in ("train", "t10k"):
        pixels = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        parts += [pixels[:N_PICTURES], read(f"{part}-labels-idx1-ubyte.gz", 8)[:N_PICTURES]]
    network, preprocess = make()

    def embed(training: Any) -> Any:
        return ImageEmbedder(
            network, preprocess=preprocess, image_shape=(28, 28), training=training
        )

    return Task(
        *parts, embed, standardised, FunctionTransformer(), f"{N_PICTURES:,} pictures of 60,000"
    )


def small_network() -> tuple[Any, Any]:
    """Return torchvision's ResNet-18 with random weights and without its classifier."""
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18(weights=None)
    network.fc = torch.nn.Identity()
    return network.eval(), Enlarge(SIDE_SMALL)


def lite_network() -> tuple[Any, Any]:
    """Return EfficientNet-Lite0 with ImageNet's weights and without its classifier."""
    import torch
    from _efficientnet_lite0 import Preset, efficientnet_lite0

    network = efficientnet_lite0()
    network._fc = torch.nn.Identity()
    return network, Preset(SIDE_LITE)


# Sounds -----------------------------------------------------------------------------------------


def prompts() -> Task:
    """Who says it, on a telephone line of its own?"""
    import soundfile
    from _speaker_encoder import mels_of, speaker_encoder

    from skembed import AudioEmbedder

    sounds = Path("/usr/share/asterisk/sounds")
    voices = {"en": "en_US_f_Allison", "fr": "fr_CA_f_June", "it": "it_IT_m_Carlo"}
    rng = np.random.default_rng(0)
    X, y, words = [], [], []
    for language, folder in voices.items():
        if not (sounds / folder).is_dir():
            package = f"asterisk-core-sounds-{language}-wav"
            raise SystemExit(f"{sounds / folder} is missing: apt-get install {package}")
        for file in sorted((sounds / folder).glob("*.wav")):
            if N_SECONDS[0] <= soundfile.info(file).duration <= N_SECONDS[1]:
                X.append(put_on_a_line(file, rng))
                y.append(language)
                words.append(file.name)
    # No words are in both parts.
    names = sorted(set(words))
    _, held_out = train_test_split(names, test_size=0.4, random_state=0)
    is_test = np.isin(words, held_out)
    labels, rows = np.array(y), np.arange(len(y))
    train, test = rows[~is_test], rows[is_test]
    network = speaker_encoder()

    def embed(training: Any) -> Any:
        return AudioEmbedder(network, preprocess=mels_of, window=1.6, hop=0.8, training=training)

    return Task(
        *([X[i] for i in train], labels[train], [X[i] for i in test], labels[test]),
        *(embed, standardised, AudioEmbedder("logmel")),
        f"prompts of {N_SECONDS[0]} to {N_SECONDS[1]} s, each with a tone and noise of its own",
    )


def put_on_a_line(file: Path, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Read a clip and give it a telephone line of its own: tone and noise.

    The spectrum is tilted by up to 3 dB per octave, either way; white noise lies 10 to 30 dB below.
    """
    import soundfile

    samples, rate = soundfile.read(file)
    octaves = np.log2(np.fft.rfftfreq(len(samples), 1 / rate).clip(50) / 1000)
    gain = 10 ** (rng.uniform(-3, 3) * octaves / 20)
    tilted = np.fft.irfft(np.fft.rfft(samples) * gain, len(samples))
    noise = rng.standard_normal(len(samples)) * tilted.std() * 10 ** (-rng.uniform(10, 30) / 20)
    noisy = tilted + noise
    return (noisy / np.abs(noisy).max() / 2).astype(np.float32), rate


TASKS: dict[str, Callable[[], Task]] = {
    "docstrings": docstrings,
    "reviews": reviews,
    "clothes, ResNet-18 at random": partial(fashion, small_network),
    "clothes, EfficientNet-Lite0": partial(fashion, lite_network),
    "voices": prompts,
}
