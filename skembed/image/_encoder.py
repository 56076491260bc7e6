"""The image encoder: how pictures are decoded and prepared, behind the engine's contract."""

from __future__ import annotations

from collections.abc import Sequence

import PIL
import torch
from PIL import Image

from skembed._encoder import BatchPolicy, Fault, Prepared
from skembed._files import ChangedRow
from skembed.engine import BackboneEncoder, prepare_in_threads
from skembed.image._backbone import ImageBackbone, ImageSettings, UnfitPicture
from skembed.image._pictures import Picture, digest_of_image
from skembed.image._rgb import UnreadablePicture

__all__ = ["ImageEncoder"]

_BUDGETS = {"cpu": 8 * 224**2, "cuda": 256 * 224**2, "mps": 32 * 224**2}
"""Pixels of a batch that keep a device busy."""

# Prepared pictures take 150 to 600 KiB each, but as much as it wants where the user's own
# preprocessing makes them.
_N_AHEAD = 128

_MOST_BYTES = 256 << 20
"""Prepared pictures of this size are enough at once."""


class ImageEncoder(BackboneEncoder):
    """Encodes pictures with a backbone."""

    backbone: ImageBackbone

    def __init__(
        self, backbone: ImageBackbone, settings: ImageSettings, device: torch.device
    ) -> None:
        release = ".".join(PIL.__version__.split(".")[:2])
        cut_files = settings.reads_cut_files
        super().__init__(backbone, settings, device, pillow=release, reads_cut_files=cut_files)

    @property
    def policy(self) -> BatchPolicy:
        """Pictures of one size together.

        On a CPU decoding takes all cores as the model does: in turn, 2 cores embed 17% more.
        """
        kind = self.torch_device.type
        return BatchPolicy(_BUDGETS[kind], "equal", _N_AHEAD, overlaps=kind != "cpu", may_fail=True)

    def prepare(self, items: Sequence[Picture]) -> list[Prepared | Fault]:
        """Decode, resize and crop pictures, several at once; a part is a tensor (3, h, w)."""

        def size_of(found: Prepared) -> int:
            return sum(part.nbytes for part in found.parts)

        return prepare_in_threads(self._prepare_one, items, size_of, _MOST_BYTES)

    def open(self, item: Picture) -> Image.Image:
        """Return the picture in mode RGB."""
        return item.open()

    def _prepare_one(self, item: Picture) -> Prepared | Fault:
        try:
            image = item.open()
        except (UnreadablePicture, ChangedRow) as error:
            return Fault(str(error), is_gone=isinstance(error, ChangedRow))
        size = max(1, image.width * image.height)
        content = digest_of_image(image) if item.is_of_pixels else None
        try:
            return Prepared((self.backbone.prepare(image),), size, content)
        except UnfitPicture as error:
            return Fault(str(error))
