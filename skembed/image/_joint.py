"""Models whose one transformer reads texts, pictures and sounds (EmbeddingGemma 2), for pictures.

A picture keeps its shape: it is resized to whole squares of patches, and read in patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed._backbone import Exported
from skembed.exceptions import UnsupportedModelError
from skembed.image._backbone import ImageBackbone, ImageSettings, PixelModule, Scale, kept_backbone
from skembed.image._features import make_plan
from skembed.modules import Joint, JointModel, Preprocess
from skembed.weights import (
    FolderSource,
    check_weights,
    kept_recent,
    load_config,
    load_processor,
    releases_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["find_joint"]


def find_joint(
    source: FolderSource, settings: ImageSettings, preprocess: Preprocess | None
) -> ImageBackbone:
    """Return the backbone of a model for texts, pictures and sounds, in a folder."""
    own = f"{source.name} has its own."
    settings.refuse(
        weights=f"{own} Leave weights='auto'.",
        layer=f"{source.name} is run whole. Leave layer=None.",
        preprocess=f"{own} Leave preprocess=None.",
    )
    check_weights(source.folder)
    return kept_backbone(source, settings, preprocess, lambda: JointBackbone(source, settings))


class JointBackbone(ImageBackbone):
    """A tower for pictures, and the language model that the other rooms run too."""

    source: FolderSource
    normalizes = True

    def __init__(self, source: FolderSource, settings: ImageSettings) -> None:
        super().__init__(source, settings, None)
        config = load_config(source.folder, trust_remote_code=False)
        self._model = JointModel(source, config, "vision")
        if self._model.tower_config is None:
            raise UnsupportedModelError(f"{source.name} has no part that reads pictures.")
        self.language = self._model.language
        self._processor = self._load_processor()
        self._scale = Scale()
        pooling = "mean" if settings.pooling == "auto" else settings.pooling
        shape = (1, 1, self._model.width)
        self._settle(
            lambda: make_plan(pooling, shape, n_prefix=0, has_class=False, name=self.name),
            None,  # in the files
            libraries=releases_of("transformers", "torchvision"),
        )

    def _load_processor(self) -> Any:
        folder = self.source.folder

        def load() -> Any:
            what, auto = "image processor", "AutoImageProcessor"
            return load_processor(auto, folder, lambda p: p, what=what, trust_remote_code=False)

        key = find_joint, self.source.digest, str(folder)
        return kept_recent(key, lambda: self.source.read(load))

    def _pixels(self, image: Image) -> Tensor:
        """Return the pixels that the processor makes patches of, (3, height, width)."""
        made = self._processor(images=image, return_tensors="pt")
        patches, places = made["pixel_values"][0], made["image_position_ids"][0]
        is_own = places[:, 0] >= 0
        n_across, n_down = (int(n) + 1 for n in places.amax(0))
        pixels: Tensor = patches[is_own].reshape(n_down, n_across, self._patch_size, -1, 3)
        pixels = pixels.permute(4, 0, 2, 1, 3).reshape(3, n_down * self._patch_size, -1)
        whole = (pixels * 255).round()
        # A quarter of the memory, where nothing is lost.
        is_exact = torch.allclose(whole / 255, pixels, rtol=0, atol=1e-6)
        return whole.to(torch.uint8) if is_exact else pixels

    @property
    def _patch_size(self) -> int:
        return int(self._model.tower_config.patch_size)

    def probes(self) -> Iterable[Tensor]:
        """Yield two pictures as the core takes them."""
        side = self._patch_size * int(self._model.tower_config.pooling_kernel_size)
        generator = torch.Generator().manual_seed(0)
        yield torch.rand((2, 3, 2 * side, 3 * side), generator=generator)

    def load(
        self,
        *,
        core: nn.Module | None = None,
        dtype: torch.dtype | None = None,
        language: Any = None,
    ) -> PixelModule:
        """Load the module, around a language model or a core that is there already."""
        if core is None and language is not None:
            core = self._join(language)
        return super().load(core=core, dtype=dtype)

    def _load_core(self) -> nn.Module:
        return self._join(None)

    def _join(self, language: Any) -> Joint:
        tower = _Patches(self._model.load_tower(), self._patch_size)
        return self._model.join(tower.eval(), language)

    def _export(self, core: Any, folder: Path) -> Exported:
        raise UnsupportedModelError(
            f"{self.name} reads texts, pictures and sounds with one transformer; a copy that "
            "pictures have trained cannot be exported. Pickle the embedder instead."
        )


class _Patches(nn.Module):
    """Cuts pixels into patches, row by row, for a tower that takes these and their places."""

    def __init__(self, tower: nn.Module, size: int) -> None:
        super().__init__()
        self.tower, self.size = tower, size

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the tower's states, (n, tokens, d), of pixels (n, 3, height, width)."""
        n, size = len(pixels), self.size
        n_down, n_across = pixels.shape[2] // size, pixels.shape[3] // size
        patches = pixels.reshape(n, 3, n_down, size, n_across, size).permute(0, 2, 4, 3, 5, 1)
        places = torch.cartesian_prod(
            torch.arange(n_down, device=pixels.device), torch.arange(n_across, device=pixels.device)
        ).flip(-1)  # across, then down
        states: Tensor = self.tower(
            patches.reshape(n, n_down * n_across, -1), places.expand(n, -1, -1)
        )
        return states
