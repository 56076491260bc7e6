"""Tiny random checkpoints of vision models, each with its own image processor."""

from pathlib import Path

import torch
import transformers as tf
from torch.nn.modules.batchnorm import _BatchNorm

# Weights large enough that neighbours and positions matter to every state.
TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}
_VIT = {**TOWER, "image_size": 32, "patch_size": 8}
_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "initializer_range": 0.3,
}
_CONV = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_TEXT = {
    **TOWER,
    "vocab_size": 99,
    "max_position_embeddings": 16,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_SQUARE = {"size": {"height": 32, "width": 32}}
_CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}

# What parameters that scale a residual branch are called, in torchvision, transformers and timm.
_BRANCH_SCALES = ("layer_scale", "lambda", "gamma")

# family -> (model, configuration, its settings, processor, its settings)
FAMILIES = {
    "vit": (tf.ViTModel, tf.ViTConfig, _VIT, tf.ViTImageProcessor, _SQUARE),
    "deit": (tf.DeiTModel, tf.DeiTConfig, _VIT, tf.DeiTImageProcessor, _CROP),
    "dinov2": (tf.Dinov2Model, tf.Dinov2Config, _VIT, tf.BitImageProcessor, _CROP),
    "dinov2-registers": (
        tf.Dinov2WithRegistersModel,
        tf.Dinov2WithRegistersConfig,
        {**_VIT, "num_register_tokens": 3},
        tf.BitImageProcessor,
        _CROP,
    ),
    "dinov3-vit": (
        tf.DINOv3ViTModel,
        tf.DINOv3ViTConfig,
        {**_VIT, "num_register_tokens": 2},
        tf.DINOv3ViTImageProcessor,
        _SQUARE,
    ),
    "dinov3-convnext": (
        tf.DINOv3ConvNextModel,
        tf.DINOv3ConvNextConfig,
        _CONV,
        tf.DINOv3ViTImageProcessor,
        _SQUARE,
    ),
    "vit-mae": (tf.ViTMAEModel, tf.ViTMAEConfig, _VIT, tf.ViTImageProcessor, _SQUARE),
    "vit-msn": (tf.ViTMSNModel, tf.ViTMSNConfig, _VIT, tf.ViTImageProcessor, _SQUARE),
    "convnext": (
        tf.ConvNextModel,
        tf.ConvNextConfig,
        _CONV,
        tf.ConvNextImageProcessor,
        {"size": {"shortest_edge": 32}},
    ),
    "convnextv2": (
        tf.ConvNextV2Model,
        tf.ConvNextV2Config,
        _CONV,
        tf.ConvNextImageProcessor,
        {"size": {"shortest_edge": 32}},
    ),
    "swin": (tf.SwinModel, tf.SwinConfig, _SWIN, tf.ViTImageProcessor, _SQUARE),
    "swinv2": (tf.Swinv2Model, tf.Swinv2Config, _SWIN, tf.ViTImageProcessor, _SQUARE),
    "beit": (tf.BeitModel, tf.BeitConfig, _VIT, tf.BeitImageProcessor, _SQUARE),
    "resnet": (
        tf.ResNetModel,
        tf.ResNetConfig,
        {"embedding_size": 8, **_CONV},
        tf.ConvNextImageProcessor,
        {"size": {"shortest_edge": 32}},
    ),
    "regnet": (
        tf.RegNetModel,
        tf.RegNetConfig,
        {"embedding_size": 8, **_CONV, "groups_width": 8},
        tf.ConvNextImageProcessor,
        {"size": {"shortest_edge": 32}},
    ),
    "mobilenet-v2": (
        tf.MobileNetV2Model,
        tf.MobileNetV2Config,
        {"depth_multiplier": 0.25},
        tf.MobileNetV2ImageProcessor,
        _CROP,
    ),
    "efficientnet": (
        tf.EfficientNetModel,
        tf.EfficientNetConfig,
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
        tf.EfficientNetImageProcessor,
        {"size": {"height": 64, "width": 64}, "include_top": False},
    ),
    "clip": (
        tf.CLIPModel,
        tf.CLIPConfig,
        {"text_config": _TEXT, "vision_config": _VIT, "projection_dim": 24},
        tf.CLIPImageProcessor,
        _CROP,
    ),
    "clip-vision": (
        tf.CLIPVisionModelWithProjection,
        tf.CLIPVisionConfig,
        {**_VIT, "projection_dim": 24},
        tf.CLIPImageProcessor,
        _CROP,
    ),
    "clip-vision-alone": (
        tf.CLIPVisionModel,
        tf.CLIPVisionConfig,
        _VIT,
        tf.CLIPImageProcessor,
        _CROP,
    ),
    "metaclip-2": (
        tf.MetaClip2Model,
        tf.MetaClip2Config,
        {"text_config": _TEXT, "vision_config": _VIT, "projection_dim": 24},
        tf.CLIPImageProcessor,
        _CROP,
    ),
    "siglip": (
        tf.SiglipModel,
        tf.SiglipConfig,
        {"text_config": _TEXT, "vision_config": _VIT},
        tf.SiglipImageProcessor,
        _SQUARE,
    ),
    "siglip-vision": (
        tf.SiglipVisionModel,
        tf.SiglipVisionConfig,
        _VIT,
        tf.SiglipImageProcessor,
        _SQUARE,
    ),
    # Those of one picture size are of SigLIP's architecture, and are resized bilinearly.
    "siglip-2": (
        tf.SiglipModel,
        tf.SiglipConfig,
        {"text_config": {**_TEXT, "projection_size": 32}, "vision_config": _VIT},
        tf.SiglipImageProcessor,
        {**_SQUARE, "resample": 2},
    ),
    # Of kinds that skembed has no rule of its own for.
    "chinese-clip": (
        tf.ChineseCLIPModel,
        tf.ChineseCLIPConfig,
        {"text_config": _TEXT, "vision_config": _VIT, "projection_dim": 24},
        tf.ChineseCLIPImageProcessor,
        _CROP,
    ),
    "data2vec": (
        tf.Data2VecVisionModel,
        tf.Data2VecVisionConfig,
        _VIT,
        tf.BeitImageProcessor,
        _SQUARE,
    ),
    "ijepa": (tf.IJepaModel, tf.IJepaConfig, _VIT, tf.ViTImageProcessor, _SQUARE),
    "mobilevit": (
        tf.MobileViTModel,
        tf.MobileViTConfig,
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
            "num_attention_heads": 2,
            "image_size": 64,
        },
        tf.MobileViTImageProcessor,
        {"size": {"shortest_edge": 70}, "crop_size": {"height": 64, "width": 64}},
    ),
}


def write_checkpoint(folder: Path, family: str, **changes: object) -> Path:
    """Save a random checkpoint of a family and its image processor; return the folder."""
    model_class, config_class, settings, processor_class, options = FAMILIES[family]
    config = config_class(**{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
        stir(model)
        processor = processor_class(**options)
        noise = [torch.randint(0, 256, (3, 64, 48), dtype=torch.uint8) for _ in range(16)]
        settle(model, processor(noise, return_tensors="pt")["pixel_values"])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def stir(model: torch.nn.Module) -> None:
    """Move every weight away from where it does nothing: biases, scales, running statistics."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, _BatchNorm):  # or pictures would fade from layer to layer
            torch.nn.init.uniform_(module.weight, 1.0, 2.0)
    for name, parameter in model.named_parameters():
        if any(each in name for each in _BRANCH_SCALES):  # 1e-6 at first: blocks that do nothing
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.ndim == 1 or "token" in name or parameter.min() == parameter.max():
            parameter.data += 0.1 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn_like(buffer)
        if name.endswith("running_var"):
            buffer *= 1 + torch.rand_like(buffer)


@torch.no_grad()
def settle(model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Give batch normalisations the statistics of these pictures, as training would.

    With others, deep models give values of 1e-8 or 1e+16, or the same ones for all pictures. Most
    of what is normalised is above zero: where ReLU cuts off half of it in every layer, rounding
    grows, and two exact ways to the same vector are 4e-5 apart.
    """
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    if not norms:
        return
    model.eval()
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.0)
        torch.nn.init.normal_(norm.bias, 1.0, 0.2)
        norm.momentum = 1.0
        norm.train()
    model(pixels)
    model.eval()
