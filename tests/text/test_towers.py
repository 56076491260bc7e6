"""Models of texts and pictures, or sounds, as text models: the space that they share."""

import json

import numpy as np
import pytest
import torch
import transformers as tf

from skembed import TextEmbedder
from skembed.exceptions import TruncatedRowsError, UnsupportedModelError
from tests.text.checkpoints import SIZES, TEXTS, write_tokenizer

LIMIT = 24
WORDS = {
    **SIZES,
    "max_position_embeddings": LIMIT,
    "vocab_size": 150,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
PICTURES = {**SIZES, "image_size": 16, "patch_size": 8}
del PICTURES["max_position_embeddings"]
_BOTH = {"text_config": WORDS, "vision_config": PICTURES}
_HTSAT = {
    "hidden_size": 32,
    "patch_embeds_hidden_size": 16,
    "depths": [1, 2],
    "num_attention_heads": [2, 4],
    "num_hidden_layers": 2,
}
# RoBERTa's positions begin after that of the padding token, 1.
_ROBERTA = {**WORDS, "max_position_embeddings": LIMIT + 2}
_HEARD = {"text_config": _ROBERTA, "audio_config": _HTSAT, "projection_dim": 20}
_CONVOLVED = {
    "num_block_repeats": [1, 1, 1, 1, 1, 1, 1],
    "image_size": 32,
    "hidden_dim": 8,
    "width_coefficient": 0.25,
}
_NAFLEX = {"text_config": WORDS, "vision_config": {**SIZES, "patch_size": 8, "num_patches": 4}}

# family -> (model, configuration, its settings)
TOWERS = {
    "clip": (tf.CLIPModel, tf.CLIPConfig, {**_BOTH, "projection_dim": 20}),
    "clip-text": (
        tf.CLIPTextModelWithProjection,
        tf.CLIPTextConfig,
        {**WORDS, "projection_dim": 20},
    ),
    "clip-text-alone": (tf.CLIPTextModel, tf.CLIPTextConfig, WORDS),
    "metaclip-2": (tf.MetaClip2Model, tf.MetaClip2Config, {**_BOTH, "projection_dim": 20}),
    "siglip": (tf.SiglipModel, tf.SiglipConfig, _BOTH),
    "siglip-text": (tf.SiglipTextModel, tf.SiglipTextConfig, {**WORDS, "projection_size": 28}),
    "siglip2": (tf.Siglip2Model, tf.Siglip2Config, _NAFLEX),
    "clap": (tf.ClapModel, tf.ClapConfig, _HEARD),
    "clap-text": (
        tf.ClapTextModelWithProjection,
        tf.ClapTextConfig,
        {**_ROBERTA, "projection_dim": 20},
    ),
    "align": (
        tf.AlignModel,
        tf.AlignConfig,
        {"text_config": WORDS, "vision_config": _CONVOLVED, "projection_dim": 20},
    ),
    "chinese-clip": (
        tf.ChineseCLIPModel,
        tf.ChineseCLIPConfig,
        {**_BOTH, "projection_dim": 20},
    ),
}
FILLED = ("siglip", "siglip-text", "siglip2")


def write_tower(folder, family):
    model_class, config_class, settings = TOWERS[family]
    folder.mkdir(parents=True)
    write_tokenizer(folder, max_length=LIMIT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config_class(**settings))
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
            if parameter.ndim == 2:  # so that positions and neighbours matter
                parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=TOWERS)
def tower(request, tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("towers") / request.param, request.param)


def embedder(folder, **params):
    params = {"dtype": "float32", "on_truncate": "ignore", "cache": None} | params
    return TextEmbedder(folder, **params)


def reference(folder, texts, **arguments):
    """Return the output of the whole model of transformers, one text at a time."""
    model = TOWERS[folder.name][0].from_pretrained(folder).eval()
    run = getattr(model, "get_text_features", model)
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    outputs = []
    for text in texts:
        padding = "max_length" if folder.name in FILLED else False
        ids = tokenizer(
            text, truncation=True, max_length=LIMIT, padding=padding, return_tensors="pt"
        )["input_ids"]
        with torch.inference_mode():
            outputs.append(run(input_ids=ids))
    return outputs


def features(folder, texts):
    name = "text_embeds" if folder.name in ("clip-text", "clap-text") else "pooler_output"
    return np.vstack([out[name].numpy() for out in reference(folder, texts)])


def test_vectors_equal_get_text_features(tower):
    expected = features(tower, TEXTS)
    assert expected.std(0).min() > 1e-3
    np.testing.assert_allclose(embedder(tower).transform(TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_a_text_does_not_depend_on_its_neighbours(tower):
    together = embedder(tower).transform(TEXTS)
    alone = np.vstack([embedder(tower).transform([text]) for text in TEXTS])
    many = embedder(tower).transform(TEXTS * 9 + [f"word {n}" for n in range(40)])
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)
    np.testing.assert_allclose(many[: len(TEXTS)], together, atol=1e-5, rtol=0)


def test_rows_are_packed(tower):
    assert embedder(tower).fit(TEXTS).encoder_.policy.layout == "packed"


@pytest.mark.parametrize("pooling", ["mean", "last_token"])
def test_a_pooling_by_name_takes_states_without_the_projection(tower, pooling):
    states = [out.last_hidden_state[0] for out in reference(tower, TEXTS)]
    pooled = [each.mean(0) if pooling == "mean" else each[-1] for each in states]
    vectors = embedder(tower, pooling=pooling).transform(TEXTS)
    np.testing.assert_allclose(vectors, np.stack(pooled), atol=1e-5, rtol=1e-5)


def test_last_token_and_auto_are_stored_apart(tmp_path):
    folder = write_tower(tmp_path / "siglip", "siglip")
    digests = {embedder(folder, pooling=p).fit(["a"]).encoder_.digest for p in ("auto", "cls")}
    digests.add(embedder(folder, pooling="last_token").fit(["a"]).encoder_.digest)
    assert len(digests) == 3


def test_only_the_part_that_reads_texts_is_loaded(tower):
    fitted = embedder(tower).fit(TEXTS)
    names = [name for name, _ in fitted.encoder_.core().named_modules()]
    assert names
    assert not [name for name in names if "vision" in name or "visual" in name]


def test_long_texts_are_cut_at_the_models_limit(tower):
    long, short = "metric space " * 40, "metric space"
    fitted = embedder(tower).fit([long])
    vectors = fitted.transform([long, short])
    np.testing.assert_allclose(vectors, features(tower, [long, short]), atol=1e-5, rtol=1e-5)
    assert fitted.report_.max_length == LIMIT
    assert list(fitted.report_.truncated) == [0]
    assert fitted.report_.n_tokens[1] < LIMIT  # padding is not counted
    with pytest.raises(TruncatedRowsError, match="24"):
        embedder(tower, on_truncate="raise").transform([long, short])


def test_a_smaller_limit_cuts_texts_but_rows_stay_filled(tmp_path):
    folder = write_tower(tmp_path / "siglip", "siglip")
    text = "nearest neighbours in a metric space"
    cut = embedder(folder, max_length=3)
    prepared = cut.fit([text]).encoder_.prepare([text])[0]
    assert [len(part) for part in prepared.parts] == [LIMIT]
    assert list(prepared.parts[0][3:]) == [1] * (LIMIT - 3)
    assert list(cut.transform([text])[0]) != list(embedder(folder).transform([text])[0])


def test_chunks_of_long_texts_are_averaged(tower):
    long = "metric space " * 40
    vectors = embedder(tower, on_truncate="mean_of_chunks").transform([long, "metric space"])
    assert np.isfinite(vectors).all()
    assert abs(vectors[0] - embedder(tower).transform([long])[0]).max() > 1e-4


def test_padding_goes_where_the_tokenizer_puts_it(tmp_path):
    folder = write_tower(tmp_path / "siglip", "siglip")
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    expected = features(folder, TEXTS)
    np.testing.assert_allclose(embedder(folder).transform(TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_close_to_float32(tower):
    exact = embedder(tower).transform(TEXTS)
    fast = embedder(tower, dtype="bfloat16").transform(TEXTS)
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() > 0.99


def test_a_missing_projection_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_tower(tmp_path / "clip", "clip")
    state = load_file(folder / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"incomplete: no text_projection\.weight"):
        embedder(folder).transform(["a"])


def test_texts_and_pictures_share_a_width(tower):
    fitted = embedder(tower).fit(TEXTS)
    assert fitted.n_features_out_ == features(tower, ["a"]).shape[1]


def test_a_clip_folder_of_sentence_transformers_is_read(tmp_path):
    part = write_tower(tmp_path / "whole" / "clip", "clip")
    row = {"idx": 0, "name": "0", "path": "clip", "type": "sentence_transformers.models.CLIPModel"}
    (tmp_path / "whole" / "modules.json").write_text(json.dumps([row]))
    vectors = embedder(tmp_path / "whole").transform(TEXTS)
    np.testing.assert_allclose(vectors, features(part, TEXTS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("eos", "is_right"), [(3, True), (2, False), (5, False)])
def test_a_tokenizer_that_ends_texts_with_another_token_is_refused(tmp_path, eos, is_right):
    folder = write_tower(tmp_path / "model", "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = eos
    (folder / "config.json").write_text(json.dumps(config))
    embedder = TextEmbedder(folder, dtype="float32", cache=None)
    if is_right:
        assert embedder.transform(["a text"]).shape == (1, 20)
        return
    with pytest.raises(UnsupportedModelError, match="its tokenizer ends texts with 3"):
        embedder.transform(["a text"])
