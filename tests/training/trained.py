"""What was trained, as training left it: the oracle of what is served."""

import numpy as np
import torch

from skembed.training import _learn


def spy_on_modules(monkeypatch):
    """Return a list that gets each module whose weights training has read out."""
    modules, arrays_of = [], _learn.arrays_of

    def read(module, *args, **kwargs):
        modules.append(module)
        return arrays_of(module, *args, **kwargs)

    monkeypatch.setattr(_learn, "arrays_of", read)
    return modules


@torch.no_grad()
def vectors_of(module, embedder, X):
    """Return what a trained module gives for rows, prepared as the embedder prepares them."""
    encoder = embedder.encoder_
    prepared = encoder.prepare(embedder._check_rows(X).items)
    batch = encoder.backbone.collate([each.parts[0] for each in prepared])
    return module.eval()(batch).float().numpy()


def check_trained(make, X, y, monkeypatch, **options):
    """Check that fit changes vectors, serves what was trained, and gives the same again."""
    modules = spy_on_modules(monkeypatch)
    options = {"n_epochs": 2, "batch_size": 4, "validation_fraction": None, **options}
    trained = make(**options).fit(X, y)
    found = trained.transform(X)
    frozen = make(training=None).fit_transform(X)
    assert np.abs(found - frozen).max() > 1e-3 * np.abs(frozen).max()
    expected = vectors_of(modules[0], trained, X)
    if trained.encoder_.normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert make(**options).fit(X, y).trained_.digest == trained.trained_.digest
