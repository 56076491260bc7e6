"""An embedder as MTEB takes models.

Owns what MTEB asks of a model: vectors under the right prompt, similarities, a name for results.
Tasks and scores are MTEB's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.pipeline import FeatureUnion, Pipeline

from skembed._base import BaseEmbedder
from skembed._later import import_torch
from skembed._optional import import_optional
from skembed.exceptions import InvalidInputError, InvalidParameterError, did_you_mean
from skembed.store import digest_of
from skembed.text import TextEmbedder
from skembed.weights import fingerprint

__all__ = ["MTEBModel"]

# sentence-transformers' names for what is searched, in the order in which it looks for a prompt.
_ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}

_NO_EFFECT = {"batch_size", "show_progress_bar"}
"""Of MTEB's `encode_kwargs`, those that change no vector: the embedder has parameters for them."""


class MTEBModel:
    """An embedder as a model for MTEB, the Massive Text Embedding Benchmark.

    `mteb.evaluate` takes it like a model of its own, on all tasks [1]_ on texts. Rows that tasks
    share are embedded once, as the embedder's `cache` says.

    Parameters
    ----------
    embedder : TextEmbedder, Pipeline or other transformer
        Its `transform` gives vectors for a list of texts. What has to be fitted is fitted before;
        with `training`, the vectors are those of the trained model.
    prompts : mapping of str to str or None, default=None
        The `prompt` of TextEmbedder for some tasks: a text, a name of one of the model's prompts,
        or None for no prompt. Keys are, from the first one looked for to the last, a task's name
        and role ("NFCorpus-query"), its name, its type and role ("Retrieval-query"), its type
        ("Classification", "Clustering", "STS", ...), a role: "query", "document" (or "passage").
        None is the model's own prompts under these names, in upper or lower case, if the
        embedder's `prompt` is "auto" and it was not trained. A task with no key has the embedder's
        `prompt`.
    name : str, default=None
        Under which MTEB keeps the results: "organization/model". None is "skembed/" and the name of
        the model or class.

    Attributes
    ----------
    mteb_model_meta : mteb.ModelMeta
        Its `revision` is a digest of the embedder, of the model's content and of the prompts:
        MTEB never returns kept results of another one.

    Raises
    ------
    MissingDependencyError
        If mteb is not installed.
    InvalidParameterError
        If the embedder, a key or value of `prompts` or the name cannot be used.
    NotFittedError
        If the embedder has `training` and was not fitted.

    Notes
    -----
    Vectors, prompts and similarity (of a model whose files name one, that one; else the cosine) are
    those of sentence-transformers on the same model in float32. `encode_kwargs` may have
    "batch_size" and "show_progress_bar", which have no effect; the embedder's `batch_size` and
    `verbose` have.

    References
    ----------
    .. [1] N. Muennighoff et al., "MTEB: Massive Text Embedding Benchmark", EACL 2023,
       arXiv:2210.07316.

    Examples
    --------
    >>> from skembed import TextEmbedder
    >>> from skembed.model_selection import MTEBModel
    >>> model = MTEBModel(TextEmbedder(), prompts={"query": "question: "})  # doctest: +SKIP
    >>> mteb.evaluate(model, mteb.get_tasks(["NFCorpus"]))  # doctest: +SKIP
    """

    def __init__(
        self,
        embedder: Any,
        *,
        prompts: Mapping[str, str | None] | None = None,
        name: str | None = None,
    ) -> None:
        import_torch()
        self._mteb = import_optional("mteb", extra="mteb", purpose="MTEBModel")
        self.embedder = embedder
        self.prompts = prompts if prompts is None else dict(prompts)
        self.name = _name_of(embedder) if name is None else name
        faults = [*self._faults_of_arguments(), *self._faults_of_prompts()]
        if faults:
            raise InvalidParameterError("\n".join(faults))
        # Before MTEB looks for `mteb_model_meta`: a NotFittedError is an AttributeError, by which
        # it would take this for a model without one.
        for each in _text_embedders(embedder):
            if each.training is not None:
                _encoder_of(each)

    def __repr__(self) -> str:
        prompts = "" if self.prompts is None else f", prompts={self.prompts!r}"
        return f"MTEBModel({self.embedder!r}{prompts}, name={self.name!r})"

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **encode_kwargs: Any,
    ) -> NDArray[np.float32]:
        """Embed the texts of a task.

        Parameters
        ----------
        inputs : torch.utils.data.DataLoader
            Batches with "text", a list of texts.
        task_metadata : mteb.TaskMetadata
            Its name and type decide the prompt.
        hf_split, hf_subset : str
            Part of the data; without effect.
        prompt_type : mteb.types.PromptType or None
            The role of the texts in a search: "query" or "document".
        **encode_kwargs
            "batch_size" and "show_progress_bar", without effect.

        Returns
        -------
        vectors : ndarray of shape (n_texts, n_features), float32
        """
        if others := sorted(encode_kwargs.keys() - _NO_EFFECT):
            raise InvalidParameterError(
                f"encode_kwargs: {', '.join(others)} would change vectors and cannot be used; set "
                "parameters of the embedder instead."
            )
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise InvalidInputError(
                    f"{task_metadata.name} has no texts to embed, but {', '.join(batch)}."
                )
            texts.extend(batch["text"])
        embedder = _with_prompt(self.embedder, *self._choose_prompt(task_metadata, prompt_type))
        vectors = embedder.transform(texts)
        if issparse(vectors):
            raise InvalidInputError(
                f"{type(self.embedder).__name__} gives a sparse matrix, which MTEB's tasks do not "
                "take; end it with TruncatedSVD."
            )
        return np.asarray(vectors, dtype=np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarities of all pairs of vectors.

        Parameters
        ----------
        embeddings1, embeddings2 : array-like of shape (n, d) and (m, d)

        Returns
        -------
        similarities : Tensor of shape (n, m)
        """
        return self._similarity_functions().to_similarity_fn(self._similarity)(
            embeddings1, embeddings2
        )

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each vector to the one in the same row.

        Parameters
        ----------
        embeddings1, embeddings2 : array-like of shape (n, d)

        Returns
        -------
        similarities : Tensor of shape (n,)
        """
        return self._similarity_functions().to_similarity_pairwise_fn(self._similarity)(
            embeddings1, embeddings2
        )

    @property
    def mteb_model_meta(self) -> Any:
        """What MTEB keeps results under: the name, and a digest of all that decides vectors."""
        encoder = _encoder_of(self.embedder)
        content = {"embedder": _content_of(self.embedder), "prompts": self.prompts}
        return self._mteb.models.ModelMeta.create_empty(
            {
                "name": self.name,
                "revision": digest_of(content).hex(),
                "embed_dim": getattr(encoder, "width", None),
                "max_tokens": getattr(encoder, "limit", None),
                "similarity_fn_name": self._similarity,
                "use_instructions": bool(self.prompts or self._own_prompts()),
                "modalities": ["text"],
            }
        )

    # Plumbing -------------------------------------------------------------------------------

    @property
    def _similarity(self) -> str:
        """Name of the similarity that the model's files say."""
        backbone = getattr(_encoder_of(self.embedder), "backbone", None)
        return getattr(backbone, "similarity", None) or "cosine"

    def _similarity_functions(self) -> Any:
        library = import_optional("sentence_transformers", extra="mteb", purpose="MTEBModel")
        return library.SimilarityFunction

    def _own_prompts(self) -> dict[str, str]:
        """Return the model's prompts that may be used: their names, by what is looked for."""
        for each in _text_embedders(self.embedder):
            if each.prompt == "auto" and each.training is None:
                backbone = getattr(_encoder_of(each), "backbone", None)
                return {name.lower(): name for name in getattr(backbone, "prompts", ())}
        return {}

    def _choose_prompt(self, task: Any, prompt_type: Any) -> tuple[str | None, ...]:
        """Return the prompt of a task, or nothing if it is the embedder's own."""
        roles = _ROLES.get(getattr(prompt_type, "value", prompt_type), ())
        keys: list[str] = []
        for kind in (task.name, task.type):
            keys += [*(f"{kind}-{role}" for role in roles), kind]
        keys += roles
        if self.prompts is not None:
            found = [self.prompts[key] for key in keys if key in self.prompts]
            return tuple(found[:1])
        own = self._own_prompts()
        return tuple([own[key.lower()] for key in keys if key.lower() in own][:1])

    def _faults_of_arguments(self) -> Iterator[str]:
        if not (hasattr(self.embedder, "transform") and hasattr(self.embedder, "get_params")):
            yield (
                f"embedder={self.embedder!r:.60}: expected an object whose `transform` gives "
                "vectors for texts: a TextEmbedder, or a Pipeline that ends in vectors."
            )
        organization, _, model = str(self.name).partition("/")
        if not (organization and model):
            yield f"name={self.name!r}: expected 'organization/model'."

    def _faults_of_prompts(self) -> Iterator[str]:
        if not self.prompts:
            return
        embedders = list(_text_embedders(self.embedder))
        if not embedders:
            yield (
                f"prompts={self.prompts!r:.60}: no TextEmbedder in this "
                f"{type(self.embedder).__name__} that could put them before texts."
            )
        types = get_args(self._mteb.abstasks.task_metadata.TaskType)
        roles = [role for each in _ROLES.values() for role in each]
        known = {*types, *roles, *_task_names(self._mteb.AbsTask)}
        for key in self.prompts:
            kind, _, role = key.rpartition("-")
            if key not in known and not (kind in known and role in roles):
                yield (
                    f"prompts: MTEB has no task, type of tasks or role {key!r}."
                    f"{did_you_mean(key, [*types, *roles])}"
                )
        for each in embedders:
            for prompt in dict.fromkeys(self.prompts.values()):
                if each.training is not None and prompt != each.prompt:
                    yield (
                        f"prompts: {prompt!r:.60}, but the model was trained with prompt="
                        f"{each.prompt!r:.60}, which goes before all its texts."
                    )
                    continue
                try:
                    _encoder_of(_with_prompt(each, prompt))
                except InvalidParameterError as error:
                    yield f"prompts: {error}"


def _steps_of(model: Any) -> str | None:
    """Return the name of the attribute with a model's steps, if it is made of such."""
    kinds = ((Pipeline, "steps"), (FeatureUnion, "transformer_list"))
    return next((name for kind, name in kinds if isinstance(model, kind)), None)


def _text_embedders(model: Any) -> Iterator[TextEmbedder]:
    """Yield a TextEmbedder, or those that are steps of a pipeline."""
    if isinstance(model, TextEmbedder):
        yield model
    elif (steps := _steps_of(model)) is not None:
        for _, step in getattr(model, steps):
            yield from _text_embedders(step)


def _with_prompt(model: Any, *prompt: str | None) -> Any:
    """Return a model that shares what was learned, with another prompt; without one, itself."""
    if not prompt:
        return model
    if isinstance(model, TextEmbedder):
        if prompt[0] == model.prompt:
            return model
        model = copy.copy(model)
        model.prompt = prompt[0]
    elif (steps := _steps_of(model)) is not None:
        model = copy.copy(model)
        prompted = [(name, _with_prompt(step, *prompt)) for name, step in getattr(model, steps)]
        setattr(model, steps, prompted)
    return model


def _content_of(model: Any) -> Any:
    """Return what decides a model's vectors, as `digest_of` takes it."""
    if isinstance(model, BaseEmbedder):
        encoder = _encoder_of(model)
        digest = getattr(encoder, "digest", None) or fingerprint(encoder)
        # What is done to long rows and to stored vectors is not in the encoder's digest.
        trained = getattr(getattr(model, "trained_", None), "digest", None)
        ending = [getattr(encoder, name, None) for name in ("n_components", "normalize")]
        cut = [getattr(encoder, "limit", None), getattr(encoder, "cut_digest", b"")]
        return [digest, trained, *ending, *cut]
    if (steps := _steps_of(model)) is not None:
        parts = [[name, _content_of(step)] for name, step in getattr(model, steps)]
        return [type(model).__name__, parts, getattr(model, "transformer_weights", None)]
    return fingerprint(model)


def _encoder_of(embedder: Any) -> Any:
    """Return the encoder of an embedder's present parameters; None of other transformers."""
    if not isinstance(embedder, BaseEmbedder):
        return None
    embedder._begin()
    encoder = embedder._get_encoder()
    return encoder.whole() if hasattr(encoder, "whole") else encoder


def _name_of(embedder: Any) -> str:
    """Return the name under which results are kept, if the user gives none."""
    model = next((each.model for each in _text_embedders(embedder)), None)
    named = isinstance(model, (str, Path))
    return f"skembed/{Path(str(model)).name if named else type(model or embedder).__name__}"


def _task_names(kind: Any) -> Iterator[str]:
    """Yield the names of all tasks, MTEB's own and the user's."""
    for each in kind.__subclasses__():
        if "metadata" in vars(each):
            yield each.metadata.name
        yield from _task_names(each)
