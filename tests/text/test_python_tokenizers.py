"""Tokenizers written in Python: SigLIP's, which is SentencePiece after its own cleaning."""

import sys

import numpy as np
import pytest
import torch
import transformers as tf

from skembed import TextEmbedder
from skembed.exceptions import MissingDependencyError, UnsupportedModelError
from skembed.text._tokens import load_tokenizer
from tests.text.checkpoints import TEXTS, write_checkpoint
from tests.text.test_towers import PICTURES, WORDS

LIMIT = 24
MORE_TEXTS = [
    *TEXTS,
    "Gradient-descent, BY the: quick (brown) FOX!?",
    "  a\tkernel \n\n density  ",
    "Größe ▁ 猫 \U0001f431",
    "ends with </s>",
    "...",
]


def write_siglip_tokenizer(folder, limit=LIMIT):
    """Train a SentencePiece model with SigLIP's special tokens; padding is the end token."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").unlink(missing_ok=True)
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.strip() for text in TEXTS * 3 if text]),
            model_writer=file,
            vocab_size=70,
            unk_id=2,
            eos_id=1,
            bos_id=-1,
            pad_id=0,
            minloglevel=2,
        )
    tokenizer = tf.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=limit)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    write_siglip_tokenizer(folder)
    words = {**WORDS, "vocab_size": 70, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    words["max_position_embeddings"] = LIMIT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tf.SiglipConfig(text_config=words, vision_config=PICTURES)
        tf.SiglipModel(config).save_pretrained(folder)
    return folder


def embedder(folder, **params):
    params = {"dtype": "float32", "on_truncate": "ignore", "cache": None} | params
    return TextEmbedder(folder, **params)


@pytest.mark.filterwarnings("ignore:This sequence already has")  # of the reference
def test_siglip_reads_texts_as_its_own_processor_does(siglip):
    tokenizer = tf.AutoTokenizer.from_pretrained(siglip)
    assert not tokenizer.is_fast
    ids = tokenizer(
        MORE_TEXTS, padding="max_length", truncation=True, max_length=LIMIT, return_tensors="pt"
    )["input_ids"]
    model = tf.SiglipModel.from_pretrained(siglip).eval()
    with torch.inference_mode():
        expected = model.get_text_features(input_ids=ids).pooler_output
    found = embedder(siglip).transform(MORE_TEXTS)
    assert expected.std(0).min() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_rows_that_are_cut_are_named_and_may_be_chunked(siglip):
    long = "metric space " * 40
    fitted = embedder(siglip).fit([long])
    fitted.transform(["metric space", long])
    assert list(fitted.report_.truncated) == [1]
    assert fitted.report_.n_tokens[1] > LIMIT
    chunks = embedder(siglip, on_truncate="mean_of_chunks").transform(["metric space", long])
    assert np.isfinite(chunks).all()


def test_a_prompt_stands_before_every_text(siglip):
    prompted = embedder(siglip, prompt="a photo of ").transform(["a fox"])
    np.testing.assert_allclose(prompted, embedder(siglip).transform(["a photo of a fox"]))


def test_other_models_take_such_tokenizers_too(tmp_path):
    folder = write_checkpoint(tmp_path / "bert")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    tokenizer = write_siglip_tokenizer(folder, limit=64)
    model = tf.AutoModel.from_pretrained(folder).eval()
    expected = []
    with torch.inference_mode():
        for text in TEXTS:
            ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
            expected.append(model(input_ids=ids).last_hidden_state[0].mean(0))
    found = embedder(folder, pooling="mean").transform(TEXTS)
    np.testing.assert_allclose(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_lower_casing_from_outside_is_refused(siglip):
    with pytest.raises(UnsupportedModelError, match=r"lower-cased texts.*SiglipTokenizer"):
        load_tokenizer(siglip, lower_case=True, trust_remote_code=False)


def test_without_sentencepiece_the_error_has_the_line_that_installs_it(siglip, monkeypatch):
    def refuse(*args, **kwargs):
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(tf.AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingDependencyError, match=r"pip install skembed\[sentencepiece\]"):
        load_tokenizer(siglip, lower_case=False, trust_remote_code=False)
