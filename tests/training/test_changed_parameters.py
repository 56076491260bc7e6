"""Parameters that have changed since `fit`: which ones ask for another, and by what names."""

import pickle

import numpy as np
import pytest
from PIL import ImageFile
from sklearn.exceptions import NotFittedError
from tokenizers.normalizers import Lowercase
from transformers import AutoModel, AutoTokenizer

from skembed import Contrastive, FineTune, ImageEmbedder, TextEmbedder
from tests.image.networks import TinyNetwork, pictures, to_small_pixels
from tests.training.conftest import X, Y

HEAD = FineTune("head", n_epochs=1)
PICTURES = pictures(8, sizes=((16, 16),))
LABELS = ["a", "b"] * 4


def darker(image):
    return to_small_pixels(image) - 1


def another_darker(image):
    return to_small_pixels(image) - 1


@pytest.fixture
def of_pictures():
    made = ImageEmbedder(TinyNetwork(), preprocess=to_small_pixels, training=HEAD, cache=None)
    return made.fit(PICTURES, LABELS)


def test_a_changed_treatment_of_long_texts_is_named_as_the_user_set_it(embedder):
    made = embedder(HEAD, on_truncate="ignore").fit(X, Y)
    made.set_params(on_truncate="warn").transform(X)
    with pytest.raises(NotFittedError, match=r": on_truncate was not 'mean_of_chunks'\. Fit again"):
        made.set_params(on_truncate="mean_of_chunks").transform(X)
    made.fit(X, Y)
    with pytest.raises(NotFittedError, match=r": on_truncate was 'mean_of_chunks'\. Fit again"):
        made.set_params(on_truncate="raise").transform(X)


def test_a_changed_shape_of_pictures_is_named_as_the_user_set_it(of_pictures):
    with pytest.raises(NotFittedError, match=r": image_shape was None\. Fit again"):
        of_pictures.set_params(image_shape=(16, 16, 3)).transform(PICTURES)


def test_pictures_that_are_whole_are_embedded_whatever_is_done_with_others(
    of_pictures, monkeypatch
):
    expected = of_pictures.transform(PICTURES)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    np.testing.assert_array_equal(of_pictures.transform(PICTURES), expected)


def test_another_strategy_is_one_change(embedder):
    made = embedder(HEAD).fit(X, Y).set_params(training=Contrastive(method="head"))
    with pytest.raises(NotFittedError, match=r"parameters: training was FineTune\(\.\.\.\)\. Fit"):
        made.transform(X)


def test_another_preprocess_asks_for_a_fit(of_pictures):
    of_pictures.set_params(preprocess=darker)
    with pytest.raises(NotFittedError, match=r": preprocess was another\. Fit again"):
        of_pictures.transform(PICTURES)
    with pytest.raises(NotFittedError, match=r": preprocess was another\. Fit again"):
        of_pictures.partial_fit(PICTURES, LABELS)
    of_pictures.fit(PICTURES, LABELS).transform(PICTURES)


def test_a_preprocess_that_there_was_none_of_asks_for_a_fit():
    made = ImageEmbedder("squeezenet1_1", weights=None, training=HEAD, cache=None)
    made.fit(PICTURES, LABELS).set_params(preprocess=to_small_pixels)
    with pytest.raises(NotFittedError, match=r": preprocess was None\. Fit again"):
        made.transform(PICTURES)


def test_a_preprocess_of_equal_content_is_the_same(of_pictures):
    of_pictures.set_params(preprocess=darker).fit(PICTURES, LABELS)
    expected = of_pictures.transform(PICTURES)
    another_darker.__qualname__ = another_darker.__name__ = "darker"
    again = of_pictures.set_params(preprocess=another_darker)
    np.testing.assert_array_equal(again.transform(PICTURES), expected)


def test_another_tokenizer_asks_for_a_fit(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    other = AutoTokenizer.from_pretrained(folder)
    other.backend_tokenizer.normalizer = Lowercase()
    made = TextEmbedder(
        AutoModel.from_pretrained(folder), tokenizer=tokenizer, training=HEAD, cache=None
    ).fit(X, Y)
    expected = made.transform(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).transform(X), expected)
    with pytest.raises(NotFittedError, match=r": tokenizer was another\. Fit again"):
        made.set_params(tokenizer=other).transform(X)
    np.testing.assert_array_equal(made.set_params(tokenizer=tokenizer).transform(X), expected)
