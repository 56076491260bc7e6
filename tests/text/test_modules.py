"""Models in memory: SentenceTransformers, transformers with their tokenizers, any module."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from sklearn.base import clone
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from skembed import EmbeddingStore, TextEmbedder
from skembed.exceptions import InvalidParameterError, UnsupportedModelError
from tests.text.checkpoints import TEXTS
from tests.text.reference import embeddings

ROWS = [*TEXTS, "word " * 300, "Ünïcödé — 朴素贝叶斯"]


def ours(model, rows=ROWS, **params):
    params = {"on_truncate": "ignore", "cache": None} | params
    return TextEmbedder(model, **params).fit_transform(rows)


@pytest.fixture
def network(folder):
    return AutoModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def chained(folder):
    """Make a SentenceTransformer of modules after its transformer."""

    def chain(*modules, **settings):
        transformer = Transformer(str(folder))
        return SentenceTransformer(modules=[transformer, *modules], device="cpu", **settings)

    return chain


PROMPTS = {"prompts": {"query": "the lazy dog: "}, "default_prompt_name": "query"}


@pytest.mark.parametrize(
    ("modules", "settings"),
    [
        ([Pooling(32, "mean"), Normalize()], {}),
        ([Pooling(32, "cls"), Dense(32, 8), LayerNorm(8)], {}),
        ([Pooling(32, "mean"), Normalize(), Dense(32, 8, activation_function=nn.ReLU())], {}),
        ([Pooling(32, "max"), Normalize()], {"truncate_dim": 5}),
        ([Pooling(32, "mean", include_prompt=False)], PROMPTS),
    ],
    ids=["unit length", "dense", "normalised within", "truncated", "prompt left out"],
)
def test_a_sentence_transformer_gives_what_it_encodes(chained, modules, settings):
    model = chained(*copy.deepcopy(modules), **settings)
    model.max_seq_length = 40
    expected = model.encode(ROWS, show_progress_bar=False)
    np.testing.assert_allclose(ours(model), expected, atol=1e-5, rtol=0)


def test_a_change_of_weights_in_memory_is_seen_and_use_is_no_change(chained):
    model = chained(Pooling(32), Dense(32, 8))
    embedder = TextEmbedder(model, on_truncate="ignore", cache=EmbeddingStore())
    embedder.transform(ROWS)
    model.encode(ROWS[:3], show_progress_bar=False)
    embedder.transform(ROWS)
    assert embedder.report_.n_encoded == 0
    for layer in (model[0].auto_model.embeddings.word_embeddings, model[2].linear):
        with torch.no_grad():
            layer.weight.mul_(1.5)
        vectors = embedder.transform(ROWS)
        assert embedder.report_.n_encoded == len(ROWS)
        expected = model.encode(ROWS, show_progress_bar=False)
        np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_a_chain_with_code_of_its_own_is_refused_with_what_to_do(chained):
    class Own(nn.Module):
        def forward(self, features):
            return features

    with pytest.raises(UnsupportedModelError, match=r"This SentenceTransformer.*FunctionEmbedder"):
        ours(chained(Pooling(32), Own()))


def test_a_model_of_transformers_gives_what_its_folder_gives(folder, network, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    asked = {"truncation": True, "max_length": 3, "padding": True}
    before = tokenizer(["a b", "a"], **asked)["input_ids"]
    network.train()
    found = ours(network, tokenizer=tokenizer, max_length=128)
    np.testing.assert_allclose(found, embeddings(folder, ROWS), atol=1e-5, rtol=0)
    assert network.training
    assert tokenizer(["a b", "a"], **asked)["input_ids"] == before
    again = TextEmbedder(network, tokenizer=tokenizer, pooling="cls", on_truncate="ignore")
    np.testing.assert_allclose(
        again.transform(ROWS), embeddings(folder, ROWS, "cls"), atol=1e-5, rtol=0
    )
    assert clone(again).tokenizer is tokenizer
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(again)).transform(ROWS), again.transform(ROWS)
    )


class Words(nn.Module):
    """Looks words up; what it makes of them is said by `ending`."""

    def __init__(self, ending):
        super().__init__()
        self.table = nn.Embedding(200, 8)
        self.ending = ending

    def forward(self, input_ids, attention_mask):
        states = self.table(input_ids)
        mean = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        endings = {
            "states": states,
            "mean": mean,
            "unmasked": states.mean(1),
            "both": {"last_hidden_state": states, "sentence_embedding": mean},
            "flat": mean[0],
            "random": torch.nn.functional.dropout(mean),
            "pairs": states[:, ::2],
        }
        return endings[self.ending]


@pytest.mark.parametrize("ending", ["states", "mean", "unmasked", "both", None])
def test_any_module_of_tokens_embeds_texts_whatever_is_beside_them(ending, tokenizer):
    module = Words(ending) if ending else nn.Embedding(200, 8)
    ids = [tokenizer(row)["input_ids"][:40] for row in ROWS]
    ids = [each if len(each) < 40 else [*each[:39], tokenizer.sep_token_id] for each in ids]
    table = module.table if ending else module
    expected = np.stack([table(torch.tensor(each)).mean(0).detach() for each in ids])
    found = ours(module, tokenizer=tokenizer.backend_tokenizer, max_length=40)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_who_asks_for_a_pooling_means_the_states(tokenizer):
    module = Words("both")
    first = module.table.weight[tokenizer.cls_token_id].detach().numpy()
    found = ours(module, ["a text"], tokenizer=tokenizer, pooling="cls")
    np.testing.assert_allclose(found, [first], atol=1e-6)


def of_pipeline(network, tokenizer):
    return pipeline("feature-extraction", model=network, tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize(
    ("make", "params", "message"),
    [
        (lambda n, t: n, {}, "tokenizer=None, but model=BertModel"),
        (lambda n, t: n, {"tokenizer": "bert"}, "tokenizer='bert': expected a fast tokenizer"),
        (of_pipeline, {}, r"Give what it runs: model=pipeline\.model"),
        (lambda n, t: n.forward, {}, "To embed with a function .* use FunctionEmbedder"),
        (lambda n, t: AutoModel, {}, "This is a class: give an object of it"),
        (lambda n, t: 3, {}, r"model=3\): expected a str, a path or a torch.nn.Module"),
        (lambda n, t: Words("mean"), {"tokenizer": True, "pooling": "cls"}, "nothing to pool"),
        (lambda n, t: n, {"tokenizer": True, "revision": "main"}, "revision='main': only models"),
        (lambda n, t: "folder", {"tokenizer": True}, "only a torch.nn.Module needs"),
    ],
)
def test_what_cannot_be_meant_is_an_error_of_the_parameters(
    make, params, message, network, tokenizer
):
    if params.get("tokenizer") is True:
        params = params | {"tokenizer": tokenizer}
    with pytest.raises(InvalidParameterError, match=message):
        ours(make(network, tokenizer), ["a"], **params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda n: AutoModelForSequenceClassification.from_config(n.config),
            r"has a head.*model\.base_model",
        ),
        (lambda n: Words("flat"), r"gives torch\.float32 of shape \(8,\)"),
        (lambda n: Words("random"), "Words is random"),
        (lambda n: Words("pairs"), "expected one vector, or one state per token"),
        (lambda n: nn.Linear(3, 2), "int64 tensor of shape.*called with the tokenizer's"),
    ],
)
def test_a_module_that_gives_no_vectors_is_refused(make, message, network, tokenizer):
    with pytest.raises(UnsupportedModelError, match=message):
        ours(make(network), ["a"], tokenizer=tokenizer)


def test_a_cross_encoder_is_refused(folder, tmp_path, network, tokenizer):
    AutoModelForSequenceClassification.from_config(network.config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="CrossEncoder gives scores of pairs"):
        ours(CrossEncoder(str(tmp_path), device="cpu"), ["a"])


def test_models_that_differ_in_whether_they_pool_the_prompt_have_vectors_of_their_own(chained):
    store = EmbeddingStore()
    for include_prompt in (True, False):
        model = chained(Pooling(32, "mean", include_prompt=include_prompt), **PROMPTS)
        expected = model.encode(["a kernel"], show_progress_bar=False)
        np.testing.assert_allclose(ours(model, ["a kernel"], cache=store), expected, atol=1e-5)


def test_a_truncated_model_gives_the_same_from_its_folder_and_from_memory(chained, tmp_path):
    model = chained(Pooling(32), Normalize(), truncate_dim=5)
    model.save_pretrained(tmp_path)
    expected = model.encode(["a kernel"], show_progress_bar=False)
    for each in (model, tmp_path):
        np.testing.assert_allclose(ours(each, ["a kernel"], dtype="float32"), expected, atol=1e-5)
