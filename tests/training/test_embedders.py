"""Training through the estimators: what fit changes, what it leaves, what it says."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skembed import FineTune, TextEmbedder

PETS = ["a cat", "a kitten", "a dog", "a puppy"]
MONEY = ["a bill", "a tax return", "a fee", "a fine"]
X, Y = (PETS + MONEY) * 4, (["pet"] * 4 + ["money"] * 4) * 4


@pytest.fixture(scope="module", params=["head", "lora", "full"])
def trained(request):
    return TextEmbedder(training=FineTune(request.param, n_epochs=2), cache=None).fit(X, Y)


def test_fit_changes_vectors(trained):
    assert np.abs(trained.transform(X) - TextEmbedder().fit_transform(X)).max() > 1e-3


def test_a_pickle_gives_the_same_vectors(trained):
    again = pickle.loads(pickle.dumps(trained))
    np.testing.assert_array_equal(again.transform(X), trained.transform(X))


def test_a_refit_gives_the_same_weights_bit_by_bit(trained):
    assert clone(trained).fit(X, Y).trained_.digest == trained.trained_.digest


def test_a_clone_forgets(trained):
    with pytest.raises(NotFittedError, match=r"has not been fitted; call fit\(X, y\) first"):
        clone(trained).transform(X)


def test_other_training_parameters_ask_for_another_fit(trained):
    other = pickle.loads(pickle.dumps(trained)).set_params(training__n_epochs=7)
    with pytest.raises(NotFittedError, match=r"training__n_epochs was 2\. Fit again"):
        other.transform(X)
