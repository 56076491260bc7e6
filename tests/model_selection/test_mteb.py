"""Embedders as models for MTEB: the scores of sentence-transformers, the right prompts, names."""

import json
import shutil
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer

from skembed import FineTune, FunctionEmbedder, TextEmbedder
from skembed.exceptions import (
    InvalidInputError,
    InvalidParameterError,
    MissingDependencyError,
)
from skembed.model_selection import MTEBModel
from skembed.text._models import MODELS
from skembed.weights import resolve_model
from tests.text.checkpoints import TEXTS, write_checkpoint

pytest.importorskip("mteb")  # Python 3.11 and later

from mteb.models import EncoderProtocol
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tests.model_selection.tasks import TASKS, evaluate, metadata

ROLES = {"query": PromptType.query, "document": PromptType.document, None: None}
PROMPTS = {"query": "find: ", "document": "text: ", "clustering": "group: ", "STS-query": "like: "}


@pytest.fixture(scope="module")
def minilm():
    return str(resolve_model("sentence-transformers/all-MiniLM-L6-v2").folder)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """Return the folder of a tiny model with prompts, compared by dot product."""
    place = tmp_path_factory.mktemp("prompted")
    chain = [Transformer(str(write_checkpoint(place / "checkpoint"))), Pooling(32)]
    model = SentenceTransformer(
        modules=chain,
        device="cpu",
        prompts={**PROMPTS, "other": "other: "},
        default_prompt_name="other",
        similarity_fn_name="dot",
    )
    model.save(str(place / "model"))
    return place / "model"


def embedder_of(folder, **params):
    return TextEmbedder(folder, dtype="float32", **params)


def encode(model, kind="Classification", role=None, texts=TEXTS, name="ATask", **kwargs):
    """Return the vectors that MTEB gets for texts in two batches."""
    half = len(texts) // 2
    return model.encode(
        [{"text": list(texts[:half])}, {"text": list(texts[half:])}],
        task_metadata=metadata(name, kind),
        hf_split="test",
        hf_subset="default",
        prompt_type=ROLES[role],
        **kwargs,
    )


def assert_prompt(model, folder, prompt, *args, **kwargs):
    reference = SentenceTransformer(str(folder), device="cpu")
    expected = reference.encode(TEXTS, prompt=prompt, show_progress_bar=False)
    np.testing.assert_allclose(encode(model, *args, **kwargs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_scores_are_those_of_sentence_transformers(task, minilm):
    ours = evaluate(MTEBModel(embedder_of(minilm)), task)
    theirs = evaluate(SentenceTransformer(minilm, device="cpu"), task)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert len(ours) > 4


def test_scores_with_prompts_are_those_of_sentence_transformers(prompted):
    for task in TASKS[2:]:  # with roles, and with pairs
        ours = evaluate(MTEBModel(embedder_of(prompted)), task)
        theirs = evaluate(SentenceTransformer(str(prompted), device="cpu"), task)
        assert ours == pytest.approx(theirs, abs=1e-3)  # many pairs of a random model almost tie


@pytest.mark.parametrize(
    ("kind", "role", "prompt"),
    [
        ("Retrieval", "query", "find: "),
        ("Retrieval", "document", "text: "),
        ("Clustering", None, "group: "),
        ("STS", "query", "like: "),
        ("Classification", None, "other: "),
    ],
)
def test_the_models_own_prompts_go_by_type_and_role(prompted, kind, role, prompt):
    assert_prompt(MTEBModel(embedder_of(prompted)), prompted, prompt, kind, role)


def test_a_prompt_for_passages_is_for_documents(prompted, tmp_path):
    folder = shutil.copytree(prompted, tmp_path / "model")
    file = folder / "config_sentence_transformers.json"
    config = json.loads(file.read_text())
    config["prompts"] = {"query": "find: ", "passage": "read: "}
    file.write_text(json.dumps(config | {"default_prompt_name": None}))
    for prompts in (None, {"document": "passage"}, {"passage": "read: "}):
        model = MTEBModel(embedder_of(folder), prompts=prompts)
        assert_prompt(model, prompted, "read: ", "Reranking", "document")


@pytest.mark.parametrize(
    ("kind", "role", "name", "prompt"),
    [
        ("Retrieval", "query", "SimLex", "a: "),
        ("Retrieval", "document", "SimLex", "b: "),
        ("Retrieval", "query", "ATask", "c: "),
        ("Retrieval", "document", "ATask", "d: "),
        ("STS", "query", "ATask", "find: "),
        ("Clustering", None, "ATask", ""),
        ("PairClassification", None, "ATask", "other: "),
    ],
)
def test_the_most_particular_prompt_is_taken(prompted, kind, role, name, prompt):
    prompts = {
        "query": "query",
        "Clustering": None,
        "Retrieval": "d: ",
        "Retrieval-query": "c: ",
        "SimLex": "b: ",
        "SimLex-query": "a: ",
    }
    model = MTEBModel(embedder_of(prompted), prompts=prompts)
    assert_prompt(model, prompted, prompt, kind, role, name=name)


def test_a_prompt_of_the_users_is_for_all_tasks(prompted):
    model = MTEBModel(embedder_of(prompted, prompt="mine: "))
    assert_prompt(model, prompted, "mine: ", "Retrieval", "query")
    assert_prompt(MTEBModel(embedder_of(prompted, prompt=None)), prompted, "", "Clustering")


def test_prompts_reach_the_steps_of_a_pipeline_and_change_none(prompted):
    steps = [("a", embedder_of(prompted)), ("b", embedder_of(prompted, pooling="max"))]
    pipe = make_pipeline(FeatureUnion(steps), PCA(4)).fit(TEXTS)
    model = MTEBModel(pipe, prompts={"query": "query", "document": "document"})
    before = pipe.transform(TEXTS)
    vectors = encode(model, "Retrieval", "query")
    union = FeatureUnion([(n, clone(e).set_params(prompt="find: ")) for n, e in steps])
    np.testing.assert_allclose(vectors, pipe[1].transform(union.fit_transform(TEXTS)), atol=1e-5)
    np.testing.assert_array_equal(pipe.transform(TEXTS), before)
    assert [each.prompt for _, each in steps] == ["auto", "auto"]


def test_trained_vectors_are_those_of_transform(prompted):
    training = FineTune("head", n_epochs=1, random_state=0)
    trained = embedder_of(prompted, training=training)
    with pytest.raises(NotFittedError, match="has not been fitted"):
        MTEBModel(trained)
    with pytest.raises(NotFittedError, match="has not been fitted"):
        MTEBModel(make_pipeline(trained, PCA(2)))
    y = np.arange(len(TEXTS)) % 2
    plain = MTEBModel(clone(trained).set_params(training=None)).mteb_model_meta.revision
    model = MTEBModel(trained.fit(TEXTS, y))
    np.testing.assert_array_equal(encode(model, "Retrieval", "query"), trained.transform(TEXTS))
    assert model.mteb_model_meta.revision != plain
    with pytest.raises(InvalidParameterError, match="'query', but the model was trained with"):
        MTEBModel(trained, prompts={"query": "query"})


def test_any_pipeline_that_ends_in_vectors_is_a_model():
    words = TfidfVectorizer().fit(TEXTS)
    pipe = make_pipeline(words, TruncatedSVD(3, random_state=0), Normalizer()).fit(TEXTS)
    model = MTEBModel(pipe)
    vectors = encode(model)
    np.testing.assert_allclose(vectors, pipe.transform(TEXTS), atol=1e-6)
    assert vectors.dtype == np.float32
    assert model.mteb_model_meta.name == "skembed/Pipeline"
    function = MTEBModel(FunctionEmbedder(lambda rows: [[len(row)] for row in rows]))
    assert encode(function, texts=["a", "bcd"]).tolist() == [[1], [3]]
    assert encode(function, texts=["a"]).shape == (1, 1)
    with pytest.raises(InvalidInputError, match=r"sparse matrix.*TruncatedSVD"):
        encode(MTEBModel(words))


def test_it_follows_the_protocol_and_says_what_it_is(prompted):
    model = MTEBModel(embedder_of(prompted, n_components=8))
    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.modalities) == ("skembed/model", 8, ["text"])
    assert meta.use_instructions
    named = MTEBModel(embedder_of(prompted), name="me/mine")
    assert named.mteb_model_meta.name == "me/mine"
    assert repr(named).startswith("MTEBModel(TextEmbedder(") and "name='me/mine'" in repr(named)


def test_similarities_are_what_the_models_files_say(prompted, minilm):
    vectors = np.array([[3.0, 4.0], [1.0, 0.0]], dtype=np.float32)
    for folder, expected in [(prompted, vectors @ vectors.T), (minilm, [[1, 0.6], [0.6, 1]])]:
        models = embedder_of(folder), TextEmbedder(SentenceTransformer(str(folder), device="cpu"))
        for model in map(MTEBModel, models):
            np.testing.assert_allclose(model.similarity(vectors, vectors), expected, atol=1e-6)
            of_pairs = model.similarity_pairwise(vectors, vectors[::-1].copy())
            np.testing.assert_allclose(of_pairs, [expected[0][1]] * 2, atol=1e-6)


def test_results_are_kept_under_all_that_decides_vectors(prompted):
    def revision(model, **options):
        return MTEBModel(model, **options).mteb_model_meta.revision

    plain = embedder_of(prompted)
    pipe = make_pipeline(embedder_of(prompted), PCA(2)).fit(TEXTS)
    others = [
        revision(plain),
        revision(plain, prompts={"query": None}),
        revision(plain, prompts={"query": "find: "}),
        *(revision(embedder_of(prompted, **{k: v})) for k, v in [("n_components", 8)]),
        *(revision(embedder_of(prompted, normalize=each)) for each in (True,)),
        revision(embedder_of(prompted, pooling="max")),
        revision(embedder_of(prompted, max_length=16)),
        revision(embedder_of(prompted, on_truncate="mean_of_chunks")),
        revision(embedder_of(prompted, max_length=16, on_truncate="mean_of_chunks")),
        revision(pipe),
        revision(make_pipeline(embedder_of(prompted), PCA(2)).fit(TEXTS[:6])),
        revision(make_pipeline(embedder_of(prompted, pooling="max"), PCA(2)).fit(TEXTS)),
    ]
    assert len({*others}) == len(others)
    assert revision(embedder_of(prompted, cache=None, batch_size=2)) == revision(plain)
    assert revision(clone(pipe).fit(TEXTS)) == revision(pipe)


def test_all_that_is_wrong_is_said_at_once(prompted):
    prompts = {"Clasification": "a: ", "STS-qury": "b: ", "query": "qury", "SimLex": "c: "}
    with pytest.raises(InvalidParameterError) as caught:
        MTEBModel(embedder_of(prompted), prompts=prompts, name="mine")
    said = str(caught.value)
    assert "name='mine': expected 'organization/model'" in said
    assert "'Clasification'. Did you mean 'Classification'?" in said
    assert "type of tasks or role 'STS-qury'" in said
    assert "prompt='qury' looks like a name" in said
    assert len(said.splitlines()) == 4


def test_what_gives_no_vectors_is_refused(prompted):
    with pytest.raises(InvalidParameterError, match=r"embedder=<function.*expected an object"):
        MTEBModel(np.mean)
    with pytest.raises(InvalidParameterError, match="no TextEmbedder in this TfidfVectorizer"):
        MTEBModel(TfidfVectorizer(), prompts={"query": "find: "})
    model = MTEBModel(embedder_of(prompted))
    with pytest.raises(InvalidParameterError, match="encode_kwargs: precision would change"):
        encode(model, precision="int8", batch_size=8, show_progress_bar=False)
    with pytest.raises(InvalidInputError, match="Pictures has no texts to embed, but image"):
        model.encode(
            [{"image": []}],
            task_metadata=metadata("Pictures", "ImageClassification"),
            hf_split="test",
            hf_subset="default",
        )


def test_without_mteb_the_error_names_the_extra(prompted, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingDependencyError, match=r"pip install skembed\[mteb\]"):
        MTEBModel(embedder_of(prompted))


def test_the_templates_of_instructed_decoders_are_those_of_mteb():
    from mteb.models.model_implementations import e5_instruct, gritlm_models, gte_models
    from mteb.models.model_implementations import qwen3_models as qwen3

    search = "Given a web search query, retrieve relevant passages that answer the query"
    named = {
        ("intfloat/e5-mistral-7b-instruct", "web_search_query"): e5_instruct.E5_INSTRUCTION.format(
            instruction=search
        ),
        ("Qwen/Qwen3-Embedding-0.6B", "query"): qwen3.instruction_template(search),
        ("Qwen/Qwen3-Embedding-0.6B", "document"): qwen3.instruction_template(
            search, PromptType.document
        ),
        ("Alibaba-NLP/gte-Qwen2-7B-instruct", "query"): gte_models.instruction_template(search),
        ("GritLM/GritLM-7B", "document"): gritlm_models.gritlm_instruction(""),
    }
    for (model, name), template in named.items():
        assert MODELS[model].prompts[name] == template, model
