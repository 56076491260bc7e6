"""ImageEmbedder as its users meet it, on a tiny module."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from torchvision.models import ResNet18_Weights

from skembed import EmbeddingStore, ImageEmbedder, TextEmbedder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    ModelNotFoundError,
)
from tests.image.networks import (
    TinyNetwork,
    features,
    pictures,
    to_pixels,
    to_small_pixels,
    write_files,
)

ARRAYS = pictures(5)


@pytest.fixture
def embedder():
    return ImageEmbedder(
        TinyNetwork(), preprocess=to_pixels, dtype="float32", cache=EmbeddingStore()
    )


class TestVectors:
    def test_they_are_the_modules_own(self, embedder):
        expected = features(TinyNetwork(), to_pixels, ARRAYS)
        np.testing.assert_allclose(embedder.transform(ARRAYS), expected, atol=1e-5)

    def test_they_do_not_depend_on_the_neighbours(self, embedder):
        many = pictures(150, seed=3)
        together = embedder.transform(many)
        alone = np.concatenate(
            [clone(embedder).set_params(cache=None).transform([m]) for m in many]
        )
        np.testing.assert_allclose(together, alone, atol=1e-5)

    def test_bfloat16_is_near(self, embedder):
        exact = embedder.transform(ARRAYS)
        rough = embedder.set_params(dtype="bfloat16").transform(ARRAYS)
        assert embedder.dtype_ == "bfloat16"
        assert embedder.report_.n_reused == 0  # not those of float32
        cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1)
        assert (cosines / np.linalg.norm(rough, axis=1) > 0.999).all()

    def test_pooling_components_and_length(self, embedder):
        whole = embedder.transform(ARRAYS)
        first = clone(embedder).set_params(n_components=4).transform(ARRAYS)
        np.testing.assert_allclose(first, whole[:, :4], atol=1e-5)
        unit = clone(embedder).set_params(n_components=4, normalize=True).transform(ARRAYS)
        expected = first / np.linalg.norm(first, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, expected, atol=1e-5)
        largest = clone(embedder).set_params(pooling="max").transform(ARRAYS)
        assert (largest >= whole - 1e-5).all()

    def test_a_layer_in_the_middle_has_its_own_width(self, embedder):
        assert embedder.set_params(layer="norm").transform(ARRAYS).shape == (5, 8)

    def test_one_picture_in_every_form_is_one_row(self, embedder, tmp_path):
        array = ARRAYS[0]
        (path,) = write_files(tmp_path, [array])
        forms = [
            array,
            Image.fromarray(array),
            torch.from_numpy(array).permute(2, 0, 1),
            array.astype(np.float64) / 255,
            path,
            Path(path),
            Path(path).read_bytes(),
        ]
        with Path(path).open("rb") as file:
            vectors = embedder.transform([*forms, file])
            again = embedder.transform([*forms, file])
        assert (vectors == vectors[0]).all()
        np.testing.assert_array_equal(again, vectors)
        assert embedder.report_.n_encoded == 0
        assert embedder.report_.n_distinct == 2  # by its pixels, and by the bytes of its file


class TestRows:
    def test_containers_give_the_vectors_of_a_list(self, embedder, tmp_path):
        paths = write_files(tmp_path, ARRAYS)
        expected = embedder.transform(paths)
        index = [7, 7, "x", -1, 0]
        for container in (
            tuple(paths),
            np.array(paths),
            pd.Series(paths, index=index),
            pd.DataFrame({"photo": paths}, index=index),
            pl.Series(paths),
        ):
            np.testing.assert_array_equal(embedder.transform(container), expected)

    def test_frames_keep_their_index(self, embedder, tmp_path):
        photos = pd.Series(write_files(tmp_path, ARRAYS), index=[7, 7, "x", -1, 0])
        out = embedder.set_output(transform="pandas").fit_transform(photos)
        assert out.index.tolist() == photos.index.tolist()
        assert out.columns[0] == "imageembedder0"

    def test_one_row_and_no_rows(self, embedder):
        assert embedder.transform(ARRAYS[:1]).shape == (1, 16)
        assert embedder.transform([]).shape == (0, 16)

    def test_bad_rows_are_named_and_good_ones_kept(self, embedder, tmp_path):
        good = write_files(tmp_path, ARRAYS)
        broken = tmp_path / "broken.png"
        broken.write_bytes(Path(good[0]).read_bytes()[:60])
        rows = [good[0], broken, good[1], None, tmp_path, 7]
        with pytest.raises(InvalidRowsError, match="3 of 6 rows cannot be embedded") as caught:
            embedder.transform(rows)
        assert sorted(caught.value.faults) == [3, 4, 5]
        with pytest.raises(InvalidRowsError, match="row 1: ") as caught:
            embedder.transform(rows[:3])
        assert sorted(caught.value.faults) == [1]
        embedder.set_params(on_error="nan")
        with pytest.warns(InvalidRowsWarning, match="4 of 6 rows cannot be embedded"):
            vectors = embedder.transform(rows)
        assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False, True, True, True]
        assert sorted(embedder.report_.faults) == [1, 3, 4, 5]
        assert embedder.report_.n_encoded == 0  # the good ones are in the store since the first try
        assert embedder.report_.n_pixels.tolist() == [240, 0, 270, 0, 0, 0]

    def test_a_picture_that_is_no_collection_is_refused(self, embedder):
        with pytest.raises(InvalidInputError, match="single"):
            embedder.transform(ARRAYS[0])
        with pytest.raises(InvalidInputError, match="list"):
            embedder.transform("photo.jpg")

    def test_a_transform_that_fails_on_a_row_names_it(self, embedder):
        def picky(image):
            if image.width == 9:
                raise ValueError("too narrow")
            return to_pixels(image)

        embedder.set_params(preprocess=picky)
        with pytest.raises(InvalidRowsError, match=r"row 1: .*ValueError: too narrow"):
            embedder.transform(ARRAYS[:3])

    def test_a_file_that_is_written_anew_is_embedded_anew(self, embedder, tmp_path):
        (path,) = write_files(tmp_path, ARRAYS[:1])
        before = embedder.transform([path])
        write_files(tmp_path, ARRAYS[2:3])
        after = embedder.transform([path])
        np.testing.assert_allclose(after, embedder.transform(ARRAYS[2:3]), atol=1e-5)
        assert np.abs(after - before).max() > 1e-3


class TestEstimator:
    def test_the_users_module_stays_as_it_is(self):
        module = TinyNetwork().train()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        ImageEmbedder(module, preprocess=to_pixels).fit_transform(ARRAYS)
        assert module.training
        assert module.first.weight.requires_grad
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name])

    def test_clones_and_pickles_share_vectors(self, embedder):
        embedder.set_params(cache="run")
        expected = embedder.transform(ARRAYS)
        for copied in (clone(embedder), pickle.loads(pickle.dumps(embedder))):
            np.testing.assert_array_equal(copied.transform(ARRAYS), expected)
            assert copied.report_.n_encoded == 0

    def test_another_weight_or_transform_is_another_vector(self, embedder):
        first = embedder.transform(ARRAYS)
        module = TinyNetwork()
        module.last.weight.data[0, 0, 0, 0] += 1
        changed = embedder.set_params(model=module).transform(ARRAYS)
        assert (changed[:, 0] != first[:, 0]).all()
        np.testing.assert_allclose(changed[:, 1:], first[:, 1:], atol=1e-5)
        small = embedder.set_params(preprocess=to_small_pixels).transform(ARRAYS)
        assert embedder.report_.n_encoded == 5
        assert np.abs(small - changed).max() > 1e-3

    def test_a_change_in_place_of_the_module_is_seen(self, embedder):
        first = embedder.transform(ARRAYS)
        embedder.model.last.weight.data.mul_(2)
        embedder.model.last.bias.data.mul_(2)
        np.testing.assert_allclose(embedder.transform(ARRAYS), 2 * first, rtol=1e-4, atol=1e-5)

    def test_skops_saves_an_embedder_by_name(self):
        embedder = ImageEmbedder("squeezenet1_1", weights=None, pooling="auto")
        loaded = skops.io.loads(
            skops.io.dumps(embedder), trusted=["skembed.image._embedder.ImageEmbedder"]
        )
        assert loaded.get_params() == embedder.get_params()

    def test_the_report_says_what_was_done(self, embedder):
        embedder.transform([*ARRAYS, ARRAYS[0]])
        report = embedder.report_
        assert (report.n_rows, report.n_distinct, report.n_encoded) == (6, 5, 5)
        assert report.n_pixels.tolist() == [240, 270, 256, 240, 270, 240]
        assert str(report).startswith("6 rows, 5 distinct: 5 encoded, 0 reused")

    def test_a_call_that_was_refused_leaves_no_report_of_an_earlier_one(self, embedder):
        embedder.transform(ARRAYS)
        with pytest.raises(InvalidRowsError, match=r"row 0: missing"):
            embedder.transform([None])
        assert not hasattr(embedder, "report_")

    def test_tags_say_what_rows_are(self, embedder):
        tags = get_tags(embedder)
        assert not tags.requires_fit
        assert tags.input_tags.string
        assert not tags.input_tags.two_d_array
        assert get_tags(embedder.set_params(image_shape=(8, 8))).input_tags.two_d_array

    def test_progress_is_shown_when_asked(self, embedder, capsys):
        def slow(image):
            import time

            time.sleep(0.02)
            return to_pixels(image)

        embedder.set_params(verbose=True, preprocess=slow, cache=None)
        embedder.transform(pictures(100, seed=5))
        assert "ImageEmbedder" in capsys.readouterr().err


class TestParameters:
    def test_all_faults_are_told_at_once(self):
        embedder = ImageEmbedder(
            3,
            pooling="median",
            batch_size=0,
            preprocess=7,
            layer=2.5,
            image_shape=(8,),
            value_range=(3, 1),
        )
        with pytest.raises(InvalidParameterError, match=r"model") as caught:
            embedder.fit(ARRAYS)
        for name in ("model", "pooling", "batch_size", "preprocess", "layer"):
            assert f"ImageEmbedder({name}=" in str(caught.value)
        for given in ("image_shape=(8,)", "value_range=(3, 1)"):
            assert f"{given}: expected" in str(caught.value)

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"preprocess": None}, "preprocess"),
            ({"n_components": 17}, "n_components=17, but .* gives 16 features"),
            ({"layer": "nrom"}, "norm"),
            ({"pooling": "cls"}, "feature map"),
            ({"layer": True}, "layer=True: expected the name of a submodule"),
            ({"preprocess": lambda image: np.zeros(3)}, "preprocess"),
            ({"device": "gpu"}, "device='gpu'"),
            ({"weights": "IMAGENET1K_V1"}, "weights"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, embedder, params, message):
        with pytest.raises(InvalidParameterError, match=message):
            embedder.set_params(**params).fit(ARRAYS)

    def test_a_value_of_many_numbers_is_not_told_whole(self):
        weights = {"weight": np.arange(100_000).tolist()}
        with pytest.raises(InvalidParameterError, match=r"weights=<dict>\): expected") as caught:
            ImageEmbedder(weights=weights).fit([])
        assert len(str(caught.value)) < 2000

    def test_torchvisions_enum_members_are_weights(self):
        members = ResNet18_Weights.DEFAULT, ResNet18_Weights.IMAGENET1K_V1
        for weights in (*members, "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
            with pytest.raises(ModelNotFoundError, match=r"resnet18-f37072fd.pth"):
                clone(ImageEmbedder("resnet18", weights=weights)).fit([])
        with pytest.raises(InvalidParameterError, match=r"nor weights for resnet50"):
            ImageEmbedder("resnet50", weights=ResNet18_Weights.DEFAULT).fit([])

    def test_a_name_that_is_no_model_says_what_is_like_it(self):
        with pytest.raises(InvalidParameterError, match="resnet50"):
            ImageEmbedder("resnet5O").fit([])

    def test_numpys_own_kinds_of_values_do(self, embedder):
        expected = embedder.transform(ARRAYS)
        embedder.set_params(pooling=np.str_("mean"), normalize=np.bool_(False))
        np.testing.assert_array_equal(embedder.transform(ARRAYS), expected)
        assert embedder.report_.n_encoded == 5  # "auto" and "mean" are told apart


def test_a_column_transformer_mixes_pictures_text_and_numbers(tmp_path):
    frame = pd.DataFrame(
        {
            "photo": write_files(tmp_path, ARRAYS),
            "review": ["good", "bad", "fair", "great", "poor"],
            "price": [1.0, 2.0, 3.0, 4.0, 5.0],
        },
        index=list("edcba"),
    )
    mixed = ColumnTransformer(
        [
            ("photo", ImageEmbedder(TinyNetwork(), preprocess=to_pixels), "photo"),
            ("review", TextEmbedder(), "review"),
            ("price", "passthrough", ["price"]),
        ]
    )
    pipeline = make_pipeline(mixed, KNeighborsClassifier(1))
    assert pipeline.fit(frame, list("vwxyz")).predict(frame).tolist() == list("vwxyz")
    assert mixed.set_output(transform="pandas").fit_transform(frame).shape == (5, 16 + 384 + 1)


def test_no_warning_comes_from_a_first_use(embedder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.fit_transform(ARRAYS)
