"""Backbones, and what their plain modules give, as the tests of this room take them."""

import torch
from PIL import Image

from skembed.image._backbone import ImageSettings
from skembed.image._backbones import find_backbone
from skembed.modules import Stacks


def backbone_of(model, **settings):
    """Return the backbone of a model."""
    return find_backbone(ImageSettings(model, **settings))


def scaled(backbone, images):
    """Return what the core takes of pictures of one size: a stack."""
    images = [images] if isinstance(images, Image.Image) else images
    return backbone._scale(torch.stack([backbone.prepare(image) for image in images]))


def vectors(backbone, pixels):
    """Return what the plain module makes of such a stack."""
    with torch.no_grad():
        return backbone.load()(Stacks.of(list(pixels)))
