"""The estimator for pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from torch import nn

from skembed._inputs import CheckedRows
from skembed._pretrained import PretrainedEmbedder
from skembed._report import EmbeddingReport
from skembed.image._arrays import check_image_shape, check_value_range, size_of
from skembed.image._backbone import ImageSettings
from skembed.image._backbones import find_backbone
from skembed.image._encoder import ImageEncoder
from skembed.image._features import IMAGE_POOLINGS
from skembed.image._inputs import check_images
from skembed.image._models import DEFAULT_MODEL, MODELS
from skembed.store import EmbeddingStore
from skembed.training import Strategy

__all__ = ["ImageEmbedder", "ImageReport"]


@dataclass(frozen=True)
class ImageReport(EmbeddingReport):
    """What the last `transform` of an ImageEmbedder did.

    Attributes
    ----------
    n_pixels : ndarray of shape (n_rows,), int64
        Width times height of each original picture; 0 for bad rows.
    """

    @property
    def n_pixels(self) -> NDArray[np.int64]:
        """Pixels in each picture."""
        return self.row_sizes


class ImageEmbedder(PretrainedEmbedder):
    """Embed pictures with a pretrained vision model.

    Takes torchvision's classification models without their classifiers, the image models in
    transformers (ViT, DINOv2, CLIP, SigLIP, EmbeddingGemma 2, ...), those in timm, and any torch
    module. Each distinct picture is encoded once, in bfloat16 if that is faster on the machine;
    files are decoded on all cores, alongside the model if it runs on a GPU. A picture's vector does
    not depend on the other rows.

    Without `training` the embedder is stateless: `fit` checks the parameters, the rows and the
    model's files but does not train anything, and `transform` works without it. The weights are
    loaded when the first row needs encoding. With `training`, `fit` trains the model, `partial_fit`
    goes on, and `export` writes a folder that the model's own library loads.

    Parameters
    ----------
    model : str, path or torch.nn.Module, default="resnet50"
        - the name of a torchvision classification model: "resnet50", "inception_v3", "vit_b_16",
          "convnext_tiny", ... Its classifier is left out, so that a ResNet-50 [1]_ gives 2,048
          features. Weights are looked up in torch's cache folder, then downloaded. For a folder
          with such a name, write "./resnet50".
        - a folder with a transformers model, or its id on the Hugging Face hub:
          "facebook/dinov2-small", "openai/clip-vit-base-patch32", "google/embeddinggemma-2", ...
          Vectors of CLIP-like models [2]_ are projected: `TextEmbedder` with the same id gives
          vectors in the same space.
        - "timm:" and the name of a timm model ("timm:resnet18.a1_in1k"), or its id or folder.
          Needs ``pip install skembed[timm]``.
        - a module that takes pixels of shape (n, channels, height, width), with a `preprocess`. It
          is copied, not changed, and runs in evaluation mode, in one thread at a time.
    weights : str, path, torchvision's enum member or None, default="auto"
        For torchvision models: the name of their weights ("IMAGENET1K_V1"); "auto" is the best that
        torchvision has. For torchvision and timm models also a file with a state dict (safetensors,
        or a pickle restricted to tensors), or None: random weights, always the same.
    layer : str or int, default=None
        An intermediate layer to take features from, by the name of its submodule ("layer3",
        "features.5"); for transformers models also the number of a hidden state (-2). Nothing after
        it runs. None is the model's final output.
    pooling : {"auto", "cls", "mean", "cls+mean", "max"}, default="auto"
        How patches or a feature map become one vector: the class token, the mean, both side by
        side, or the largest value of each feature. Means and maxima leave out tokens that are not
        patches. "auto" is what the model itself ends with; for an intermediate layer, the class
        token if there is one, else the mean. For CLIP-like models only "auto" gives vectors in the
        space shared with texts. For your own module "auto" is its output, or the mean of its tokens
        or feature map; only "cls" and "cls+mean" treat its first token as a class token.
    normalize : bool or "auto", default="auto"
        Whether vectors have unit length. "auto" is what the model itself ends with: True for
        EmbeddingGemma 2, else False.
    n_components : int, default=None
        Number of leading features to keep, renormalised if `normalize`. None keeps all.
    training : FineTune, Contrastive or None, default=None
        How `fit` trains the model; None leaves it as it is.
    preprocess : callable, default=None
        Turns a PIL image (mode RGB) into a float tensor of shape (channels, height, width), instead
        of the model's own preprocessing. Called from several threads; must not be random.
    image_shape : tuple of int, default=None
        (height, width), with channels before or after them if there are any, of pictures that are
        rows of a matrix (scikit-learn's digits are (8, 8)). For other rows, the size that all of
        them have: a module that takes one size only, without a `preprocess` that resizes, is tried
        on this size.
    value_range : tuple of two float, default=None
        The numbers that mean black and white in arrays, and in PIL images and files whose pixels
        are not 8-bit numbers. None goes by the type: 0 to 255 for 8-bit and other integers, 0 to
        65,535 for unsigned 16-bit ones, 0 to 1 for floats and booleans. 12-bit pictures stored in
        16 bits need (0, 4095), and a warning says so; TIFF files marked as 12-bit do not need it.
        Numbers outside the range are a fault of the row; values are never scaled by what other rows
        hold. All are rounded to 8 bits. (PIL images of mode I hold 16-bit numbers, as Pillow reads
        them from files.)
    device : str or list of str, default="auto"
        "auto" is the first CUDA GPU, else Apple's GPU, else the CPU; of several CUDA GPUs each of
        joblib's workers takes another. Or torch's name for a device ("cuda:1"). Or a list of names
        (["cuda:0", "cuda:1"]), all of one kind: each GPU holds a copy of the model, and they share
        the batches.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Format the model computes in. "auto" is bfloat16 on GPUs that have it and on CPUs where a
        short probe finds it faster, else float32; your own module runs in float32, and so does a
        model that fails in bfloat16, with a warning. The output is always float32.
    batch_size : int or "auto", default="auto"
        Maximum pictures per batch. "auto" plans by pixels (8 pictures of 224 x 224 on a CPU).
    cache : "run", path, EmbeddingStore or None, default="run"
        Where vectors are kept so that no row is encoded twice. "run": this process, its clones and
        its joblib workers share them until the process ends. A folder: they persist, and everything
        that uses the folder shares them. None: nothing is kept, and only duplicates within one call
        are encoded once. An `EmbeddingStore` without a folder is shared by clones and threads, but
        is empty in other processes. Vectors are
        looked up by the content of the picture, not by its path.
    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that are missing, not pictures, damaged, empty or too large (over
        `PIL.Image.MAX_IMAGE_PIXELS` pixels), that change or disappear during the call, or on which
        `preprocess` or your own module fails while it works on others. "raise": an error names
        every one. "nan": rows of NaN, a warning, and the list in `report_.faults`; drop these rows
        or use `SimpleImputer`, since most estimators refuse NaN. Faults visible in headers are
        reported before anything is encoded; those found only by decoding, after the good rows are
        stored.
    revision : str, default=None
        Branch, tag or commit of a model on the hub.
    trust_remote_code : bool, default=False
        Whether Python code that comes with a model may run, on your machine.
    verbose : bool, default=False
        Whether to show a progress bar when the work takes longer than a second. If several calls,
        threads or workers run at the same time, only one shows its bar.

    Attributes
    ----------
    encoder_ : ImageEncoder
        The encoder for the current parameters, available once `fit` or `transform` has been called.
    n_features_out_ : int
        Number of output features.
    device_, dtype_ : str
        Where the model runs ("cuda:0, cuda:1" for several devices) and in which format.
    trained_ : TrainedState
        What `training` has learned, in NumPy arrays; pickles have it, clones do not.
    history_ : dict of str to list
        Epochs, losses and scores of the last `fit`; epoch 0 is the model before it.
    report_ : ImageReport
        What the last `transform` did: rows, distinct rows, rows encoded, pixels in each row, bad
        rows. Not part of pickles.

    See Also
    --------
    skembed.TextEmbedder : Embed texts; with CLIP-like models in the same space as pictures.
    skembed.EmbeddingStore : A store of vectors with a size limit.
    skembed.unload_models : Free the memory of loaded models.

    Notes
    -----
    Rows are paths, encoded files as bytes, binary file objects or data URLs, dicts with "bytes" or
    "path" as in Hugging Face datasets, PIL images, arrays (height, width, channels) from NumPy,
    h5py, xarray, ..., or torch tensors (channels, height, width). Files, and PIL images opened from
    them, are turned upright by their EXIF orientation; a PIL image made in memory (such as the
    result of `convert`) is taken as it is. For animated files and files with several pages, the
    first frame or page is used; for an opened PIL image, its current one. Transparent pictures are
    laid over white.

    Colours are treated as sRGB, as the models' own pipelines do: colour profiles in files (Adobe
    RGB, Display P3, CMYK) are not applied. If they matter, convert with
    `PIL.ImageCms.profileToProfile` and pass the result.

    For any batch size, order and duplication of rows, vectors agree to within 1e-5 of their length
    in float32, and to within 0.02 in any component of a unit vector in bfloat16.

    References
    ----------
    .. [1] K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
       arXiv:1512.03385.
    .. [2] A. Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", ICML 2021, arXiv:2103.00020.

    Examples
    --------
    Random weights need no download and are a baseline to compare pretrained ones with:

    >>> from sklearn.datasets import load_digits
    >>> from skembed import ImageEmbedder
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> embedder = ImageEmbedder(
    ...     "squeezenet1_1", weights=None, image_shape=(8, 8), value_range=(0, 16)
    ... )
    >>> embedder.fit_transform(X[:5]).shape
    (5, 512)
    """

    _settings_type = ImageSettings
    _find_backbone = staticmethod(find_backbone)
    _make_encoder = ImageEncoder

    # As torchvision's names are.
    _are_names = PretrainedEmbedder._are_names | {
        n for n, each in MODELS.items() if each.is_torchvision
    }

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **PretrainedEmbedder._parameter_constraints,
        "weights": [str, os.PathLike, Enum, None],
        "pooling": [StrOptions(set(IMAGE_POOLINGS))],
        "image_shape": [tuple, list, None],
        "value_range": [tuple, list, None],
    }

    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {
        **PretrainedEmbedder._parameter_checks,
        "image_shape": check_image_shape,
        "value_range": check_value_range,
    }

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module = DEFAULT_MODEL,
        *,
        weights: str | os.PathLike[str] | None = "auto",
        layer: str | int | None = None,
        pooling: str = "auto",
        normalize: bool | str = "auto",
        n_components: int | None = None,
        training: Strategy | None = None,
        preprocess: Callable[..., Any] | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        device: str | list[str] | tuple[str, ...] = "auto",
        dtype: str = "auto",
        batch_size: int | str = "auto",
        cache: str | os.PathLike[str] | EmbeddingStore | None = "run",
        on_error: str = "raise",
        revision: str | None = None,
        trust_remote_code: bool = False,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.normalize = normalize
        self.n_components = n_components
        self.training = training
        self.preprocess = preprocess
        self.image_shape = image_shape
        self.value_range = value_range
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache = cache
        self.on_error = on_error
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.verbose = verbose

    def _check_rows(self, X: Any) -> CheckedRows:
        return check_images(X, image_shape=self.image_shape, value_range=self.value_range)

    def _sample_rows(self) -> list[Image.Image]:
        return [Image.effect_noise((320, 240), 64)]

    def _other_settings(self) -> dict[str, Any]:
        return {
            "image_size": None if self.image_shape is None else size_of(self.image_shape),
            "reads_cut_files": bool(ImageFile.LOAD_TRUNCATED_IMAGES),
        }

    def _as_parameter(self, setting: str, value: str) -> tuple[str, str]:
        if setting == "image_size":
            return "image_shape", value
        return super()._as_parameter(setting, value)

    def _make_report(self, report: EmbeddingReport) -> ImageReport:
        return ImageReport(**vars(report))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = True
        return tags
