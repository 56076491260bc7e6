"""torchvision's published weights: their names, presets, and what is peculiar to some files."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import models

from skembed import unload_models
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from skembed.image import _torchvision
from tests.image.backbones import backbone_of, vectors


def make(name, **settings):
    return backbone_of(name, **settings)


def write(path, name, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.get_model(name, weights=None, **options)
    torch.save(module.state_dict(), path)
    return module.eval()


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Let a file stand for whatever is published; returns the URLs that were asked for."""
    write(tmp_path / "file.pth", "resnet18")
    asked = []

    def find(url):
        asked.append(Path(url).name)
        return tmp_path / "file.pth"

    monkeypatch.setattr(_torchvision, "find_checkpoint", find)
    return asked


@pytest.mark.parametrize(
    ("name", "weights", "file"),
    [
        ("resnet50", "auto", "resnet50-11ad3fa6.pth"),
        ("resnet50", "DEFAULT", "resnet50-11ad3fa6.pth"),
        ("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth"),
        ("resnet50", "ResNet50_Weights.IMAGENET1K_V1", "resnet50-0676ba61.pth"),
        ("efficientnet_b1", "IMAGENET1K_V2", "efficientnet_b1-c27df63c.pth"),
    ],
)
def test_weights_are_found_by_name_and_bring_their_preset(published, name, weights, file):
    backbone = make(name, weights=weights)
    assert published == [file]
    member = next(each for each in models.get_model_weights(name) if each.url.endswith(file))
    image = Image.effect_noise((300, 200), 80).convert("RGB")
    found = backbone._scale(backbone.prepare(image)[None])[0]
    torch.testing.assert_close(found, member.transforms()(image), rtol=0, atol=1e-6)


def test_weights_for_larger_pictures_make_a_model_of_larger_pictures(published):
    small = make("vit_b_16", weights="IMAGENET1K_V1")
    large = make("vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1")
    image = Image.new("RGB", (10, 10))
    assert small.prepare(image).shape == (3, 224, 224)
    assert large.prepare(image).shape == (3, 384, 384)
    assert small.digest != large.digest


def test_a_file_is_known_by_its_content_and_brings_its_preset(small_vits, monkeypatch, tmp_path):
    module = write(tmp_path / "renamed.pth", "vit_b_16", image_size=384)
    path = tmp_path / "renamed.pth"
    with pytest.raises(UnsupportedModelError, match=r"encoder\.pos_embedding has shape"):
        make("vit_b_16", weights=path).load()
    unload_models()
    monkeypatch.setattr(_torchvision, "file_sha256", lambda path: "9ac1b537".ljust(64, "0"))
    backbone = make("vit_b_16", weights=path)
    image = Image.effect_noise((400, 390), 80).convert("RGB")
    pixels = backbone._scale(backbone.prepare(image)[None])
    module.heads = torch.nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(vectors(backbone, pixels), module(pixels))


def test_weights_without_a_classifier_need_a_layer_before_it(published):
    for layer in (None, "classifier.3"):
        with pytest.raises(InvalidParameterError, match="layer='features'"):
            make("vgg16", weights="IMAGENET1K_FEATURES", layer=layer)
    assert make("vgg16", weights="IMAGENET1K_FEATURES", layer="features").width == 512


def test_names_as_old_densenets_have_them_are_read(tmp_path):
    module = write(tmp_path / "new.pth", "densenet121")
    old = {}
    for name, value in module.state_dict().items():
        for part in ("norm", "conv"):
            name = name.replace(f".{part}1.", f".{part}.1.").replace(f".{part}2.", f".{part}.2.")
        if not name.endswith("num_batches_tracked"):
            old[name] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    new, found = (make("densenet121", weights=tmp_path / f"{n}.pth").load() for n in ("new", "old"))
    assert all(
        torch.equal(value, found.state_dict()[name]) for name, value in new.state_dict().items()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bn1.weight"), r"bn1\.weight is missing"),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}),
            r"conv1\.weight has shape \(64, 3, 3, 3\) where \(64, 3, 7, 7\) is expected",
        ),
        (lambda state: state.update({"layer5.bias": torch.zeros(1)}), r"layer5\.bias is unknown"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    state = write(tmp_path / "file.pth", "resnet18").state_dict()
    change(state)
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(UnsupportedModelError, match=message):
        make("resnet18", weights=tmp_path / "file.pth").load()


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_what_wraps_a_model_in_training_is_taken_off_its_names(tmp_path, wrap):
    module = write(tmp_path / "plain.pth", "resnet18")
    state = wrap(module).state_dict() | {}
    state = {name.replace("fc.", "fc.1."): value for name, value in state.items()}
    torch.save(state, tmp_path / "wrapped.pth")
    plain, found = (make("resnet18", weights=tmp_path / f"{n}.pth") for n in ("plain", "wrapped"))
    expected = plain.load().state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in found.load().state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_are_loaded_in_float32_and_copied(tmp_path, dtype):
    module = write(tmp_path / "file.pth", "resnet18").to(dtype)
    path = tmp_path / "file.pth"
    torch.save(module.state_dict(), path)
    loaded = make("resnet18", weights=path).load()
    weight = next(loaded.parameters())
    assert weight.dtype == torch.float32
    expected = weight.clone()
    path.write_bytes(bytes(path.stat().st_size))  # a mapped file would show
    assert torch.equal(next(loaded.parameters()), expected)


def test_a_file_that_changes_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    write(path, "resnet18")
    backbone = make("resnet18", weights=path)
    backbone.source.check_unchanged()
    torch.save({"w": torch.zeros(3)}, path)
    with pytest.raises(UnsupportedModelError, match=r"file\.pth changed while"):
        backbone.source.check_unchanged()


def test_all_that_decides_vectors_is_in_the_digest(published, tmp_path):
    write(tmp_path / "other.pth", "resnet50", num_classes=3)
    made = [
        make("resnet50", weights=None),
        make("resnet50", weights="IMAGENET1K_V1"),
        make("resnet50", weights="IMAGENET1K_V2"),  # the same file here, another preset
        make("resnet50", weights=tmp_path / "other.pth"),
        make("resnet50", weights=None, layer="layer3"),
        make("resnet50", weights=None, layer="layer4"),
        make("resnet50", weights=None, layer="layer4", pooling="max"),
        make("resnet34", weights=None),
    ]
    assert len({each.digest for each in made}) == len(made)
    assert make("resnet50", weights=None).digest == made[0].digest
    assert make("resnet50", weights=None).source.n_bytes() == 4 * 23_508_032


def test_a_revision_is_for_models_of_the_hub():
    with pytest.raises(InvalidParameterError, match="only models on the hub have revisions"):
        make("resnet18", weights=None, revision="main")
