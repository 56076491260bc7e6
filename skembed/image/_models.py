"""The table of image models that skembed knows by name: widths, licences, papers.

All classification models of torchvision are in it. Any other hub id, folder or model of timm works
too; the table only says what a user may want to know before choosing.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_MODEL", "HUB_MODELS", "TORCHVISION_MODELS", "ImageModel"]

DEFAULT_MODEL = "resnet50"


@dataclass(frozen=True, slots=True)
class ImageModel:
    """One row of the table.

    Parameters
    ----------
    width : int
        Number of features.
    licence : str
        SPDX name of the licence of the weights.
    source : str
        Paper or model card.
    note : str
        What it is good for.
    """

    width: int
    licence: str
    source: str
    note: str


def _family(source: str, note: str, widths: dict[str, int]) -> dict[str, ImageModel]:
    """Return the rows of a family of torchvision, whose weights have the library's licence."""
    return {name: ImageModel(width, "BSD-3-Clause", source, note) for name, width in widths.items()}


TORCHVISION_MODELS: dict[str, ImageModel] = {
    **_family(
        "arXiv:1512.03385",
        "residual; resnet50 is the default, its second weights are far better than the first",
        {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048},
    ),
    **_family(
        "arXiv:1611.05431",
        "residual, grouped convolutions",
        {"resnext50_32x4d": 2048, "resnext101_32x8d": 2048, "resnext101_64x4d": 2048},
    ),
    **_family(
        "arXiv:1605.07146",
        "residual, twice as wide inside",
        {"wide_resnet50_2": 2048, "wide_resnet101_2": 2048},
    ),
    **_family(
        "arXiv:1404.5997",
        "historical; the features are those of its second layer from the end, after the ReLU",
        {"alexnet": 4096},
    ),
    **_family(
        "arXiv:1409.1556",
        "historical, slow; much used for textures and style, from its intermediate layers",
        dict.fromkeys(
            ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"],
            4096,
        ),
    ),
    **_family("arXiv:1409.4842", "historical, small", {"googlenet": 1024}),
    **_family("arXiv:1512.00567", "pictures of 299 x 299 pixels", {"inception_v3": 2048}),
    **_family(
        "arXiv:1608.06993",
        "each layer sees all before it; few weights, much memory",
        {"densenet121": 1024, "densenet161": 2208, "densenet169": 1664, "densenet201": 1920},
    ),
    **_family(
        "arXiv:1602.07360",
        "tiny; ends in a feature map, which is averaged",
        {"squeezenet1_0": 512, "squeezenet1_1": 512},
    ),
    **_family("arXiv:1801.04381", "small and fast", {"mobilenet_v2": 1280}),
    **_family(
        "arXiv:1905.02244",
        "small and fast",
        {"mobilenet_v3_small": 1024, "mobilenet_v3_large": 1280},
    ),
    **_family(
        "arXiv:1807.11626",
        "small and fast",
        dict.fromkeys(["mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"], 1280),
    ),
    **_family(
        "arXiv:1807.11164",
        "small and fast",
        {
            "shufflenet_v2_x0_5": 1024,
            "shufflenet_v2_x1_0": 1024,
            "shufflenet_v2_x1_5": 1024,
            "shufflenet_v2_x2_0": 2048,
        },
    ),
    **_family(
        "arXiv:1905.11946",
        "few weights for their accuracy; larger numbers take larger pictures",
        {
            "efficientnet_b0": 1280,
            "efficientnet_b1": 1280,
            "efficientnet_b2": 1408,
            "efficientnet_b3": 1536,
            "efficientnet_b4": 1792,
            "efficientnet_b5": 2048,
            "efficientnet_b6": 2304,
            "efficientnet_b7": 2560,
        },
    ),
    **_family(
        "arXiv:2104.00298",
        "accurate; pictures of 384 or 480 pixels a side",
        {"efficientnet_v2_s": 1280, "efficientnet_v2_m": 1280, "efficientnet_v2_l": 1280},
    ),
    **_family(
        "arXiv:2003.13678",
        "a wide range of sizes; weights named SWAG are CC-BY-NC-4.0",
        {
            "regnet_x_400mf": 400,
            "regnet_x_800mf": 672,
            "regnet_x_1_6gf": 912,
            "regnet_x_3_2gf": 1008,
            "regnet_x_8gf": 1920,
            "regnet_x_16gf": 2048,
            "regnet_x_32gf": 2520,
            "regnet_y_400mf": 440,
            "regnet_y_800mf": 784,
            "regnet_y_1_6gf": 888,
            "regnet_y_3_2gf": 1512,
            "regnet_y_8gf": 2016,
            "regnet_y_16gf": 3024,
            "regnet_y_32gf": 3712,
        },
    ),
    # Weights from weak supervision (SWAG) are licensed otherwise than the rest.
    "regnet_y_128gf": ImageModel(
        7392, "CC-BY-NC-4.0", "arXiv:2201.08371", "2.6 GB; trained on 3.6 billion hashtags"
    ),
    **_family(
        "arXiv:2201.03545",
        "accurate, convolutions only",
        {
            "convnext_tiny": 768,
            "convnext_small": 768,
            "convnext_base": 1024,
            "convnext_large": 1536,
        },
    ),
    **_family(
        "arXiv:2010.11929",
        "the class token of a transformer on patches; weights named SWAG are CC-BY-NC-4.0",
        {"vit_b_16": 768, "vit_b_32": 768, "vit_l_16": 1024, "vit_l_32": 1024},
    ),
    "vit_h_14": ImageModel(
        1280, "CC-BY-NC-4.0", "arXiv:2201.08371", "2.5 GB; trained on 3.6 billion hashtags"
    ),
    **_family(
        "arXiv:2103.14030",
        "a transformer on shifted windows",
        {"swin_t": 768, "swin_s": 768, "swin_b": 1024},
    ),
    **_family(
        "arXiv:2111.09883",
        "a transformer on shifted windows, for larger pictures",
        {"swin_v2_t": 768, "swin_v2_s": 768, "swin_v2_b": 1024},
    ),
    **_family("arXiv:2204.01697", "convolutions and attention on a grid", {"maxvit_t": 512}),
}

HUB_MODELS: dict[str, ImageModel] = {
    "facebook/dinov2-small": ImageModel(
        384, "Apache-2.0", "arXiv:2304.07193", "self-supervised; for kNN and clustering, small"
    ),
    "facebook/dinov2-base": ImageModel(
        768, "Apache-2.0", "arXiv:2304.07193", "self-supervised; for kNN and clustering"
    ),
    "facebook/dinov2-large": ImageModel(
        1024, "Apache-2.0", "arXiv:2304.07193", "self-supervised; for kNN and clustering, large"
    ),
    "google/vit-base-patch16-224": ImageModel(
        768, "Apache-2.0", "arXiv:2010.11929", "trained on the 21,841 classes of ImageNet-21k"
    ),
    "facebook/deit-base-distilled-patch16-224": ImageModel(
        768, "Apache-2.0", "arXiv:2012.12877", "a ViT trained on ImageNet-1k alone"
    ),
    "openai/clip-vit-base-patch32": ImageModel(
        512, "MIT", "arXiv:2103.00020", "shares a space with texts; fast"
    ),
    "openai/clip-vit-large-patch14": ImageModel(
        768, "MIT", "arXiv:2103.00020", "shares a space with texts; accurate"
    ),
    "google/siglip-base-patch16-224": ImageModel(
        768, "Apache-2.0", "arXiv:2303.15343", "shares a space with texts"
    ),
    "facebook/convnextv2-tiny-1k-224": ImageModel(
        768, "CC-BY-NC-4.0", "arXiv:2301.00808", "convolutions only"
    ),
    "microsoft/swin-tiny-patch4-window7-224": ImageModel(
        768, "Apache-2.0", "arXiv:2103.14030", "a transformer on shifted windows"
    ),
    "microsoft/beit-base-patch16-224": ImageModel(
        768, "Apache-2.0", "arXiv:2106.08254", "pretrained on masked patches"
    ),
    "microsoft/resnet-50": ImageModel(
        2048, "Apache-2.0", "arXiv:1512.03385", "the network of torchvision's resnet50"
    ),
}
