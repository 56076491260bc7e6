"""One checkpoint, two embedders, one space: pictures beside texts."""

import json

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from skembed import ImageEmbedder, TextEmbedder
from skembed.exceptions import UnsupportedModelError
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import pictures
from tests.text.test_towers import write_tower

TEXTS = ["a tree", "a kernel of a machine", "gradient"]


@pytest.mark.parametrize(
    ("family", "model_class", "processor_class"),
    [
        ("clip", tf.CLIPModel, tf.CLIPImageProcessor),
        ("siglip", tf.SiglipModel, tf.SiglipImageProcessor),
    ],
)
def test_pictures_and_texts_are_the_models_own_features(
    tmp_path, family, model_class, processor_class
):
    folder = write_tower(tmp_path / "model", family)
    size = {"height": 16, "width": 16}
    processor = processor_class(size=size, crop_size=size)
    processor.save_pretrained(folder)
    images = [Image.fromarray(each) for each in pictures(5)]
    found = ImageEmbedder(folder, dtype="float32", cache=None).transform(images)
    texts = TextEmbedder(folder, dtype="float32", cache=None).transform(TEXTS)

    model = model_class.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    filling = "max_length" if family == "siglip" else True
    tokens = tokenizer(TEXTS, padding=filling, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    if family == "siglip":
        tokens.pop("attention_mask")
    with torch.no_grad():
        expected = model(**processor(images, return_tensors="pt"), **tokens)
    for mine, theirs in ((found, expected.image_embeds), (texts, expected.text_embeds)):
        mine = mine / np.linalg.norm(mine, axis=1, keepdims=True)
        theirs = theirs / theirs.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert found.shape[1] == texts.shape[1]


OLD_KIND = "sentence_transformers.models.CLIPModel"
NEW_KIND = "sentence_transformers.sentence_transformer.modules.clip_model.CLIPModel"


@pytest.mark.parametrize(
    ("place", "kind"), [("0_CLIPModel", OLD_KIND), ("0_CLIPModel", NEW_KIND), ("", NEW_KIND)]
)
def test_a_clip_folder_of_sentence_transformers_gives_the_models_own_features(
    tmp_path, place, kind
):
    clip = write_checkpoint(tmp_path / place, "clip")
    module = {"idx": 0, "name": "0", "path": place, "type": kind}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    images = [Image.fromarray(each) for each in pictures(5)]
    found = ImageEmbedder(tmp_path, dtype="float32", cache=None).transform(images)

    processor = tf.AutoImageProcessor.from_pretrained(clip)
    model = tf.CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        out = model.vision_model(**processor(images, return_tensors="pt"))
        expected = model.visual_projection(out.pooler_output)
    assert found.shape == (5, 24)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_folder_that_lists_no_modules_is_one_of_transformers(tmp_path):
    folder = write_checkpoint(tmp_path, "clip")
    images = pictures(2)
    expected = ImageEmbedder(folder, dtype="float32", cache=None).transform(images)
    (folder / "modules.json").write_text("[]")
    found = ImageEmbedder(folder, dtype="float32", cache=None).transform(images)
    np.testing.assert_array_equal(found, expected)


def test_modules_after_a_clip_are_not_left_out_in_silence(tmp_path):
    write_checkpoint(tmp_path / "0_CLIPModel", "clip")
    normalize = "sentence_transformers.models.Normalize"
    modules = [
        {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": OLD_KIND},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": normalize},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModelError, match=r"CLIPModel, Normalize.*normalize=True"):
        ImageEmbedder(tmp_path, dtype="float32", cache=None).fit([])
