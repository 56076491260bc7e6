"""What every embedder that runs a model has from its base class."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError

import skembed
from skembed import BaseEmbedder, Encoder, FunctionEmbedder
from skembed._inputs import CheckedRows
from skembed._pretrained import PretrainedEmbedder
from skembed.exceptions import InvalidInputError, InvalidParameterError, InvalidRowsError
from tests.engine.letters import LetterEncoder, letter_counts


class Part(BaseEstimator):
    """Something with parameters of its own, as a strategy of training is."""

    def __init__(self, rate=1):
        self.rate = rate


@dataclass(frozen=True)
class Settings:
    rate: int | None


class LetterEmbedder(PretrainedEmbedder):
    """Counts letters; its model is no model."""

    _settings_type = Settings
    backbone = SimpleNamespace(
        prefers_float32=True, core_digest=b"none", encoder_type=None, runs_on_cpu=False
    )

    def __init__(
        self,
        part=None,
        device="cpu",
        batch_size="auto",
        cache=None,
        on_error="raise",
        verbose=False,
    ):
        self.part = part
        self.device = device
        self.batch_size = batch_size
        self.cache = cache
        self.on_error = on_error
        self.verbose = verbose

    def _check_rows(self, X):
        self.n_checks = self.__dict__.get("n_checks", 0) + 1
        return CheckedRows(list(X), np.arange(len(X)), len(X))

    def _other_settings(self):
        return {"rate": self.part and self.part.rate}

    def _find_backbone(self, settings):
        return self.backbone

    def _make_encoder(self, backbone, settings, device):
        return LetterEncoder()


def test_fit_transform_checks_rows_once_and_gives_what_transform_gives():
    embedder = LetterEmbedder()
    found = embedder.fit_transform(["abc", "b"])
    assert embedder.n_checks == 1
    np.testing.assert_array_equal(found, [letter_counts("abc"), letter_counts("b")])
    np.testing.assert_array_equal(embedder.transform(["abc", "b"]), found)
    assert embedder.report_.n_rows == 2


def test_an_encoder_is_of_the_parameters_of_nested_objects_too():
    embedder = LetterEmbedder(Part(rate=1)).fit(["a"])
    first = embedder.encoder_
    embedder.part.rate = 2
    with pytest.raises(AttributeError, match="has not made its encoder"):
        embedder.encoder_  # noqa: B018
    embedder.set_params(part__rate=1)
    assert embedder.encoder_ is first


def test_clones_and_calls_share_one_encoder_while_settings_are_the_same():
    embedder = LetterEmbedder(Part(rate=3)).fit(["a"])
    assert clone(embedder).fit(["b"]).encoder_ is embedder.encoder_
    assert LetterEmbedder(Part(rate=4)).fit(["a"]).encoder_ is not embedder.encoder_


def test_clones_share_modules_and_copy_the_rest():
    embedder = LetterEmbedder(torch.nn.Linear(2, 2), device=["cpu"]).set_output(transform="pandas")
    other = clone(embedder)
    assert other.part is embedder.part
    assert other.device == embedder.device
    assert other.device is not embedder.device
    assert other._sklearn_output_config == embedder._sklearn_output_config
    assert embedder.part is not None


def test_pickles_hold_neither_encoder_nor_report():
    embedder = LetterEmbedder()
    embedder.fit_transform(["a"] * 1000)
    assert len(pickle.dumps(embedder)) < 1000
    assert not hasattr(pickle.loads(pickle.dumps(embedder)), "report_")


@pytest.mark.parametrize("kind", ["text", "image", "audio", None])
def test_models_are_listed_with_what_a_user_wants_to_know(kind):
    models = skembed.list_models(kind)
    assert models
    # Some models embed texts and pictures, or sounds.
    assert len({info.name if kind else (info.name, info.note) for info in models}) == len(models)
    for info in models:
        assert info.width > 0
        assert info.source
        assert info.note


def test_unknown_kinds_of_models_are_refused_with_those_that_there_are():
    with pytest.raises(InvalidParameterError, match="'text', 'image', 'audio'"):
        skembed.list_models("video")


class LetterOccurrences(Encoder):
    """Counts one letter, some times over."""

    width = 1

    def __init__(self, letter, times):
        self.letter, self.times = letter, times

    def contents(self, items):
        return map(str.encode, items)

    def encode(self, batch):
        counts = [[text.count(self.letter) * self.times] for text in batch]
        return torch.tensor(counts, dtype=torch.float32)


class OwnEmbedder(BaseEmbedder):
    """As short as one can be: it names no parameter of its base."""

    def __init__(self, letter="a", times=1):
        self.letter = letter
        self.times = times

    def _check_row(self, value):
        if not isinstance(value, str):
            raise ValueError(f"expected a str, got {value!r}")
        return value

    def _get_encoder(self):
        return LetterOccurrences(self.letter, self.times)


def test_an_encoder_without_a_digest_stands_for_its_attributes_and_code():
    def encoded(embedder):
        vectors = embedder.fit_transform(["abab", "a"])
        return vectors[:, 0].tolist(), embedder.report_.n_encoded

    assert encoded(OwnEmbedder()) == ([2, 1], 2)
    assert encoded(OwnEmbedder(times=3)) == ([6, 3], 2)
    assert encoded(OwnEmbedder(letter="b")) == ([2, 0], 2)
    assert encoded(OwnEmbedder()) == ([2, 1], 0)

    class Negative(LetterOccurrences):
        def encode(self, batch):
            return -super().encode(batch)

    class NegativeEmbedder(OwnEmbedder):
        def _get_encoder(self):
            return Negative(self.letter, self.times)

    assert encoded(NegativeEmbedder()) == ([-2, -1], 2)


def test_rows_of_ones_own_embedder_are_checked_one_by_one():
    with pytest.raises(InvalidRowsError, match=r"2 of 3 rows.*\n  row 1: missing.*\n  row 2: exp"):
        OwnEmbedder().fit(["a", None, 3])
    with pytest.raises(InvalidInputError, match=r"of rows, like \[row, another_row\]"):
        OwnEmbedder().fit("a text")
    assert OwnEmbedder().fit([]).get_feature_names_out().tolist() == ["ownembedder0"]


def test_an_encoder_that_is_kept_and_changed_is_another_one():
    class Scaled(Encoder):
        width, factor = 1, 1.0

        def contents(self, items):
            return map(str.encode, items)

        def encode(self, batch):
            return torch.tensor([[len(item) * self.factor] for item in batch])

    class ScaledEmbedder(BaseEmbedder):
        _kept = Scaled()

        def __init__(self, factor=1.0):
            self.factor = factor

        def _check_row(self, value):
            return value

        def _get_encoder(self):
            self._kept.factor = self.factor
            return self._kept

    found = [ScaledEmbedder(factor).fit_transform(["abc"])[0, 0] for factor in (1.0, 2.0)]
    assert found == [3, 6]


def test_what_is_never_a_path_stays_as_it_is_wherever_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run", "resnet18", "logmel", "auto"):
        (tmp_path / name).mkdir()
    embedders = (
        skembed.TextEmbedder(),
        skembed.ImageEmbedder("resnet18", weights="auto"),
        skembed.AudioEmbedder("logmel"),
    )
    saved = pickle.dumps(embedders)
    monkeypatch.chdir("/")
    assert [repr(each) for each in pickle.loads(saved)] == [repr(each) for each in embedders]


def test_every_call_says_which_rows_are_nan():
    embedder = skembed.FunctionEmbedder(lambda rows: [[1.0]] * len(rows), on_error="nan")
    for _ in range(2):
        with pytest.warns(skembed.exceptions.InvalidRowsWarning, match="row 1"):
            embedder.transform(["a", None])


def test_threads_that_share_an_embedder_do_not_take_its_report_from_each_other():
    embedder = FunctionEmbedder(lambda rows: np.array([[len(row), 1.0] for row in rows]))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: embedder.transform(["a", "bb"]), range(1500)))
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 1500


def test_a_transform_that_failed_gives_no_names():
    embedder = FunctionEmbedder(lambda rows: np.ones((len(rows), 2)))
    with pytest.raises(ValueError, match="missing"):
        embedder.transform([None])
    with pytest.raises(NotFittedError):
        embedder.get_feature_names_out()
