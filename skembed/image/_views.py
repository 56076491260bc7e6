"""Random views of a picture, for training: other crops and colours of what it shows.

As in SimCLR (arXiv:2002.05709), with less of each: half of the picture or more, no greys or blur.
Knows pictures, not models; every choice is the generator's.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["random_view"]

_LEAST_AREA = 0.5
_MOST_STRETCH = 4 / 3
_MOST_CHANGE = 0.3
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def random_view(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a picture in RGB cropped, mirrored in half of the cases, and in other colours.

    The crop has half of the area or more, and its sides another ratio, up to 4 to 3. Brightness,
    contrast and saturation become 0.7 to 1.3 times what they were.
    """
    image = image.crop(_random_box(image.width, image.height, rng))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    for enhancer in _ENHANCERS:
        image = enhancer(image).enhance(rng.uniform(1 - _MOST_CHANGE, 1 + _MOST_CHANGE))
    return image


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower edge."""
    share = rng.uniform(_LEAST_AREA, 1)
    stretch = math.exp(rng.uniform(-1, 1) * math.log(_MOST_STRETCH) / 2)
    w = min(width, max(1, round(width * math.sqrt(share) * stretch)))
    h = min(height, max(1, round(height * math.sqrt(share) / stretch)))
    left, upper = (int(rng.integers(free + 1)) for free in (width - w, height - h))
    return left, upper, left + w, upper + h
