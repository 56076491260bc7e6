"""Models by their id on the hub: which snapshot is read, and whose code runs."""

import json
import warnings

import numpy as np
import pytest
import torch
import transformers as tf
from huggingface_hub import constants
from PIL import Image

from skembed import EmbeddingStore, ImageEmbedder
from skembed.exceptions import ModelNotFoundError, UnsafeModelError
from skembed.image._models import MODELS
from skembed.weights import _hub
from tests.hub_cache import COMMIT, OLD_COMMIT, lay_out
from tests.image.checkpoints import write_checkpoint
from tests.image.networks import pictures
from tests.image.timm_folders import write_folder

IMAGES = [Image.fromarray(each) for each in pictures(3)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of a hub's cache that is this test's own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def two_releases(cache):
    """Let the cache have a model at two commits; returns their snapshots."""
    new = write_checkpoint(lay_out(cache, "org/vit"), "vit")
    old = lay_out(cache, "org/vit", OLD_COMMIT, "v1")
    return new, write_checkpoint(old, "vit", hidden_act="relu")


def embed(model, **params):
    return ImageEmbedder(model, **{"dtype": "float32", "cache": None, **params}).transform(IMAGES)


def class_tokens(folder):
    """Return what transformers itself gives for the pictures."""
    processor = tf.AutoImageProcessor.from_pretrained(folder)
    model = tf.ViTModel.from_pretrained(folder).eval()
    pixels = processor(IMAGES, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        out = model(pixels)
    return out.last_hidden_state[:, 0].numpy()


def test_an_id_is_looked_up_in_the_hubs_cache(two_releases):
    new, _ = two_releases
    np.testing.assert_allclose(embed("org/vit"), class_tokens(new), atol=1e-5)


def test_a_revision_is_another_snapshot_and_another_vector(two_releases):
    new, old = two_releases
    store = EmbeddingStore()
    for revision, folder in (("v1", old), (OLD_COMMIT, old), (COMMIT, new), ("main", new)):
        found = embed("org/vit", revision=revision, cache=store)
        np.testing.assert_allclose(found, class_tokens(folder), atol=1e-5)
    assert np.abs(class_tokens(old) - class_tokens(new)).max() > 0.1
    with pytest.raises(ModelNotFoundError, match=r"'org/vit' at 'v2': not there"):
        embed("org/vit", revision="v2")


def test_an_id_that_is_not_in_the_cache_says_where_it_was_looked_for(cache):
    with pytest.raises(ModelNotFoundError, match=r"hub cache .*: not there") as caught:
        embed("org/other")
    assert "offline mode is on" in str(caught.value)


def test_models_of_timm_are_read_by_name_and_by_id(cache):
    pytest.importorskip("timm")
    snapshot = lay_out(cache, "timm/test_resnet.r160_in1k")
    write_folder(snapshot, "test_resnet")
    expected = embed(snapshot)
    for name in ("timm:test_resnet", "timm:test_resnet.r160_in1k", "timm/test_resnet.r160_in1k"):
        np.testing.assert_array_equal(embed(name), expected)
    assert np.abs(embed("timm:test_resnet", weights=None) - expected).max() > 0.1


CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

class BespokeConfig(PretrainedConfig):
    model_type = "bespoke"

class BespokeModel(PreTrainedModel):
    config_class = BespokeConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.colours = torch.nn.Linear(3, 4)
        self.post_init()

    def forward(self, pixel_values):
        colours = self.colours(pixel_values.mean((2, 3)))
        return BaseModelOutputWithPooling(last_hidden_state=colours[:, None], pooler_output=colours)
"""


@pytest.fixture
def bespoke(cache, monkeypatch, tmp_path):
    """Let the cache have a model with code of its own; returns its snapshot."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    folder = lay_out(cache, "org/bespoke")
    size = {"height": 8, "width": 8}
    tf.ViTImageProcessor(size=size).save_pretrained(folder)
    (folder / "bespoke.py").write_text(CODE)
    names = {"AutoConfig": "bespoke.BespokeConfig", "AutoModel": "bespoke.BespokeModel"}
    config = {"model_type": "bespoke", "architectures": ["BespokeModel"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(0)
    state = {
        "colours.weight": torch.randn(4, 3, generator=random),
        "colours.bias": torch.randn(4, generator=random),
    }
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def test_code_of_a_repository_is_refused(bespoke):
    (bespoke / "bespoke.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(UnsafeModelError, match="trust it, set trust_remote_code=True"):
        embed("org/bespoke")


def test_code_of_a_repository_runs_when_the_user_says_so(bespoke):
    state = torch.load(bespoke / "pytorch_model.bin", weights_only=True)
    processor = tf.AutoImageProcessor.from_pretrained(bespoke)
    means = processor(IMAGES, return_tensors="pt")["pixel_values"].mean((2, 3))
    expected = means @ state["colours.weight"].T + state["colours.bias"]
    found = embed("org/bespoke", trust_remote_code=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# It turns pictures around, and has a rule of its own for black ones.
PROCESSOR = """
from transformers import ViTImageProcessor

class OwnProcessor(ViTImageProcessor):
    def rescale_and_normalize(self, images, *args, **kwargs):
        found = super().rescale_and_normalize(images, *args, **kwargs)
        return found.flip(-1) if images.any() else found + 1
"""


def test_a_processor_that_is_code_of_a_repository_runs_when_the_user_says_so(
    cache, monkeypatch, tmp_path
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    folder = write_checkpoint(lay_out(cache, "org/vit"), "vit")
    processor = tf.AutoImageProcessor.from_pretrained(folder)
    images = [*IMAGES, Image.new("RGB", (20, 20))]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    pixels = torch.cat([pixels[:-1].flip(-1), pixels[-1:] + 1])
    with torch.inference_mode():
        states = tf.ViTModel.from_pretrained(folder).eval()(pixels).last_hidden_state
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {
        "image_processor_type": "OwnProcessor",
        "auto_map": {"AutoImageProcessor": "own.OwnProcessor"},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(PROCESSOR)
    embedder = ImageEmbedder("org/vit", dtype="float32", cache=None)
    with pytest.raises(
        UnsafeModelError, match=r"processor .* custom Python code, which skembed does"
    ):
        embedder.transform(images)
    found = embedder.set_params(trust_remote_code=True).transform(images)
    np.testing.assert_allclose(found, states[:, 0], atol=1e-5)


# Of each model of the hub, what timm's own code calls it.
AT_TIMM = {
    "facebook/dinov2-small": "vit_small_patch14_dinov2",
    "facebook/dinov2-base": "vit_base_patch14_dinov2",
    "google/vit-base-patch16-224": "vit_base_patch16_224",
    "openai/clip-vit-base-patch32": "vit_base_patch32_clip_224.openai",
    "google/siglip-base-patch16-224": "vit_base_patch16_siglip_224.webli",
    "google/siglip2-base-patch16-224": "vit_base_patch16_siglip_224.v2_webli",
    "facebook/convnextv2-tiny-1k-224": "convnextv2_tiny",
    "microsoft/swin-tiny-patch4-window7-224": "swin_tiny_patch4_window7_224",
    "microsoft/resnet-50": "resnet50",
}


def test_widths_in_the_table_are_those_of_the_published_architectures():
    timm = pytest.importorskip("timm")
    rows = {name: row.width for name, row in MODELS.items() if not row.is_torchvision}
    found = {}
    for name, architecture in AT_TIMM.items():
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False)
        # CLIP's projection is the layer that timm has for classes.
        is_projected = architecture.endswith(".openai")
        found[name] = model.num_classes if is_projected else model.num_features
    joint = tf.AutoConfig.for_model("embedding_gemma2").get_text_config()  # timm has none
    found["google/embeddinggemma-2"] = joint.embedding_dim
    assert found == rows


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_snapshots_as_other_libraries_leave_them_are_whole(cache, monkeypatch, library):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_hub, "download", None)  # the hub is not asked
    folder = lay_out(cache, "org/model", is_undecided=True)
    if library == "timm":
        write_folder(folder, "test_resnet")
    else:
        write_checkpoint(folder, "vit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(embed("org/model")).all()
