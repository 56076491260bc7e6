"""Vision models in transformers, from a folder or the hub: which part runs, what it returns.

Knows transformers checkpoints; must not know rows, keys or devices.
"""

from __future__ import annotations

import copy
import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed._backbone import Exported
from skembed._random_state import own_random_state
from skembed.exceptions import UnsupportedModelError
from skembed.image._backbone import ImageBackbone, ImageSettings, kept_backbone
from skembed.image._export import pixels_code, pooling_code
from skembed.image._features import Plan, find_on_meta, make_plan
from skembed.image._processor import Processor
from skembed.modules import (
    Preprocess,
    States,
    drop_unused,
    fill_part,
    find_unused,
    has_weights,
    make_states,
)
from skembed.weights import (
    FolderSource,
    check_weights,
    copy_processor,
    has_processor,
    kept_recent,
    load_config,
    load_pretrained,
    load_processor,
    refuse_code_from_elsewhere,
    refuse_custom_code,
    releases_of,
    save_pretrained,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["VisionStates", "find_transformers"]

_CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
_OTHER_TOKENS = ("distillation_token", "register_tokens")

# Models of pictures and texts: the part that reads pictures, and what of its output lies in the
# space shared with texts.
_TOWERS = {
    "clip": ("CLIPVisionModelWithProjection", "image_embeds"),
    "metaclip_2": ("MetaClip2VisionModelWithProjection", "image_embeds"),
    "siglip": ("SiglipVisionModel", "pooler_output"),
    "siglip2": ("Siglip2VisionModel", "pooler_output"),
}
_OF_TEXTS = ("text_model.", "text_projection.")  # weights of the other part

_PROJECTED = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "metaclip_2_vision_model": "MetaClip2VisionModelWithProjection",
}

_DINOS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext")
_OF_CLASS_TOKEN = ("vit", "deit", "vit_mae", "vit_msn", *_DINOS)
"""Trained so that the class token's last state stands for the picture. What transformers calls
their pooler is that token again or, in ViT and DeiT, a layer that many checkpoints lack."""

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def find_transformers(
    source: FolderSource, settings: ImageSettings, preprocess: Preprocess | None
) -> ImageBackbone:
    """Return the backbone of a vision model of transformers, in a folder."""
    settings.refuse(weights=f"{source.name} has its own. Leave weights='auto'.")
    check_weights(source.folder)
    if settings.trust_remote_code:
        refuse_code_from_elsewhere(source.folder)
    return kept_backbone(
        source, settings, preprocess, lambda: TransformersBackbone(source, settings, preprocess)
    )


class TransformersBackbone(ImageBackbone):
    """A vision model of transformers.

    `pooling="auto"` is the vector that the model has for a picture: for CLIP, SigLIP and their kin
    the one in the space shared with texts (`get_image_features`); for ViT, DeiT and the DINOs the
    class token's last state; for the others `pooler_output`, the mean where a model has none. Any
    other pooling takes the last states, of CLIP-like models without their projection: these do not
    share a space with texts. `layer` is the number of a hidden state (0 is what enters the first
    layer, -1 the last) or the name of a submodule.
    """

    source: FolderSource

    def __init__(
        self, source: FolderSource, settings: ImageSettings, preprocess: Preprocess | None
    ) -> None:
        super().__init__(source, settings, preprocess)
        self.is_foreign = settings.trust_remote_code
        config = load_config(source.folder, trust_remote_code=settings.trust_remote_code)
        self._processor = None if preprocess is not None else self._load_processor()
        if self._processor is not None:
            self._scale = self._processor.scale
        self._auto, self._config, self._vector = find_tower(config)
        self._settle(
            lambda: find_on_meta(self._plan_on),
            None,  # in the files
            libraries=releases_of("transformers", "torchvision"),
            trust_remote_code=settings.trust_remote_code,
            has_processor=self._processor is not None,
        )

    def _pixels(self, image: Image) -> Tensor:
        """Prepare a picture as the checkpoint's processor does."""
        if self._processor is None:
            raise RuntimeError("made for preprocessing of the user, not to prepare pictures")
        return self._processor.prepare(image)

    def _load_whole(self) -> nn.Module:
        module: nn.Module = load_pretrained(
            self.source.folder,
            self._config,
            auto=self._auto,
            dtype=torch.float32,
            trust_remote_code=self._settings.trust_remote_code,
            is_unused=lambda name: name in self._unused,
            left_out=_OF_TEXTS if self._vector is not None else (),
        ).eval()
        return module

    def _export(self, core: VisionStates, folder: Path) -> Exported:
        """Write a folder of transformers: of pictures and texts, the part that was loaded."""
        refuse_custom_code(self.name, self._settings.trust_remote_code)
        whole: Any = self._load_whole()
        fill_part(whole, core.module)
        unused = [name for name in self._unused if not has_weights(self.source.folder, [name])]
        save_pretrained(whole, folder, is_left_out=set(unused).__contains__)
        copy_processor(self.source.folder, folder)
        kind = type(whole).__name__
        code = f"""
import torch
from transformers import AutoImageProcessor, {kind}

model = {kind}.from_pretrained(".")
"""
        if self._preprocess is not None:
            code += pixels_code("", has_own=True)
        else:
            code += """
processor = AutoImageProcessor.from_pretrained(".")
# images: a list of PIL images in mode RGB
pixels = processor(images=images, return_tensors="pt")["pixel_values"]
"""
        layer = self._settings.layer
        found = self._features_code(str(self.plan.output))
        return Exported("transformers", code + pooling_code(found, self.plan, layer))

    def _features_code(self, output: str) -> str:
        layer, call = self._settings.layer, "model(pixel_values=pixels"
        if output == "image_features":
            return f"{call.replace('model', 'model.get_image_features', 1)}).pooler_output"
        if isinstance(layer, str):
            return f"{call})"
        if layer is not None:
            return f"{call}, output_hidden_states=True).hidden_states[{layer}]"
        flat = ".flatten(1)" if output == "pooler_output" else ""
        return f"{call}).{output}{flat}"

    def _load_core(self) -> nn.Module:
        module = self._load_whole()
        output = str(self.plan.output)
        if output == "image_features":
            drop_unused(module, self._unused)
        pixels = torch.rand(self._shape(), generator=torch.Generator().manual_seed(0))
        return make_states(VisionStates, module, output, self._settings.layer, pixels, self.name)

    def _load_processor(self) -> Processor:
        folder = self.source.folder
        if not has_processor(folder, "image_processor"):
            is_of_texts = any((folder / name).is_file() for name in _TOKENIZERS)
            hint = " If it is a text model, use TextEmbedder." if is_of_texts else ""
            raise UnsupportedModelError(
                f"{folder} does not say how to prepare pictures: it has no "
                "preprocessor_config.json. Save the model's image processor there, or set "
                f"preprocess= to a callable that turns a PIL image into a tensor.{hint}"
            )
        trusted = self._settings.trust_remote_code

        def load() -> Processor:
            auto, what = "AutoImageProcessor", "image processor"
            return load_processor(auto, folder, Processor, what=what, trust_remote_code=trusted)

        key = load_processor, self.source.digest, str(folder), trusted
        return kept_recent(key, lambda: self.source.read(load))

    def _shape(self) -> tuple[int, ...]:
        """Return the shape of one picture that the model can read, as a batch."""
        if self._processor is not None and self._processor.is_of_one_size:
            return (1, *self._processor.shape)
        size = getattr(self._config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else size
        return (1, getattr(self._config, "num_channels", 3), height, width)

    def _plan_on(self, device: str) -> Plan:
        """Run the model with random weights, or none."""
        settings = self._settings
        with own_random_state(), torch.device(device), torch.inference_mode():
            module = self._build()
            is_dual = check_kind(module, self.name)
            self._refuse_extras(module)
            pixels = torch.full(self._shape(), 0.5)
            found = VisionStates(module, "").run(pixels)
            output = self._choose_output(module, found, is_dual)
            states = make_states(VisionStates, module, output, settings.layer, pixels, self.name)
            shape = states(pixels).shape
        n_prefix, has_class = count_prefix(module)
        last = getattr(found, "last_hidden_state", None)
        if len(shape) != 3 or last is None or last.shape[:2] != shape[:2]:
            n_prefix, has_class = 0, False  # a layer before these tokens are put in
        pooling = settings.pooling
        is_trained = self._config.model_type in _OF_CLASS_TOKEN or settings.layer is not None
        if pooling == "auto" and not is_trained and len(shape) > 2:
            pooling = "mean"
        return make_plan(
            pooling,
            shape,
            n_prefix=n_prefix,
            has_class=has_class,
            name=self.name,
            output=output if settings.layer is None else None,
        )

    @functools.cached_property
    def _unused(self) -> frozenset[str]:
        """Names of the weights that are never run."""

        def find(device: str) -> frozenset[str]:
            grad, rng = torch.inference_mode(False), own_random_state()
            with grad, rng, torch.device(device):
                module, pixels = self._build(), torch.full(self._shape(), 0.5)
                output, layer = str(self.plan.output), self._settings.layer
                states = make_states(VisionStates, module, output, layer, pixels, self.name)
                return find_unused(states.module, lambda: states(pixels))

        return find_on_meta(find)

    def _build(self) -> nn.Module:
        """Build the model with random weights."""
        config = copy.deepcopy(self._config)
        trusted = self._settings.trust_remote_code
        try:
            if hasattr(self._auto, "from_config"):
                module = self._auto.from_config(
                    config, dtype=torch.float32, trust_remote_code=trusted
                )
            else:
                module = self._auto._from_config(config, dtype=torch.float32)
        except Exception as error:
            raise UnsupportedModelError(
                f"transformers has no vision model for {self.name}: {type(error).__name__}: {error}"
            ) from error
        return module.eval()  # type: ignore[no-any-return]

    def _refuse_extras(self, module: nn.Module) -> None:
        """Refuse a processor that gives more than pixels, if the model reads that."""
        extras = self._processor.extras if self._processor is not None else {}
        read = set(inspect.signature(module.forward).parameters)
        for name, value in extras.items():
            # A mask of a picture alone, unpadded, masks nothing: the same as none.
            is_idle = name == "pixel_mask" and isinstance(value, Tensor) and bool(value.all())
            if name in read and not is_idle:
                raise UnsupportedModelError(
                    f"The image processor of {self.name} gives {name} besides pixels, which "
                    "skembed does not pass on. Choose a model that reads pixels only."
                )

    def _choose_output(self, module: nn.Module, found: Any, is_dual: bool) -> str:
        """Return what of the output is taken where the user names no layer."""
        if self._settings.pooling != "auto" or self._config.model_type in _OF_CLASS_TOKEN:
            return "last_hidden_state"
        if is_dual:
            return "image_features"
        if self._vector is not None and getattr(found, self._vector, None) is not None:
            return self._vector
        if getattr(found, "pooler_output", None) is None:
            return "last_hidden_state"
        needed = [name for name, _ in module.named_parameters() if name.startswith("pooler.")]
        has_pooler = has_weights(self.source.folder, needed)
        return "pooler_output" if has_pooler else "last_hidden_state"


def find_tower(config: Any) -> tuple[Any, Any, str | None]:
    """Return what loads the part that reads pictures, its configuration, and its vector's name.

    The name is of a field of the output; None where the kind of model does not tell.
    """
    import transformers
    from transformers import AutoModel

    kind = config.model_type
    if kind in _TOWERS:
        name, vector = _TOWERS[kind]
        part = copy.deepcopy(config.vision_config)
        if vector == "image_embeds":
            # The whole model's projection has this width, whatever the part's settings say.
            part.projection_dim = config.projection_dim
        return getattr(transformers, name), part, vector
    named = getattr(config, "architectures", None) or ()
    if _PROJECTED.get(kind) in named:
        return getattr(transformers, _PROJECTED[kind]), config, "image_embeds"
    if kind == "vit_mae":
        config = copy.deepcopy(config)
        config.mask_ratio = 0.0  # it hides patches at random to learn from
    return AutoModel, config, None


def check_kind(module: nn.Module, name: str) -> bool:
    """Refuse a model that does not read single pictures; return whether it reads texts as well."""
    is_dual = hasattr(module, "get_image_features") and hasattr(module, "get_text_features")
    run: Any = module.get_image_features if is_dual else module.forward
    parameters = inspect.signature(run).parameters
    if not is_dual:
        kind = type(module).__name__
        first = getattr(module, "main_input_name", None)
        reads = {"input_ids": "text", "input_values": "sound", "input_features": "sound"}
        if "pixel_values" not in parameters or first in ("input_values", "input_features"):
            what = reads.get(str(first), str(first))
            advice = "TextEmbedder embeds it" if what == "text" else "choose a vision model"
            raise UnsupportedModelError(
                f"{name} reads {what}, not pictures (it is a {kind}): {advice}."
            )
        if first == "input_ids" and next(iter(parameters)) != "pixel_values":
            raise UnsupportedModelError(
                f"{name} is a language model that sees pictures ({kind}); it has no vector for a "
                "picture alone. Choose a vision model, or one such as CLIP."
            )
    needed = [
        each.name
        for each in parameters.values()
        if each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        and each.name != "pixel_values"
    ]
    if needed:
        raise UnsupportedModelError(
            f"{name} reads {', '.join(needed)} besides pixels, which skembed does not pass on. "
            "Choose a model for pictures of one size (for SigLIP 2: not a NaFlex one)."
        )
    return is_dual


class VisionStates(States):
    """Runs a vision model, or one of pictures and texts: "image_features" is projected."""

    def run(self, values: Tensor, *, all_states: bool = False) -> Any:
        """Return the model's whole output."""
        module: Any = self.module
        arguments: dict[str, Any] = {"output_hidden_states": True} if all_states else {}
        if hasattr(module, "get_image_features"):
            return module.get_image_features(pixel_values=values, **arguments)
        if module.config.model_type == "vit_mae":
            # The "noise" by which it shuffles patches, that leaves them as they are.
            size = module.config.patch_size
            n_patches = (values.shape[2] // size) * (values.shape[3] // size)
            order = torch.arange(n_patches, device=values.device)
            arguments["noise"] = order.expand(len(values), -1)
        return module(pixel_values=values, **arguments)

    def take(self, found: Any, output: str) -> Tensor:
        """Return what the model's output has by this name."""
        if output == "image_features":
            # A tensor in the first releases of transformers 5, later one of an output's fields.
            features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
            return features.flatten(1)
        value: Tensor = getattr(found, output)
        return value.flatten(1) if output == "pooler_output" else value


def count_prefix(module: nn.Module) -> tuple[int, bool]:
    """Return how many tokens precede the patches, and whether the first stands for the picture.

    Class, distillation and register tokens are parameters of the model, of shape (1, tokens, d),
    or (d,) for one token.
    """
    config: Any = module.config
    if config.model_type == "dinov3_convnext":
        return 1, True  # the mean of its map, put before it
    n_prefix, has_class = 0, False
    for name, parameter in module.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last in _CLASS_TOKENS + _OTHER_TOKENS:
            n_prefix += parameter.shape[-2] if parameter.ndim > 1 else 1
            has_class = has_class or last in _CLASS_TOKENS
    return n_prefix, has_class
