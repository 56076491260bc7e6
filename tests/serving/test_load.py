"""What may be served is loaded; what would run foreign code, or read files, is not."""

import os
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from skembed import FineTune, FunctionEmbedder, ImageEmbedder, TextEmbedder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    ModelNotFoundError,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.serving import load_model, name_of
from skembed.serving._served import Served
from tests.serving.servers import embed_slowly
from tests.text.checkpoints import TEXTS


@pytest.fixture
def save(tmp_path):
    def save(estimator):
        skops.io.dump(estimator, tmp_path / "model.skops")
        return str(tmp_path / "model.skops")

    return save


class TestFiles:
    def test_a_name_or_folder_is_that_of_a_text_embedder(self, folder):
        model = load_model(str(folder), {"prompt": None}, of_embedders={"dtype": "float32"})
        assert isinstance(model, TextEmbedder)
        params = model.get_params()
        assert (params["model"], params["dtype"], params["prompt"]) == (
            str(folder),
            "float32",
            None,
        )
        assert params["on_error"] == "nan"

    def test_a_saved_pipeline_gives_its_vectors(self, folder, save):
        pipeline = make_pipeline(TextEmbedder(folder.as_posix(), dtype="float32"), PCA(3))
        file = save(pipeline.fit(TEXTS))
        model = load_model(file, of_embedders={"cache": None})
        assert np.allclose(model.transform(TEXTS), pipeline.transform(TEXTS), atol=1e-6)
        assert model[0].cache is None
        assert model[0].on_error == "raise"

    def test_what_an_embedder_has_learned_is_served(self, folder, save):
        embedder = TextEmbedder(folder.as_posix(), training=FineTune("head", n_epochs=1))
        embedder.fit(TEXTS * 2, [0, 1] * len(TEXTS))
        model = load_model(save(embedder))
        assert np.allclose(model.transform(TEXTS), embedder.transform(TEXTS), atol=1e-6)

    def test_parameters_reach_every_embedder_fitted_copies_too(self, folder, save):
        union = make_union(TextEmbedder(folder.as_posix()), TextEmbedder(folder.as_posix()))
        model = load_model(save(union.fit(TEXTS)), of_embedders={"dtype": "float32"})
        assert [step.dtype for _, step in model.transformer_list] == ["float32"] * 2

    def test_a_pickle_is_not_opened_unless_that_is_asked_for(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        for suffix in (".joblib", ".pkl", ".pickle", ".PKL"):
            (tmp_path / f"model{suffix}").write_bytes(pickle.dumps(Bomb()))
            with pytest.raises(UnsafeModelError, match=r"is a pickle.*skops.io.dump"):
                load_model(str(tmp_path / f"model{suffix}"))
        assert not (tmp_path / "ran").exists()
        joblib.dump(FunctionEmbedder(embed_slowly, version="1"), tmp_path / "mine.joblib")
        model = load_model(str(tmp_path / "mine.joblib"), allow_pickle=True)
        assert model.transform(["abba"]).tolist() == [[2, 2, 0, 0]]

    def test_foreign_types_are_refused_and_listed(self, save):
        for estimator, name in (
            (make_pipeline(FunctionTransformer(os.system)), "system"),
            (FunctionEmbedder(embed_slowly, version="1"), "tests.serving.servers.embed_slowly"),
            (FunctionEmbedder(np.load, version="1"), "numpy.load"),
            (FunctionEmbedder(name_of, version="1"), "skembed.serving._load.name_of"),
        ):
            file = save(estimator)
            with pytest.raises(UnsafeModelError, match=f"foreign code: [^ ]*{name}"):
                load_model(file)

    def test_a_file_that_is_not_there_is_not_found(self):
        with pytest.raises(ModelNotFoundError, match="there is no such file"):
            load_model("nowhere/model.skops")

    def test_what_a_file_asks_for_is_not_done_unless_you_ask_too(self, save):
        for params in ({"trust_remote_code": True}, {"base_url": "http://elsewhere/v1"}):
            file = save(make_pipeline(TextEmbedder("org/name", **params)))
            (name, value), *_ = params.items()
            with pytest.raises(UnsafeModelError, match=f"{name}=.*only you may decide.*--set"):
                load_model(file)
            model = load_model(file, {f"textembedder__{name}": value})
            assert model[0].get_params()[name] == value

    def test_a_file_does_not_send_texts_to_a_service_unless_you_ask_too(self, save):
        file = save(make_pipeline(TextEmbedder("openai:mine")))
        with pytest.raises(UnsafeModelError, match=r"model='openai:mine'.*with your key.*--set"):
            load_model(file)
        model = load_model(file, {"textembedder__model": "openai:mine"})
        assert model[0].model == "openai:mine"
        assert load_model("openai:mine").model == "openai:mine"


class TestKinds:
    def test_embedders_of_files_are_refused(self, save):
        file = save(make_pipeline(ImageEmbedder("resnet18")))
        with pytest.raises(UnsupportedModelError, match="ImageEmbedder does not embed texts"):
            load_model(file)

    def test_a_vectorizer_that_reads_files_is_refused(self, save):
        file = save(make_pipeline(CountVectorizer(input="filename"), TruncatedSVD(2)))
        with pytest.raises(UnsafeModelError, match="would read the files that clients name"):
            load_model(file)

    def test_a_pipeline_that_ends_in_a_classifier_is_refused(self, save):
        file = save(make_pipeline(TextEmbedder(), LogisticRegression()))
        with pytest.raises(UnsupportedModelError, match=r"LogisticRegression has no transform.*-1"):
            load_model(file)

    def test_what_is_no_estimator_is_refused(self, save):
        with pytest.raises(UnsupportedModelError, match="got an object of type dict"):
            load_model(save({"a": 1}))

    def test_an_unknown_parameter_is_refused(self, folder):
        with pytest.raises(InvalidParameterError, match="has no parameter 'prompts'"):
            load_model(str(folder), {"prompts": None})

    def test_a_parameter_that_no_embedder_has_is_refused(self, save):
        file = save(make_pipeline(TfidfVectorizer(), TruncatedSVD(2)).fit(TEXTS))
        with pytest.raises(InvalidParameterError, match="no embedder in it has the parameter"):
            load_model(file, of_embedders={"device": "cpu"})

    def test_sparse_or_other_output_is_refused_when_it_warms_up(self):
        with pytest.raises(UnsupportedModelError, match="makes sparse vectors, which"):
            Served(TfidfVectorizer().fit(TEXTS)).warm_up()
        for output in ([1.0], [["a"]], [[1.0], [2.0]], [[]]):
            step = FunctionTransformer(lambda texts, output=output: output)
            with pytest.raises(InvalidInputError, match="expected a 2-D array of numbers with a"):
                Served(step).warm_up()

    def test_a_pipeline_of_scikit_learn_alone_is_served(self, save):
        pipeline = make_pipeline(TfidfVectorizer(), TruncatedSVD(2)).fit(TEXTS)
        served = Served(load_model(save(pipeline), of_embedders={"cache": None}))
        served.warm_up()
        found = served.embed(TEXTS)
        assert np.allclose(found.vectors, pipeline.transform(TEXTS))
        assert (found.n_tokens.tolist(), found.faults) == ([0] * len(TEXTS), {})


def test_clients_call_a_model_by_its_hub_id_or_the_name_of_its_file(tmp_path, folder):
    assert name_of("org/name") == "org/name"
    assert name_of(str(folder)) == "tiny"
    (tmp_path / "reviews.skops").touch()
    assert name_of(str(tmp_path / "reviews.skops")) == "reviews"
