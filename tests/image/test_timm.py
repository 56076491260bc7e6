"""timm's models: what each gives, beside its own forward pass and transform."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from skembed import ImageEmbedder
from skembed.exceptions import (
    InvalidParameterError,
    MissingDependencyError,
    ModelNotFoundError,
    UnsafeModelError,
    UnsupportedModelError,
)
from skembed.image import _timm
from skembed.image._timm_pixels import TimmPixels
from tests.image.backbones import backbone_of, vectors
from tests.image.checkpoints import settle, stir
from tests.image.timm_folders import IMAGES, pixels_of, write_folder

timm = pytest.importorskip("timm")


def reference(name, pooling="auto"):
    """Return the model, and what it makes of the pictures by itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = timm.create_model(name, pretrained=False).eval()
        stir(module)
        settle(module, pixels_of(module))
    with torch.inference_mode():
        features = module.forward_features(pixels_of(module))
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


def make(name, **settings):
    return backbone_of(f"timm:{name}", **settings)


def of_folder(folder, **settings):
    return backbone_of(folder, **settings)


def run(backbone):
    pixels = torch.cat([backbone._scale(backbone.prepare(image)[None]) for image in IMAGES])
    with torch.inference_mode():
        return vectors(backbone, pixels)


@pytest.mark.parametrize(
    "name",
    [
        "test_byobnet",
        "test_convnext",
        "test_efficientnet",
        "test_mambaout",
        "test_maxvit",
        "test_nfnet",
        "test_vit2",
        "test_vit_relpos",
        "levit_128s",
    ],
)
def test_a_folder_of_any_family_gives_what_timm_gives(tmp_path, name):
    module = write_folder(tmp_path, name)
    with torch.inference_mode():
        features = module.forward_features(pixels_of(module))
        expected = module.forward_head(features, pre_logits=True).numpy()
    scale = np.abs(expected).max()
    assert expected.std(0).mean() > 0.02 * np.abs(expected).mean()  # pictures do matter
    assert 0.1 < scale < 100  # the difference allowed below is a share of the largest value
    found = ImageEmbedder(tmp_path, dtype="float32", cache=None).transform(IMAGES)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)
    if features.ndim == 4:
        places = (1, 2) if getattr(module, "output_fmt", "") == "NHWC" else (2, 3)
        found = run(of_folder(tmp_path, pooling="max"))
        torch.testing.assert_close(found, features.amax(places), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "cfg",
    [
        {"crop_mode": "squash", "interpolation": "bilinear"},
        {"crop_mode": "border", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.125]},
        {"crop_mode": "center", "crop_pct": 0.8, "input_size": [3, 96, 96]},
        {"input_size": [3, 96, 64]},
    ],
)
def test_pictures_are_prepared_as_the_folder_says(tmp_path, cfg):
    module = write_folder(tmp_path, "test_resnet", **cfg)
    config = timm.data.resolve_model_data_config(module, pretrained_cfg=module.pretrained_cfg | cfg)
    transform = timm.data.create_transform(**config, is_training=False)
    backbone = of_folder(tmp_path)
    for size in ((60, 90), (91, 47), (1, 1), (300, 3)):
        image = Image.effect_noise(size, 90).convert("RGB")
        pixels = backbone.prepare(image)
        assert pixels.dtype == torch.uint8
        found = backbone._scale(pixels[None])[0]
        torch.testing.assert_close(found, transform(image), rtol=0, atol=1e-6)


def test_a_picture_that_resizing_would_make_enormous_is_refused(tmp_path):
    narrow = Image.new("RGB", (1, 50_000))
    write_folder(tmp_path, "test_resnet")
    with pytest.raises(ValueError, match="resized to 168 on its shorter side"):
        of_folder(tmp_path).prepare(narrow)
    write_folder(tmp_path, "test_resnet", crop_mode="squash")
    assert of_folder(tmp_path).prepare(narrow).shape == (3, 160, 160)


def test_register_tokens_are_no_patches_and_no_class(tmp_path):
    arguments = {"reg_tokens": 3, "class_token": False, "global_pool": "avg"}
    module = write_folder(tmp_path, "test_vit", arguments)
    backbone = of_folder(tmp_path, pooling="mean")
    pixels = torch.cat([backbone._scale(backbone.prepare(image)[None]) for image in IMAGES])
    with torch.inference_mode():
        expected = module.forward_features(pixels)[:, 3:].mean(1)
    torch.testing.assert_close(run(backbone), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InvalidParameterError, match="patches without a class token"):
        of_folder(tmp_path, pooling="cls")


@pytest.mark.parametrize(
    ("name", "layer", "reduce"),
    [
        ("test_vit", "blocks.1", lambda out: out[:, 1:].mean(1)),
        ("test_vit", "patch_embed", lambda out: out.mean((1, 2))),
        ("test_resnet", "layer2", lambda out: out.mean((2, 3))),
        ("test_mambaout", "stages.1", lambda out: out.mean((1, 2))),
    ],
)
def test_a_layer_gives_what_the_model_computes_there(tmp_path, name, layer, reduce):
    module = write_folder(tmp_path, name)
    taken = []
    module.get_submodule(layer).register_forward_hook(lambda *args: taken.append(args[2]))
    backbone = of_folder(tmp_path, layer=layer, pooling="mean")
    found = run(backbone)
    pixels = torch.cat([backbone._scale(backbone.prepare(image)[None]) for image in IMAGES])
    with torch.inference_mode():
        module(pixels)
    assert found.shape[1] == backbone.width
    torch.testing.assert_close(found, reduce(taken[0]), rtol=1e-5, atol=1e-5)


def test_tokens_of_which_timm_does_not_tell_are_not_pooled():
    with pytest.raises(InvalidParameterError, match="does not say which tokens"):
        make("volo_d1_224", weights=None, pooling="mean")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "timm/resnet18.a1_in1k"),
        ("resnet18.fb_ssl_yfcc100m_ft_in1k", "timm/resnet18.fb_ssl_yfcc100m_ft_in1k"),
        ("cspnext_s.rsb_a1_in1k", "munehiro-k/cspnext_s.rsb_a1_in1k"),
    ],
)
def test_a_name_without_a_tag_is_the_one_that_timm_takes_first(monkeypatch, name, expected):
    asked = []

    def resolve(name, *, revision, is_whole):
        asked.append((name, revision))
        raise ModelNotFoundError("not here")

    monkeypatch.setattr(_timm, "resolve_model", resolve)
    with pytest.raises(ModelNotFoundError, match="not here"):
        make(name, revision="v1")
    assert asked == [(expected, "v1")]


def test_random_weights_are_always_the_same_and_leave_the_users_random_state():
    first = make("test_vit", weights=None)
    state = torch.get_rng_state()
    found = run(first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    torch.testing.assert_close(run(make("test_vit", weights=None)), found, rtol=0, atol=0)


def test_all_that_decides_vectors_is_in_the_digest(tmp_path):
    write_folder(tmp_path / "a", "test_resnet")
    write_folder(tmp_path / "b", "test_resnet", mean=[0.1, 0.5, 0.5])
    made = [
        make("test_resnet", weights=None),
        make("test_resnet", weights=None, layer="layer2"),
        make("test_resnet", weights=None, pooling="max"),
        make("test_resnet", weights=tmp_path / "a" / "model.safetensors"),
        of_folder(tmp_path / "a"),
        of_folder(tmp_path / "b"),
        make("resnet18.a1_in1k", weights=None),
        make("resnet18.tv_in1k", weights=None),  # which prepares pictures otherwise
    ]
    assert len({each.digest for each in made}) == len(made)
    assert make("test_resnet", weights=None).digest == made[0].digest


def test_a_folder_that_changes_is_refused(tmp_path):
    write_folder(tmp_path, "test_resnet")
    backbone = of_folder(tmp_path)
    backbone.source.check_unchanged()
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
        backbone.source.check_unchanged()


def test_weights_by_their_authors_names_are_read(tmp_path):
    state = write_folder(tmp_path, "test_vit").state_dict()
    expected = run(of_folder(tmp_path))
    save_file({"mask_token": torch.zeros(1, 64), **state}, tmp_path / "model.safetensors")
    torch.testing.assert_close(run(of_folder(tmp_path)), expected)


def test_a_folder_without_all_weights_is_refused(tmp_path):
    state = write_folder(tmp_path, "test_resnet").state_dict()
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"layer1\.0\.conv1\.weight is missing"):
        of_folder(tmp_path).load()


def test_a_folder_may_not_ask_for_other_files(tmp_path):
    write_folder(tmp_path, "test_resnet")
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] = {"checkpoint_path": "/elsewhere.pth"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeModelError, match="asks timm for checkpoint_path"):
        of_folder(tmp_path)


def test_a_folder_of_a_later_timm_is_refused(tmp_path):
    write_folder(tmp_path, "test_resnet")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "resnet_of_2040"}))
    with pytest.raises(UnsupportedModelError, match="does not know 'resnet_of_2040'"):
        of_folder(tmp_path)


def test_a_model_of_grey_pictures_is_refused(tmp_path):
    write_folder(tmp_path, "test_resnet", input_size=[1, 160, 160])
    with pytest.raises(UnsupportedModelError, match="takes pictures with 1 channels"):
        of_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet18.nope", {}, r"no weights with this tag; it has '.*resnet18\.a1_in1k'"),
        ("resnet81", {}, r"no model 'resnet81'. Did you mean 'resnet"),
        ("test_resnet", {"layer": -1}, "numbers are for transformers models"),
        ("test_resnet", {"layer": "layr2"}, "Did you mean 'layer2'"),
        ("test_resnet", {"pooling": "cls"}, "gives a feature map"),
        ("test_resnet", {"weights": "no.pth"}, r"weights='no\.pth' is not a file"),
        ("test_resnet", {"weights": None, "revision": "v1"}, "only models on the hub have"),
    ],
)
def test_what_a_model_does_not_have_is_refused(name, settings, message):
    with pytest.raises(InvalidParameterError, match=message):
        make(name, **{"weights": None, **settings})


def test_a_folder_brings_its_own_weights(tmp_path):
    write_folder(tmp_path, "test_resnet")
    with pytest.raises(InvalidParameterError, match="has its own"):
        of_folder(tmp_path, weights=None)


def test_a_model_whose_pixels_timm_does_not_know_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"does not say which pixels timm:mine takes"):
        TimmPixels({}, "timm:mine")
