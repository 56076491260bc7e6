"""Random models of timm, saved as its repositories on the hub have them."""

import json

import torch
from PIL import Image
from safetensors.torch import save_file

from tests.image.checkpoints import settle, stir
from tests.image.networks import pictures

IMAGES = [Image.fromarray(each) for each in pictures(4, sizes=((60, 90), (91, 47)))]


def pixels_of(module, images=IMAGES):
    """Return what timm's own transform makes of pictures."""
    import timm

    config = timm.data.resolve_model_data_config(module)
    transform = timm.data.create_transform(**config, is_training=False)
    return torch.stack([transform(image) for image in images])


def write_folder(folder, name, model_args=None, seed=2, **cfg):
    """Save a random model, its configuration changed by `cfg`; return the model."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model(name, pretrained=False, **(model_args or {})).eval()
        stir(module)
        pixels = pixels_of(module)
        # More of them: LeViT normalises the few places of its last maps.
        settle(module, torch.cat([pixels, torch.randn(12, *pixels.shape[1:])]))
    known = {k: v for k, v in module.pretrained_cfg.items() if v is not None}
    config = {
        "architecture": name,
        "num_classes": 1000,
        "model_args": model_args or {},
        "pretrained_cfg": {**known, **cfg},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), folder / "model.safetensors")
    return module
