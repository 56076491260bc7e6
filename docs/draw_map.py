"""Draws the picture of the first page: python docs/draw_map.py."""

import inspect
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt

from skembed import EmbeddingMapDisplay, TextEmbedder

MODULES = {
    "images": "scipy.ndimage",
    "optimisation": "scipy.optimize",
    "probability": "scipy.stats",
    "special functions": "scipy.special",
    "signals": "scipy.signal",
    "metrics": "sklearn.metrics",
    "linear algebra": "scipy.linalg",
    "Fourier transforms": "scipy.fft",
    "data sets": "sklearn.datasets",
}

texts, subjects = [], []
for subject, name in MODULES.items():
    module = import_module(name)
    for member in sorted(module.__all__):
        thing = getattr(module, member)
        first = (inspect.getdoc(thing) or "").partition("\n\n")[0]
        if callable(thing) and "(" not in first[:40] and len(first) > 20:
            texts.append(first.replace("\n", " "))
            subjects.append(subject)

figure, ax = plt.subplots(figsize=(8.5, 5), layout="constrained")
EmbeddingMapDisplay.from_estimator(TextEmbedder(), texts, subjects, ax=ax, legend=False)
path = Path(__file__).parent / "_static" / "map.png"
figure.savefig(path, dpi=110)
