"""The estimator for sound."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from skembed._inputs import CheckedRows
from skembed._pretrained import PretrainedEmbedder
from skembed._report import EmbeddingReport
from skembed.audio._backbone import AudioSettings
from skembed.audio._backbones import find_backbone
from skembed.audio._encoder import AudioEncoder, check_seconds
from skembed.audio._inputs import check_rate, check_sounds
from skembed.audio._models import DEFAULT_MODEL, MODELS
from skembed.exceptions import (
    QualityWarning,
    describe_rows,
    warn_user,
)
from skembed.store import EmbeddingStore
from skembed.training import Strategy

__all__ = ["AudioEmbedder", "AudioReport"]


@dataclass(frozen=True)
class AudioReport(EmbeddingReport):
    """What the last `transform` of an AudioEmbedder did.

    Attributes
    ----------
    sampling_rate : int
        The model's rate, in Hz; `row_sizes` are samples at this rate.
    durations : ndarray of shape (n_rows,), float64
        Length of each clip in seconds; 0 for bad rows.
    quality : dict of int to str
        Rows that were embedded despite poor quality (see `on_quality`), by position, with what was
        found, now or when their vectors were stored.
    """

    sampling_rate: int = 1

    @property
    def durations(self) -> NDArray[np.float64]:
        """Length of each clip in seconds."""
        return self.row_sizes / self.sampling_rate

    @property
    def quality(self) -> dict[int, str]:
        """What is wrong with poor clips that were embedded."""
        return self.notes


class AudioEmbedder(PretrainedEmbedder):
    """Embed sound clips with a pretrained speech or audio model.

    Takes the speech models in torchaudio and transformers (wav2vec 2.0, HuBERT, WavLM, ...),
    Whisper's encoder, CLAP, EmbeddingGemma 2, the audio spectrogram transformer, DeepSpeech, any
    torch module, and statistics of log-mel bands or MFCC as a baseline. Clips are read from files
    of any rate, mixed to one channel and resampled; clips of any length run together without
    padding, so a clip's vector depends only on the clip. Each distinct clip is encoded once.

    Without `training` the embedder is stateless: `fit` checks the parameters, the rows and the
    model's files but does not train anything, and `transform` works without it. The weights are
    loaded when the first row needs encoding. With `training`, `fit` trains the model, `partial_fit`
    goes on, and `export` writes a folder that the model's own library loads.

    Parameters
    ----------
    model : str, path or torch.nn.Module, default="WAV2VEC2_BASE"
        - the name of a torchaudio speech model: "WAV2VEC2_BASE" [1]_, "HUBERT_BASE" [2]_,
          "WAVLM_BASE_PLUS" [3]_, ... Weights are looked up in torch's cache folder, then
          downloaded.
        - a folder with a transformers model, or its id on the Hugging Face hub:
          "facebook/wav2vec2-base", "openai/whisper-base", "laion/clap-htsat-unfused",
          "google/embeddinggemma-2", "MIT/ast-finetuned-audioset-10-10-0.4593", ... Of CLAP and
          EmbeddingGemma 2, `TextEmbedder` of the same name embeds texts into the same space.
        - "deepspeech" [4]_, with your own file as `weights`, or None.
        - "logmel" or "mfcc": mean and standard deviation over time of 80 log-mel bands or 20
          cepstral coefficients (25 ms Hann windows every 10 ms, at 16 kHz). Nothing is trained:
          this is a baseline to compare models with.
        - a module that takes samples of shape (n, samples), or the output of `preprocess`. It
          is copied, not changed, and runs in evaluation mode, in one thread at a time.
    weights : str, path or None, default="auto"
        For torchaudio models and "deepspeech": a file with a state dict (safetensors, or a pickle
        restricted to tensors), or None: random weights, always the same. "auto" is the model's own.
    layer : int or str, default=None
        Number of a hidden state to take frames from: 0 is the first layer's input, -1 the last
        layer's output. Layers after it do not run. For your own module, the name of a submodule;
        for DeepSpeech, a hidden layer from 1 to 5. None is the model's final output.
    pooling : {"auto", "mean", "std", "mean+std", "max", "cls"}, default="auto"
        How frames become one vector: their mean, standard deviation, both side by side (statistics
        pooling [5]_), the largest value of each feature, or the first frame (or class token).
        "auto" is what the model itself ends with (CLAP's vector in the space shared with texts,
        AST's class and distillation tokens), "mean+std" for the baselines, else the mean.
    window : float, "auto" or None, default="auto"
        Seconds given to the model at once. Longer clips are split into windows of this length; the
        last window ends where the clip does. The clip's vector is the mean of the windows' vectors.
        "auto" is what the model takes (Whisper and EmbeddingGemma 2 30 s, CLAP 10 s, AST 10.24 s),
        or 30 s for models that take any length; the baselines take clips of any length whole. None
        leaves clips whole.
    hop : float, default=None
        Seconds from the start of one window to the start of the next, at most `window`. None:
        windows do not overlap. Changing the window or hop runs the model again only on longer
        clips.
    normalize : bool or "auto", default="auto"
        Whether vectors have unit length. "auto" is what the model itself ends with: True for CLAP
        and EmbeddingGemma 2, else False.
    n_components : int, default=None
        Number of leading features to keep, renormalised if `normalize`. None keeps all.
    training : FineTune, Contrastive or None, default=None
        How `fit` trains the model; None leaves it as it is.
    preprocess : callable, default=None
        For your own module: turns samples, a float32 tensor of shape (n,), into the float tensor
        that the module takes, without the batch dimension. Called from several threads; must not be
        random.
    sampling_rate : float, default=None
        Rate in Hz of waveforms that come without one. It is never guessed.
    model_sampling_rate : int, default=None
        Rate in Hz that your own module takes; None is 16,000. Other models specify theirs.
    device : str or list of str, default="auto"
        "auto" is the first CUDA GPU, else Apple's GPU, else the CPU; of several CUDA GPUs each of
        joblib's workers takes another. Or torch's name for a device ("cuda:1"). Or a list of names
        (["cuda:0", "cuda:1"]), all of one kind: each GPU holds a copy of the model, and they share
        the batches.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Format the model computes in. "auto" is bfloat16 on GPUs that have it and on CPUs where a
        short probe finds it faster, else float32; your own module runs in float32, and so does a
        model that fails in bfloat16, with a warning. The baselines always compute in float32, and
        so does DeepSpeech on CPUs. The output is always float32.
    batch_size : int or "auto", default="auto"
        Maximum windows per batch. "auto" plans by samples (30 s of sound on a CPU).
    cache : "run", path, EmbeddingStore or None, default="run"
        Where vectors are kept so that no row is encoded twice. "run": this process, its clones and
        its joblib workers share them until the process ends. A folder: they persist, and everything
        that uses the folder shares them. None: nothing is kept, and only duplicates within one call
        are encoded once. An `EmbeddingStore` without a folder is shared by clones and threads, but
        is empty in other processes. Vectors are
        looked up by the content of the clip, not by its path.
    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that are missing, not sound, empty, damaged, not finite, without a
        rate, too short for the model, or that change or disappear during the call: raise an error
        that names every one, or return rows of NaN, warn and list them in `report_.faults`. Faults
        visible in headers are all reported before anything is encoded; those found only by
        decoding, after the good rows are stored.
    on_quality : {"raise", "warn", "ignore"}, default="raise"
        What to do with clips that are silent (nothing within 80 dB of full scale), clipped (5% of
        the samples stuck at full scale), in opposite phase (channels that cancel out when averaged)
        or truncated (shorter than the file says): treat them as bad rows, handled as `on_error`
        says; or embed them, with a warning (once per process and model) or without one;
        `report_.quality` lists them.
    revision : str, default=None
        Branch, tag or commit of a model on the hub.
    trust_remote_code : bool, default=False
        Whether Python code that comes with a model may run, on your machine.
    verbose : bool, default=False
        Whether to show a progress bar when the work takes longer than a second. If several calls,
        threads or workers run at the same time, only one shows its bar.

    Attributes
    ----------
    encoder_ : AudioEncoder
        The encoder for the current parameters, available once `fit` or `transform` has been called.
    n_features_out_ : int
        Number of output features.
    device_, dtype_ : str
        Where the model runs ("cuda:0, cuda:1" for several devices) and in which format.
    trained_ : TrainedState
        What `training` has learned, in NumPy arrays; pickles have it, clones do not.
    history_ : dict of str to list
        Epochs, losses and scores of the last `fit`; epoch 0 is the model before it.
    report_ : AudioReport
        What the last `transform` did: rows, distinct rows, rows encoded, length of each row, bad
        rows. Not part of pickles.

    See Also
    --------
    skembed.TextEmbedder : Embed texts.
    skembed.ImageEmbedder : Embed pictures.
    skembed.EmbeddingStore : A store of vectors with a size limit.
    skembed.unload_models : Free the memory of loaded models.

    Notes
    -----
    Rows are paths, encoded files as bytes or binary file objects (whatever libsndfile and FFmpeg
    read: WAV, FLAC, OGG, MP3, M4A/AAC, WebM, the sound of videos), pairs (waveform, rate), dicts
    with "array" and "sampling_rate" (or "bytes" or "path") as in Hugging Face datasets, waveforms
    of shape (samples,), (samples, channels) or (channels, samples), or a matrix with one clip per
    row. Integers are PCM at full scale, floats lie between -1 and 1. Channels are averaged.

    Resampling is soxr's "HQ": flat within 0.02 dB up to 0.92 of half the lower rate, aliases below
    -120 dB, no delay.

    For any batch size, order and duplication of rows, vectors agree to within 1e-5 of their length
    in float32, and to within 0.02 in any component of a unit vector in bfloat16. There is no random
    crop, dither or padding.

    References
    ----------
    .. [1] A. Baevski et al., "wav2vec 2.0", NeurIPS 2020, arXiv:2006.11477.
    .. [2] W.-N. Hsu et al., "HuBERT", TASLP 2021, arXiv:2106.07447.
    .. [3] S. Chen et al., "WavLM", JSTSP 2022, arXiv:2110.13900.
    .. [4] A. Hannun et al., "Deep Speech", 2014, arXiv:1412.5567.
    .. [5] D. Snyder et al., "X-Vectors", ICASSP 2018, doi:10.1109/ICASSP.2018.8461375.

    Examples
    --------
    The baseline needs no download:

    >>> import numpy as np
    >>> from skembed import AudioEmbedder
    >>> t = np.arange(16000) / 16000
    >>> tones = [np.sin(2 * np.pi * hz * t) / 2 for hz in (220, 440, 880)]
    >>> AudioEmbedder("logmel", sampling_rate=16000).fit_transform(tones).shape
    (3, 160)
    """

    _settings_type = AudioSettings
    _find_backbone = staticmethod(find_backbone)
    _make_encoder = AudioEncoder

    # As the baselines' and torchaudio's are.
    _are_names = PretrainedEmbedder._are_names | {name for name in MODELS if "/" not in name}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **PretrainedEmbedder._parameter_constraints,
        "pooling": [StrOptions({"auto", "mean", "std", "mean+std", "max", "cls"})],
        "window": [Real, StrOptions({"auto"}), None],
        "hop": [Real, None],
        "sampling_rate": [Real, None],
        "model_sampling_rate": [Interval(Integral, 100, 1_000_000, closed="both"), None],
        "on_quality": [StrOptions({"raise", "warn", "ignore"})],
    }

    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {
        **PretrainedEmbedder._parameter_checks,
        "window": partial(check_seconds, "window"),
        "hop": partial(check_seconds, "hop"),
        "sampling_rate": check_rate,
    }

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module = DEFAULT_MODEL,
        *,
        weights: str | os.PathLike[str] | None = "auto",
        layer: int | str | None = None,
        pooling: str = "auto",
        window: float | str | None = "auto",
        hop: float | None = None,
        normalize: bool | str = "auto",
        n_components: int | None = None,
        training: Strategy | None = None,
        preprocess: Callable[..., Any] | None = None,
        sampling_rate: float | None = None,
        model_sampling_rate: int | None = None,
        device: str | list[str] | tuple[str, ...] = "auto",
        dtype: str = "auto",
        batch_size: int | str = "auto",
        cache: str | os.PathLike[str] | EmbeddingStore | None = "run",
        on_error: str = "raise",
        on_quality: str = "raise",
        revision: str | None = None,
        trust_remote_code: bool = False,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.window = window
        self.hop = hop
        self.normalize = normalize
        self.n_components = n_components
        self.training = training
        self.preprocess = preprocess
        self.sampling_rate = sampling_rate
        self.model_sampling_rate = model_sampling_rate
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache = cache
        self.on_error = on_error
        self.on_quality = on_quality
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.verbose = verbose

    def _check_rows(self, X: Any) -> CheckedRows:
        return check_sounds(X, sampling_rate=self.sampling_rate)

    def _sample_rows(self) -> list[dict[str, Any]]:
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000)
        return [{"array": noise.astype(np.float32), "sampling_rate": 16_000}]

    def _make_report(self, report: EmbeddingReport) -> AudioReport:
        return AudioReport(**vars(report), sampling_rate=self._encoder.rate)

    def _warn_of(self, report: AudioReport, rows: CheckedRows) -> None:
        poor = report.notes
        if poor and self.on_quality == "warn" and self._is_news(report):
            warn_user(
                f"{len(poor):,} of {report.n_rows:,} clips are of poor quality:"
                f"{describe_rows(poor, rows.labels)}\nThey are embedded; report_.quality lists "
                "them after each call, this warning is shown once per model. Drop them, or set "
                "on_quality='raise' or 'ignore'.",
                QualityWarning,
                once=self._encoder.backbone.name,
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = self.sampling_rate is not None
        tags.input_tags.three_d_array = self.sampling_rate is not None
        return tags
