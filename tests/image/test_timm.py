"""timm's models: what each gives, beside its own forward pass and transform."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from skembed import ImageEmbedder
from skembed.exceptions import InvalidParameterError, MissingDependencyError
from tests.image.networks import pictures

timm = pytest.importorskip("timm")

IMAGES = [Image.fromarray(each) for each in pictures(4, sizes=((60, 90), (91, 47)))]


def reference(name, pooling="auto"):
    """Return the model, and what it makes of the pictures by itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = timm.create_model(name, pretrained=False).eval()
    config = timm.data.resolve_model_data_config(module)
    transform = timm.data.create_transform(**config, is_training=False)
    pixels = torch.stack([transform(image) for image in IMAGES])
    with torch.inference_mode():
        features = module.forward_features(pixels)
        if pooling == "auto":
            return module, module.forward_head(features, pre_logits=True)
        return module, features[:, module.num_prefix_tokens :].mean(1)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("resnet10t", "auto"), ("vit_tiny_patch16_224", "auto"), ("vit_tiny_patch16_224", "mean")],
)
def test_vectors_are_those_of_timm(name, pooling, tmp_path):
    module, expected = reference(name, pooling)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    embedder = ImageEmbedder(
        f"timm:{name}",
        weights=tmp_path / "weights.pth",
        pooling=pooling,
        dtype="float32",
        cache=None,
    )
    np.testing.assert_allclose(embedder.fit_transform(IMAGES), expected, atol=1e-5)


def test_a_folder_of_timm_is_read(tmp_path):
    module, expected = reference("resnet10t")
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet10t",
        "num_classes": 1000,
        "pretrained_cfg": {k: v for k, v in module.pretrained_cfg.items() if k != "tag"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    embedder = ImageEmbedder(tmp_path, dtype="float32", cache=None)
    np.testing.assert_allclose(embedder.fit_transform(IMAGES), expected, atol=1e-5)


def test_a_name_that_timm_does_not_have_is_refused():
    with pytest.raises(InvalidParameterError, match=r"timm .* has no model 'resnet_no'"):
        ImageEmbedder("timm:resnet_no", weights=None).fit([])


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install skembed\[timm\]"):
        ImageEmbedder("timm:resnet18", weights=None).fit([])
