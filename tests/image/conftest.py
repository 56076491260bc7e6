"""What the tests of this room share."""

import pytest
from torchvision import models

from skembed import unload_models


@pytest.fixture
def small_vits(monkeypatch):
    """Let torchvision's vision transformers have few and narrow layers; their code is its own."""

    def small(name, weights=None, **options):
        sizes = {"num_layers": 3, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 96}
        size = options.pop("image_size", 224)
        return models.VisionTransformer(size, int(name.rpartition("_")[2]), **sizes, **options)

    get_model = models.get_model
    monkeypatch.setattr(
        models,
        "get_model",
        lambda name, **more: (small if name.startswith("vit_") else get_model)(name, **more),
    )
    unload_models()  # backbones of the models as they are
    yield
    unload_models()
