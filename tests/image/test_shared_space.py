"""One checkpoint, two embedders, one space: pictures beside texts."""

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from skembed import ImageEmbedder, TextEmbedder
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
