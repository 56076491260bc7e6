"""One model, the same name in TextEmbedder, ImageEmbedder and AudioEmbedder, one space."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from PIL import Image
from sklearn.compose import ColumnTransformer

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder, unload_models
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.training import FineTune
from skembed.weights import _load
from tests.audio.checkpoints import clips
from tests.text.test_towers import write_tower

if hasattr(tf, "EmbeddingGemma2Model"):
    from tests.embedding_gemma import own_vectors, write_embedding_gemma

needs_gemma = pytest.mark.skipif(
    not hasattr(tf, "EmbeddingGemma2Model"), reason="transformers before 5.19 has no such model"
)

TEXTS = ["a high tone", "the dark picture of a sound", "low low low low low low low low", "bright"]
SHORT = ["a high tone", "a dark picture", "low", "bright"]
ROOMS = ("text", "image", "audio")
EXACT = {"dtype": "float32", "cache": None}


def pictures(*sizes):
    """Return pictures that look different: shades that rise in other directions and colours."""
    made = []
    for i, (height, width) in enumerate(sizes):
        down, across = np.linspace(0, 90 * (i % 3), height), np.linspace(0, 80 * (i % 2), width)
        shade = np.add.outer(down, across)[..., None] + np.array([0, 30 * i, 70])
        made.append(Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8)))
    return made


def rows_of(room):
    if room == "text":
        return TEXTS
    if room == "image":
        return pictures((40, 60), (100, 30), (64, 64), (40, 60))
    return clips()


def embedder_of(room, folder, **params):
    if room == "audio":
        params = {"sampling_rate": 16_000, **params}
    kind = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}[room]
    return kind(folder, **{**EXACT, **params})


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return write_embedding_gemma(tmp_path_factory.mktemp("one") / "gemma")


@pytest.fixture
def names_read(monkeypatch):
    """Return the names of the tensors that are read from files from now on."""
    unload_models()
    names = []
    read = _load._read_safetensors

    def noting(path, is_wanted):
        state = read(path, is_wanted)
        names.extend(state)
        return state

    monkeypatch.setattr(_load, "_read_safetensors", noting)
    yield names
    unload_models()


@needs_gemma
@pytest.mark.parametrize("room", ROOMS)
def test_vectors_are_the_models_own(gemma, room):
    rows = rows_of(room)
    given = {
        "text": {"text": rows},
        "image": {"images": [[row] for row in rows]},
        "audio": {"audio": rows},
    }
    expected = own_vectors(gemma, **given[room])
    assert expected.std(0).mean() > 0.02  # they differ
    vectors = embedder_of(room, gemma).fit_transform(rows)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


@needs_gemma
@pytest.mark.parametrize("room", ROOMS)
def test_a_vector_does_not_depend_on_the_other_rows(gemma, room):
    rows = rows_of(room)
    embedder = embedder_of(room, gemma)
    together = embedder.transform(rows)
    alone = np.vstack([embedder.transform([row]) for row in rows])
    back = embedder.transform(rows[::-1] * 2)[: len(rows)][::-1]
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)
    np.testing.assert_allclose(back, together, atol=1e-5, rtol=0)


@needs_gemma
def test_sentence_transformers_gives_the_same(gemma):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(gemma), device="cpu")
    for room in ROOMS:
        rows = rows_of(room)
        given = [{room: row} for row in rows] if room != "text" else rows
        vectors = embedder_of(room, gemma).transform(rows)
        np.testing.assert_allclose(vectors, reference.encode(given), atol=1e-5, rtol=0)
    asked = TextEmbedder(gemma, prompt="query", **EXACT).transform(TEXTS)
    expected = reference.encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(asked, expected, atol=1e-5, rtol=0)


@needs_gemma
def test_three_embedders_read_every_weight_once_and_share_one_language_model(gemma, names_read):
    cores = [embedder_of(room, gemma).fit(rows_of(room)).encoder_.core() for room in ROOMS]
    assert cores[0] is cores[1].language
    assert cores[0] is cores[2].language
    stored = tf.EmbeddingGemma2Model.from_pretrained(gemma).state_dict()
    assert sorted(names_read) == sorted(stored)


@needs_gemma
def test_pictures_alone_need_no_tower_for_sounds(gemma, names_read):
    embedder_of("image", gemma).fit_transform(rows_of("image"))
    assert names_read
    assert not [name for name in names_read if "audio" in name]


@needs_gemma
def test_training_on_pictures_leaves_the_published_language_model_alone(gemma):
    before = embedder_of("text", gemma).transform(TEXTS)
    images, y = rows_of("image") * 2, ["a", "b"] * 4
    training = FineTune(n_epochs=1, learning_rate=0.01, random_state=0)
    trained = embedder_of("image", gemma, training=training).fit(images, y)
    published = embedder_of("image", gemma).transform(images)
    assert np.abs(trained.transform(images) - published).max() > 1e-3
    np.testing.assert_array_equal(embedder_of("text", gemma).transform(TEXTS), before)


@needs_gemma
def test_a_trained_text_part_is_exported_and_read_again(gemma, tmp_path):
    training = FineTune(n_epochs=1, learning_rate=0.01, random_state=0)
    trained = embedder_of("text", gemma, training=training).fit(TEXTS, ["a", "b", "a", "b"])
    trained.export(tmp_path / "exported")
    found = embedder_of("text", tmp_path / "exported").transform(TEXTS)
    np.testing.assert_allclose(found, trained.transform(TEXTS), atol=1e-5)


@needs_gemma
def test_pickled_embedders_give_the_same(gemma):
    embedder = embedder_of("image", gemma).fit(rows_of("image"))
    again = pickle.loads(pickle.dumps(embedder))
    expected = embedder.transform(rows_of("image"))
    np.testing.assert_array_equal(again.transform(rows_of("image")), expected)


@needs_gemma
def test_texts_are_cut_where_the_models_card_says(gemma):
    embedder = embedder_of("text", gemma, on_truncate="ignore").fit(["a"])
    embedder.transform(["a"])
    assert embedder.report_.max_length == 8192


@needs_gemma
@pytest.mark.parametrize("room", ["image", "audio"])
def test_a_model_without_the_tower_is_refused(gemma, tmp_path, room):
    for path in gemma.glob("*"):
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config" if room == "image" else "audio_config"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modules.json").unlink()
    with pytest.raises(UnsupportedModelError, match="has no part that reads"):
        embedder_of(room, tmp_path).fit(rows_of(room))


@needs_gemma
@pytest.mark.parametrize("room", ["image", "audio"])
def test_layers_are_refused(gemma, room):
    with pytest.raises(InvalidParameterError, match="is run whole"):
        embedder_of(room, gemma, layer=1).fit(rows_of(room))


def test_a_release_that_does_not_know_the_model_says_which_one_does(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "embedding_gemma2"}')
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")

    def refuse(*args, **kwargs):
        raise ValueError("model type `embedding_gemma2` but Transformers does not recognize it")

    monkeypatch.setattr(tf.AutoConfig, "from_pretrained", refuse)
    for room in ROOMS:
        with pytest.raises(UnsupportedModelError, match=r"transformers 5\.19 or later"):
            embedder_of(room, tmp_path).fit(rows_of(room))


def write_two_towers(folder, family):
    write_tower(folder, family)
    size = {"height": 16, "width": 16}
    if family == "clap":
        options = {"truncation": "rand_trunc", "padding": "repeatpad"}
        tf.ClapFeatureExtractor(**options).save_pretrained(folder)
    else:
        kind = tf.SiglipImageProcessor if family == "siglip" else tf.CLIPImageProcessor
        kind(size=size, crop_size=size).save_pretrained(folder)
    return folder


TWO_TOWERS = {
    "clip": ("image", tf.CLIPModel),
    "siglip": ("image", tf.SiglipModel),
    "clap": ("audio", tf.ClapModel),
}


@pytest.mark.parametrize("family", TWO_TOWERS)
def test_cosines_of_two_towers_are_the_models_own_logits(tmp_path, family):
    folder = write_two_towers(tmp_path / family, family)
    room, model_class = TWO_TOWERS[family]
    rate = 48_000 if family == "clap" else 16_000
    rows = clips(3, 1.3, 0.4, rate=rate) if room == "audio" else rows_of(room)
    model = model_class.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    filling = "max_length" if family == "siglip" else True
    inputs = dict(tokenizer(SHORT, padding=filling, return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    if room == "audio":
        extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
        inputs |= extractor(rows, sampling_rate=rate, return_tensors="pt")
        inputs.pop("is_longer")
    else:
        inputs |= tf.AutoImageProcessor.from_pretrained(folder)(rows, return_tensors="pt")
    if family == "siglip":
        inputs.pop("attention_mask")
    with torch.inference_mode():
        logits = model(**inputs).logits_per_text
        scale = model.logit_scale_t if family == "clap" else model.logit_scale
        expected = (logits - getattr(model, "logit_bias", 0.0)) / scale.exp()
    options = {"sampling_rate": rate} if room == "audio" else {}
    texts = embedder_of("text", folder, normalize=True).transform(SHORT)
    others = embedder_of(room, folder, normalize=True, **options).transform(rows)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(texts @ others.T, expected, atol=1e-5)


@pytest.mark.parametrize("family", ["clip", "clap"])
def test_each_embedder_reads_only_its_own_tower(tmp_path, family, names_read):
    folder = write_two_towers(tmp_path / family, family)
    room, _ = TWO_TOWERS[family]
    texts = embedder_of("text", folder).fit_transform(SHORT)
    of_texts = set(names_read)
    names_read.clear()
    options = {"sampling_rate": 48_000} if room == "audio" else {}
    others = embedder_of(room, folder, **options).fit_transform(rows_of(room))
    shared = of_texts & set(names_read)
    assert of_texts and names_read
    assert not [name for name in shared if not name.startswith("logit_scale")]
    # The same ending by default, so that dot products mean the same.
    are_unit = [np.allclose(np.linalg.norm(v, axis=1), 1, atol=1e-5) for v in (texts, others)]
    assert are_unit == [family == "clap"] * 2


def test_a_frame_of_texts_and_pictures_is_embedded_by_one_model(tmp_path):
    folder = write_two_towers(tmp_path / "clip", "clip")
    paths = []
    for i, image in enumerate(rows_of("image")):
        paths.append(str(tmp_path / f"{i}.png"))
        image.save(paths[-1])
    frame = pd.DataFrame({"title": SHORT, "photo": paths}, index=[7, 3, 3, 9])
    words, photos = embedder_of("text", folder), embedder_of("image", folder)
    both = ColumnTransformer([("title", words, "title"), ("photo", photos, "photo")])
    vectors = both.set_output(transform="pandas").fit_transform(frame)
    assert vectors.shape == (4, 40)
    assert list(vectors.index) == [7, 3, 3, 9]
    np.testing.assert_allclose(
        vectors.iloc[:, 20:], embedder_of("image", folder).transform(rows_of("image")), atol=1e-6
    )


def test_a_model_whose_texts_are_not_read_alone_is_refused(tmp_path):
    config = tf.GroupViTConfig()
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(UnsupportedModelError, match=r"'groupvit'; TextEmbedder reads the texts of"):
        embedder_of("text", tmp_path).fit(TEXTS)
