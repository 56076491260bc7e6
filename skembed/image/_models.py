"""The table of image models that skembed knows by name.

Other hub ids and folders work too; all of torchvision's classification models are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from skembed._models import ModelInfo

__all__ = ["DEFAULT_MODEL", "MODELS", "ImageModel"]

DEFAULT_MODEL = "resnet50"


@dataclass(frozen=True)
class ImageModel(ModelInfo):
    """A row of the table; `is_torchvision` tells whether torchvision has it by this name."""

    is_torchvision: bool = False


# Paper and note of a family; below, its models with their widths.
_FAMILIES = """
arXiv:1404.5997 | AlexNet, of historical interest
    alexnet 4096
arXiv:2201.03545 | ConvNeXt: modern convolutions
    convnext_tiny 768, convnext_small 768, convnext_base 1024, convnext_large 1536
arXiv:1608.06993 | DenseNet
    densenet121 1024, densenet161 2208, densenet169 1664, densenet201 1920
arXiv:1905.11946 | EfficientNet: few parameters, larger pictures
    efficientnet_b0 1280, efficientnet_b1 1280, efficientnet_b2 1408, efficientnet_b3 1536,
    efficientnet_b4 1792, efficientnet_b5 2048, efficientnet_b6 2304, efficientnet_b7 2560
arXiv:2104.00298 | EfficientNetV2
    efficientnet_v2_s 1280, efficientnet_v2_m 1280, efficientnet_v2_l 1280
arXiv:1409.4842 | GoogLeNet
    googlenet 1024
arXiv:1512.00567 | Inception v3: the features of the Frechet inception distance
    inception_v3 2048
arXiv:2204.01697 | MaxViT: convolutions and attention
    maxvit_t 512
arXiv:1807.11626 | MNASNet, for phones
    mnasnet0_5 1280, mnasnet0_75 1280, mnasnet1_0 1280, mnasnet1_3 1280
arXiv:1801.04381 | MobileNetV2: small and fast
    mobilenet_v2 1280
arXiv:1905.02244 | MobileNetV3: the fastest per picture
    mobilenet_v3_small 1024, mobilenet_v3_large 1280
arXiv:2003.13678 | RegNet; of weights named SWAG the licence is CC-BY-NC-4.0
    regnet_x_400mf 400, regnet_x_800mf 672, regnet_x_1_6gf 912, regnet_x_3_2gf 1008,
    regnet_x_8gf 1920, regnet_x_16gf 2048, regnet_x_32gf 2520, regnet_y_400mf 440,
    regnet_y_800mf 784, regnet_y_1_6gf 888, regnet_y_3_2gf 1512, regnet_y_8gf 2016,
    regnet_y_16gf 3024, regnet_y_32gf 3712
arXiv:1512.03385 | ResNet: the usual first choice
    resnet18 512, resnet34 512, resnet50 2048, resnet101 2048, resnet152 2048
arXiv:1611.05431 | ResNeXt
    resnext50_32x4d 2048, resnext101_32x8d 2048, resnext101_64x4d 2048
arXiv:1807.11164 | ShuffleNetV2: small and fast
    shufflenet_v2_x0_5 1024, shufflenet_v2_x1_0 1024, shufflenet_v2_x1_5 1024,
    shufflenet_v2_x2_0 2048
arXiv:1602.07360 | SqueezeNet: five megabytes
    squeezenet1_0 512, squeezenet1_1 512
arXiv:2103.14030 | Swin: attention in windows
    swin_t 768, swin_s 768, swin_b 1024
arXiv:2111.09883 | Swin V2
    swin_v2_t 768, swin_v2_s 768, swin_v2_b 1024
arXiv:1409.1556 | VGG: wide features before the classifier
    vgg11 4096, vgg13 4096, vgg16 4096, vgg19 4096, vgg11_bn 4096, vgg13_bn 4096, vgg16_bn 4096,
    vgg19_bn 4096
arXiv:2010.11929 | ViT: a transformer on patches; of weights named SWAG the licence is CC-BY-NC-4.0
    vit_b_16 768, vit_b_32 768, vit_l_16 1024, vit_l_32 1024
arXiv:1605.07146 | Wide ResNet
    wide_resnet50_2 2048, wide_resnet101_2 2048
"""

# Most are on the hub; two of torchvision's were trained on hashtags by SWAG, under its licence.
_OTHERS = """
regnet_y_128gf | 7392 | CC-BY-NC-4.0 | arXiv:2201.08371 | 2.6 GB, for research
vit_h_14 | 1280 | CC-BY-NC-4.0 | arXiv:2201.08371 | 2.5 GB, for research
facebook/dinov2-small | 384 | Apache-2.0 | arXiv:2304.07193 | good for kNN and clusters
facebook/dinov2-base | 768 | Apache-2.0 | arXiv:2304.07193 | DINOv2, larger
google/vit-base-patch16-224 | 768 | Apache-2.0 | arXiv:2010.11929 | ImageNet's classes
google/embeddinggemma-2 | 768 | Apache-2.0 | arXiv:2509.20354 | shares a space with texts and sounds
openai/clip-vit-base-patch32 | 512 | MIT | arXiv:2103.00020 | shares a space with texts
google/siglip-base-patch16-224 | 768 | Apache-2.0 | arXiv:2303.15343 | shares a space with texts
    (skembed[sentencepiece])
google/siglip2-base-patch16-224 | 768 | Apache-2.0 | arXiv:2502.14786 | shares a space with
    texts of many languages
facebook/convnextv2-tiny-1k-224 | 768 | CC-BY-NC-4.0 | arXiv:2301.00808 | modern convolutions;
    not for commercial use
microsoft/swin-tiny-patch4-window7-224 | 768 | Apache-2.0 | arXiv:2103.14030 | attention in windows
microsoft/resnet-50 | 2048 | Apache-2.0 | arXiv:1512.03385 | ResNet
"""

_OF_SWAG = ("regnet_y_128gf", "vit_h_14")


def _read_tables() -> Iterator[ImageModel]:
    for family in re.split(r"\n(?=\S)", _FAMILIES.strip()):
        heading, _, models = family.partition("\n")
        source, note = heading.split(" | ")
        for model in models.split(","):
            name, width = model.split()
            yield ImageModel(name, int(width), "BSD-3-Clause", source, note, True)
    for row in re.split(r"\n(?=\S)", _OTHERS.strip()):
        name, width, licence, source, note = " ".join(row.split()).split(" | ")
        yield ImageModel(name, int(width), licence, source, note, name in _OF_SWAG)


MODELS: dict[str, ImageModel] = {each.name: each for each in _read_tables()}
