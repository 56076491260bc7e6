"""Vision models of transformers against their own processor and forward pass."""

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from skembed import ImageEmbedder
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from tests.image.backbones import backbone_of
from tests.image.checkpoints import FAMILIES, write_checkpoint
from tests.image.networks import to_pixels

# Of every family whose class token stands for the picture: the tokens before the patches.
PREFIXES = {
    "vit": 1,
    "deit": 2,
    "dinov2": 1,
    "dinov2-registers": 4,
    "dinov3-vit": 3,
    "dinov3-convnext": 1,
    "vit-mae": 1,
    "vit-msn": 1,
    "beit": 1,
    "data2vec": 1,
    "clip": 1,
    "clip-vision": 1,
    "clip-vision-alone": 1,
    "chinese-clip": 1,
    "metaclip-2": 1,
    "siglip": 0,
    "siglip-2": 0,
    "siglip-vision": 0,
    "swin": 0,
    "swinv2": 0,
    "ijepa": 0,
}
CLASS_TOKEN = ("vit", "deit", "dinov2", "dinov2-registers", "dinov3-vit", "dinov3-convnext")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
DUAL = ("clip", "metaclip-2", "siglip", "siglip-2", "chinese-clip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def of(family):
        if family not in made:
            made[family] = write_checkpoint(tmp_path_factory.mktemp("vision") / family, family)
        return made[family]

    return of


def backbone(folder, has_preprocess=False, **settings):
    return backbone_of(folder, preprocess=to_pixels if has_preprocess else None, **settings)


def pictures(*sizes):
    random = np.random.default_rng(0)
    made = []
    for width, height in sizes or ((40, 30), (33, 71), (64, 64), (9, 7)):
        smooth = np.linspace(0, 200, width * height * 3).reshape(height, width, 3)
        noise = random.integers(0, 55, (height, width, 3))
        made.append(Image.fromarray((smooth + noise).astype(np.uint8)))
    return made


def vectors(model, images):
    with torch.inference_mode():
        out = model.load()(model.collate([model.prepare(image) for image in images]))
    assert out.dtype == torch.float32
    assert out.shape == (len(images), model.width)
    return out


def reference(folder, images, **arguments):
    """Return the output of the whole model of transformers."""
    family = FAMILIES[folder.name]
    processor = tf.AutoImageProcessor.from_pretrained(folder)
    model = family[0].from_pretrained(folder).eval()
    pixels = torch.cat([processor(images=i, return_tensors="pt")["pixel_values"] for i in images])
    if folder.name in DUAL:
        model.forward = model.get_image_features
    if folder.name == "vit-mae":
        model.config.mask_ratio = 0.0
        arguments["noise"] = torch.arange(16).expand(len(images), -1)
    with torch.inference_mode():
        return model.forward(pixel_values=pixels, **arguments)


def own_vector(family, out):
    """Return the model's own vector for a picture."""
    if family == "clip-vision":
        return out.image_embeds
    if family in (*CLASS_TOKEN, "vit-mae", "vit-msn"):
        return out.last_hidden_state[:, 0]
    if family in ("ijepa", "data2vec"):  # no pooler of their own
        return out.last_hidden_state[:, PREFIXES[family] :].mean(1)
    return out.pooler_output.flatten(1)


def assert_close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_equal_the_models_own(family, folders):
    folder, images = folders(family), pictures()
    expected = own_vector(family, reference(folder, images)).numpy()
    scale = np.abs(expected).max()
    assert expected.std(0).mean() > 0.03 * np.abs(expected).mean()  # pictures do matter
    assert 0.1 < scale < 100  # the difference allowed below is a share of the largest value
    found = ImageEmbedder(folder, dtype="float32", cache=None).transform(images)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_alone_is_prepared_as_by_the_processor(family, folders):
    folder = folders(family)
    model, processor = backbone(folder), tf.AutoImageProcessor.from_pretrained(folder)
    for image in pictures((1, 1), (2, 300), (37, 37), (500, 333), (32, 32)):
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        prepared = model.prepare(image)
        assert_close(model._scale(prepared[None])[0], expected, atol=1e-6)


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip", "siglip", "convnext", "beit"])
def test_common_processors_keep_pictures_in_uint8(family, folders):
    assert backbone(folders(family)).prepare(pictures((50, 40))[0]).dtype == torch.uint8


@pytest.mark.parametrize("family", PREFIXES)
def test_means_leave_out_class_and_register_tokens(family, folders):
    folder, images = folders(family), pictures()
    states = reference(folder, images).last_hidden_state
    patches = states[:, PREFIXES[family] :]
    assert_close(vectors(backbone(folder, pooling="mean"), images), patches.mean(1))
    assert_close(vectors(backbone(folder, pooling="max"), images), patches.amax(1))


@pytest.mark.parametrize("family", [name for name, n in PREFIXES.items() if n])
def test_the_class_token_can_be_asked_for(family, folders):
    folder, images = folders(family), pictures()
    states = reference(folder, images).last_hidden_state
    both = torch.cat([states[:, 0], states[:, PREFIXES[family] :].mean(1)], 1)
    assert_close(vectors(backbone(folder, pooling="cls"), images), states[:, 0])
    assert_close(vectors(backbone(folder, pooling="cls+mean"), images), both)


def test_models_without_a_class_token_refuse_it(folders):
    with pytest.raises(InvalidParameterError, match="patches without a class token"):
        backbone(folders("swin"), pooling="cls")
    with pytest.raises(InvalidParameterError, match="a feature map"):
        backbone(folders("resnet"), pooling="cls")


def test_a_feature_map_is_averaged(folders):
    folder, images = folders("convnext"), pictures()
    expected = reference(folder, images).last_hidden_state.mean((2, 3))
    assert_close(vectors(backbone(folder, pooling="mean"), images), expected)


@pytest.mark.parametrize(
    ("family", "layer"),
    [(family, 1) for family in FAMILIES]
    + [(family, layer) for layer in (0, -1) for family in ("vit", "clip", "dinov2", "convnext")],
)
def test_a_layers_states_are_those_of_the_whole_pass(family, layer, folders):
    folder, images = folders(family), pictures()
    states = reference(folder, images, output_hidden_states=True).hidden_states[layer]
    expected = states.mean((2, 3)) if states.ndim == 4 else states[:, PREFIXES[family] :].mean(1)
    model = backbone(folder, layer=layer, pooling="mean")
    assert_close(vectors(model, images), expected)


@pytest.mark.parametrize("family", ["vit", "clip", "dinov3-vit", "resnet", "swin"])
def test_the_pass_ends_at_the_layer(family, folders):
    model = backbone(folders(family), layer=1, pooling="mean")
    states = model.load().core
    ran = []
    for name, module in states.module.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: ran.append(name))
    states(torch.rand(model._shape()))
    assert states.stop_at in {name for name, _ in states.module.named_modules()}
    assert 0 < len(ran) < len(list(states.module.modules())) / 1.5


def test_a_submodule_can_be_named(folders):
    folder, images = folders("vit"), pictures()
    expected = reference(folder, images, output_hidden_states=True).hidden_states[2][:, 0]
    [name] = [
        name
        for name, module in tf.ViTModel.from_pretrained(folder).named_modules()
        if name.endswith(".1") or name == "layers.1"
    ]
    assert_close(vectors(backbone(folder, layer=name), images), expected)


def test_patches_before_the_class_token_joins_them_are_all_pooled(folders):
    folder, images = folders("vit"), pictures()
    model = backbone(folder, layer="embeddings.patch_embeddings", pooling="mean")
    processor = tf.AutoImageProcessor.from_pretrained(folder)
    embed = tf.ViTModel.from_pretrained(folder).embeddings.patch_embeddings
    pixels = torch.cat([processor(images=i, return_tensors="pt")["pixel_values"] for i in images])
    with torch.inference_mode():
        assert_close(vectors(model, images), embed(pixels).mean(1))


def test_an_unknown_layer_is_named_with_close_ones(folders):
    with pytest.raises(InvalidParameterError, match=r"no submodule .* 'embeddings.patch_embed"):
        backbone(folders("vit"), layer="embeddings.patch_embeding")
    with pytest.raises(InvalidParameterError, match=r"layer=9, .* hidden states -4 to 3"):
        backbone(folders("vit"), layer=9)


def test_only_the_part_that_reads_pictures_is_loaded(folders):
    for family in DUAL:
        module = backbone(folders(family)).load()
        names = {name for name, _ in module.named_parameters()}
        assert names
        assert not [name for name in names if "text" in name]


def test_a_missing_weight_that_is_run_is_refused(tmp_path, folders):
    folder = broken(tmp_path, "clip", "visual_projection")
    with pytest.raises(UnsupportedModelError, match=r"lacks 1 weights .*visual_projection"):
        backbone(folder).load()
    # Without the projection, it is not missed.
    assert backbone(folder, pooling="mean").load() is not None


def test_a_pooler_that_is_not_run_is_not_missed(tmp_path):
    folder, images = broken(tmp_path, "vit", "pooler."), pictures()
    expected = reference(folder, images).last_hidden_state[:, 0]
    assert_close(vectors(backbone(folder), images), expected)


def test_a_missing_pooler_gives_the_mean(tmp_path):
    folder, images = broken(tmp_path, "beit", "pooler."), pictures()
    expected = reference(folder, images).last_hidden_state[:, 1:].mean(1)
    assert_close(vectors(backbone(folder), images), expected)


def test_layers_after_the_chosen_one_may_be_missing(tmp_path):
    folder = broken(tmp_path, "vit", "layer.2.", "layers.2.")
    assert backbone(folder, layer=1).load() is not None
    with pytest.raises(UnsupportedModelError, match="would be random"):
        backbone(folder).load()


def broken(folder, family, *lost):
    """Write a checkpoint and take weights out of it."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(folder / family, family)
    state = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in state.items() if not any(f".{name}" in f".{k}" for name in lost)}
    assert len(kept) < len(state)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_folder_without_a_processor_asks_for_a_transform(tmp_path):
    folder = write_checkpoint(tmp_path / "vit", "vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"preprocessor_config.json.* set preprocess="):
        backbone(folder)
    model = backbone(folder, has_preprocess=True)
    assert vectors(model, pictures((32, 32), (32, 32))).shape == (2, model.width)


def test_a_processor_nested_in_processor_config_is_read(tmp_path):
    import json

    folder = write_checkpoint(tmp_path / "vit", "vit")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert backbone(folder).prepare(pictures()[0]).shape == (3, 32, 32)


def test_models_of_other_rows_are_refused(tmp_path):
    bert = tf.BertModel(tf.BertConfig(**SMALL, vocab_size=16))
    bert.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").touch()
    with pytest.raises(UnsupportedModelError, match=r"text model, use TextEmbedder"):
        backbone(tmp_path / "bert")
    tf.ViTImageProcessor().save_pretrained(tmp_path / "bert")
    with pytest.raises(UnsupportedModelError, match=r"reads text, .*TextEmbedder embeds it"):
        backbone(tmp_path / "bert")
    tf.Wav2Vec2Model(tf.Wav2Vec2Config(**SMALL)).save_pretrained(tmp_path / "sound")
    with pytest.raises(UnsupportedModelError, match="reads sound, not pictures"):
        backbone(tmp_path / "sound", has_preprocess=True)


def test_a_model_of_pictures_of_any_size_is_refused(tmp_path):
    _, _, settings, _, _ = FAMILIES["siglip"]
    vision = {**settings["vision_config"], "num_patches": 16}
    del vision["image_size"]
    config = tf.Siglip2Config(text_config=settings["text_config"], vision_config=vision)
    tf.Siglip2Model(config).save_pretrained(tmp_path)
    tf.Siglip2ImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"spatial_shapes|expected pixel_values"):
        backbone(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"spatial_shapes .* NaFlex"):
        backbone(tmp_path, has_preprocess=True)


def test_weights_of_another_place_are_refused(folders):
    with pytest.raises(InvalidParameterError, match="has its own"):
        backbone(folders("vit"), weights=None)


def test_the_digest_tells_settings_and_files_apart(tmp_path, folders):
    made = [
        backbone(folders("vit"), **settings).digest
        for settings in ({}, {"pooling": "mean"}, {"layer": 1}, {"layer": "layernorm"})
    ]
    made.append(backbone(folders("deit")).digest)
    assert len(set(made)) == len(made)
    assert backbone(folders("vit")).digest == made[0]
    again = write_checkpoint(tmp_path / "vit", "vit")
    assert backbone(again).digest == made[0]


def test_files_that_change_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "vit", "vit")
    model = backbone(folder)
    model.source.check_unchanged()
    write_checkpoint(folder, "vit", hidden_act="relu")
    with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
        model.source.check_unchanged()


def test_the_global_random_state_is_left_alone(folders):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    vectors(backbone(folders("vit"), layer=1), pictures())
    assert torch.equal(torch.rand(3), expected)


def test_a_picture_that_resizing_would_make_enormous_is_refused(folders):
    model = backbone(folders("dinov2"))
    with pytest.raises(ValueError, match="1 x 60000 pixels; resized to 36"):
        model.prepare(Image.new("RGB", (1, 60000)))
