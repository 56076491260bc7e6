"""Embedding-tuned decoders: their cards' templates, token for token, and their configurations."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    Gemma3TextConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from skembed import TextEmbedder, list_models
from tests.text.checkpoints import SIZES

ROWS = ["How much protein?", "A café, closed", "x", "two\nlines of text"]
TASK = "Given a web search query, retrieve relevant passages that answer the query"
OWN = "Identify the topic of a review"
_TUNED = {**SIZES, "num_key_value_heads": 2}


def write_tokenizer(folder, before=None, after=None, special=(), **settings):
    """Save a tokenizer of bytes that puts one token before a text and one after it."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [token for token in (before, after, *special) if token]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    if not settings.get("add_eos_token"):
        template = " ".join(filter(None, (before, "$A", after)))
        ids = [(token, tokenizer.token_to_id(token)) for token in added]
        tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=ids)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=before, eos_token=after, pad_token=added[0]
    )
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return fast


def write_model(folder, config, **changes):
    config = config(vocab_size=270, **{**_TUNED, "written_to": str(folder), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)


def write_chain(folder, pooling, *modules, **settings):
    """Turn a transformers folder into one of sentence-transformers."""
    transformer = Transformer(str(folder))
    width = transformer.auto_model.config.hidden_size
    chain = [transformer, Pooling(width, pooling_mode=pooling), *modules]
    SentenceTransformer(modules=chain, device="cpu", **settings).save(str(folder))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make folders that are called as models on the hub are."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        (tmp_path / name).mkdir(parents=True)
        return tmp_path / name

    return make


def tokens_of(name, row, **params):
    fitted = TextEmbedder(name, dtype="float32", cache=None, **params).fit(["a"])
    tokens = fitted.encoder_.backbone.tokens
    (ids,) = tokens.encode([row])
    return tokens.cut(ids).tolist()


def reference_tokens(name, text, *, after=()):
    """Tokenise a full string as a card does; where it says so, with an end of its own."""
    ids = AutoTokenizer.from_pretrained(name)(text)["input_ids"]
    return [*ids, *after]


def check_templates(name, templates, after=()):
    """Compare tokens under each prompt with those of the card's string."""
    for prompt, template in templates.items():
        params = {} if prompt == "auto" else {"prompt": prompt}
        for row in ROWS:
            expected = reference_tokens(name, template.format(row), after=after)
            assert tokens_of(name, row, **params) == expected


def equal_sentence_transformers(name, *prompts):
    model = SentenceTransformer(name, device="cpu")
    for prompt in prompts:
        expected = model.encode([prompt + row for row in ROWS], convert_to_numpy=True)
        found = TextEmbedder(name, dtype="float32", cache=None, prompt=prompt or None)
        np.testing.assert_allclose(found.fit_transform(ROWS), expected, atol=1e-5)
        alone = np.vstack([found.transform([row]) for row in ROWS])
        np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_e5_mistral_ends_with_its_end_of_text(place):
    name = "intfloat/e5-mistral-7b-instruct"
    folder = place(name)
    fast = write_tokenizer(folder, "<s>", "</s>", add_eos_token=True)
    write_model(folder, MistralConfig)
    write_chain(folder, "lasttoken", Normalize())
    # What saved the chain has dropped the setting that the model's own file has.
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_eos_token": True}))
    end = [fast.eos_token_id]
    ends_itself = reference_tokens(name, "a")[-1:] == end
    templates = {
        "auto": "Instruct: Retrieve semantically similar text.\nQuery: {}",
        "web_search_query": f"Instruct: {TASK}\nQuery: {{}}",
        f"Instruct: {OWN}\nQuery: ": f"Instruct: {OWN}\nQuery: {{}}",
    }
    check_templates(name, templates, after=() if ends_itself else end)
    assert tokens_of(name, "x", prompt=None)[-1] == fast.eos_token_id


@pytest.mark.parametrize("size", ["0.6B", "4B", "8B"])
def test_qwen3_embedding_ends_with_endoftext_and_has_no_space_after_query(place, size):
    name = f"Qwen/Qwen3-Embedding-{size}"
    folder = place(name)
    write_tokenizer(folder, None, "<|endoftext|>")
    write_model(folder, Qwen3Config, head_dim=8)
    write_chain(folder, "lasttoken", Normalize())
    templates = {
        "auto": "{}",
        "document": "{}",
        "query": f"Instruct: {TASK}\nQuery:{{}}",
        f"Instruct: {OWN}\nQuery:": f"Instruct: {OWN}\nQuery:{{}}",
    }
    check_templates(name, templates)
    equal_sentence_transformers(name, "", f"Instruct: {OWN}\nQuery:")


def states_with_everything_seen(name, ids):
    model = AutoModel.from_pretrained(name, dtype=torch.float32, attn_implementation="eager")
    nothing_hidden = torch.zeros(1, 1, len(ids), len(ids))
    with torch.inference_mode():
        states = model.eval()(torch.tensor([ids]), attention_mask=nothing_hidden)
    return states.last_hidden_state[0].double().numpy()


def test_gritlm_sees_all_and_pools_what_follows_its_instruction(place):
    name = "GritLM/GritLM-7B"
    folder = place(name)
    write_tokenizer(folder, "<s>", None, special=["</s>", "<|user|>", "<|embed|>"])
    code = {"AutoModel": "modeling_gritlm7b.MistralModel"}  # not run
    write_model(folder, MistralConfig, sliding_window=8, auto_map=code)
    instruction = f"<|user|>\n{OWN}\n<|embed|>\n"
    templates = {
        "auto": "<|embed|>\n{}",
        "document": "<|embed|>\n{}",
        instruction: instruction + "{}",
    }
    check_templates(name, templates)
    for prompt in ("<|embed|>\n", instruction):
        found = TextEmbedder(name, dtype="float32", cache=None, prompt=prompt).fit_transform(ROWS)
        for row, vector in zip(ROWS, found, strict=True):
            states = states_with_everything_seen(name, reference_tokens(name, prompt + row))
            expected = states[len(reference_tokens(name, prompt)) :].mean(0)
            expected /= np.linalg.norm(expected)
            np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("size", ["1.5B", "7B"])
def test_gte_qwen2_sees_all_though_its_configuration_does_not_say_so(place, size):
    name = f"Alibaba-NLP/gte-Qwen2-{size}-instruct"
    folder = place(name)
    write_tokenizer(folder, None, "<|endoftext|>")
    write_model(folder, Qwen2Config)
    write_chain(folder, "lasttoken", Normalize())
    check_templates(name, {"auto": "{}", "query": f"Instruct: {TASK}\nQuery: {{}}"})
    found = TextEmbedder(name, dtype="float32", cache=None).fit_transform(ROWS)
    for row, vector in zip(ROWS, found, strict=True):
        state = states_with_everything_seen(name, reference_tokens(name, row))[-1]
        np.testing.assert_allclose(vector, state / np.linalg.norm(state), atol=1e-5)


def test_embeddinggemma_works_by_its_own_configuration(place):
    name = "google/embeddinggemma-300m"
    folder = place(name)
    write_tokenizer(folder, "<bos>", "<eos>")
    sizes = {"head_dim": 8, "query_pre_attn_scalar": 8, "_sliding_window_pattern": 2}
    # A window of 12: each token sees 6 on each side, in every second layer.
    write_model(
        folder, Gemma3TextConfig, use_bidirectional_attention=True, sliding_window=12, **sizes
    )
    write_chain(
        folder,
        "mean",
        Dense(32, 48, bias=False, activation_function=torch.nn.Identity()),
        Dense(48, 32, bias=False, activation_function=torch.nn.Identity()),
        Normalize(),
    )
    templates = {
        "auto": "task: sentence similarity | query: {}",
        "Clustering": "task: clustering | query: {}",
        "Classification": "task: classification | query: {}",
        "document": "title: none | text: {}",
        "query": "task: search result | query: {}",
    }
    check_templates(name, templates)
    equal_sentence_transformers(name, "", "task: clustering | query: ")
    fitted = TextEmbedder(name, dtype="float32").fit(ROWS)
    assert fitted.encoder_.policy.layout == "packed"


def test_every_embedding_tuned_decoder_is_in_the_list_of_models():
    names = {row.name for row in list_models("text")}
    assert {"GritLM/GritLM-7B", "google/embeddinggemma-300m"} <= names
