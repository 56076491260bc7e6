"""Tiny random checkpoints of every encoder family, with a tokenizer of few words."""

from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    ModernBertConfig,
    MPNetConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
)

TEXTS = [
    "gradient descent",
    "the quick brown fox jumps over the lazy dog",
    "",
    "a kernel density estimate with a gaussian kernel and a bandwidth chosen by cross validation",
    "fit a curve to data with bounds on the parameters, and return the covariance of the estimate",
    "x",
    "nearest neighbours in a metric space " * 5,
]

SHORT = [text for text in TEXTS if len(text) < 60]

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    # Large enough that positions and neighbours matter to every state.
    "initializer_range": 0.3,
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}

# family -> (configuration, how rows share a batch)
FAMILIES = {
    "bert": (BertConfig, {}, "packed"),
    "roberta": (RobertaConfig, {}, "packed"),
    "xlm-roberta": (XLMRobertaConfig, {}, "packed"),
    "electra": (ElectraConfig, {"embedding_size": 16}, "packed"),
    "albert": (AlbertConfig, {"embedding_size": 16}, "packed"),
    "distilbert": (DistilBertConfig, {}, "packed"),
    "modernbert": (ModernBertConfig, {"local_attention": 16}, "packed"),
    "mpnet": (MPNetConfig, {}, "padded"),
    "deberta": (DebertaConfig, _RELATIVE, "padded"),
    "deberta-v2": (DebertaV2Config, _RELATIVE, "padded"),
    "llama": (LlamaConfig, {"num_key_value_heads": 2}, "packed"),
    "opt": (OPTConfig, {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}, "packed"),
    "t5": (T5Config, {}, "padded"),
}
_GROUPED = {"num_key_value_heads": 2}
_WINDOW = {**_GROUPED, "head_dim": 8, "sliding_window": 8}
_GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 130}

# Beside "llama" and "opt" above.
DECODERS = {
    "gpt2": (GPT2Config, _GPT, "packed"),
    "gptj": (GPTJConfig, {**_GPT, "rotary_dim": 4}, "packed"),
    "gpt_neo": (
        GPTNeoConfig,
        {"attention_types": [[["global", "local", "local"], 1]], "num_heads": 4, "window_size": 8},
        "padded",
    ),
    "gpt_neox": (GPTNeoXConfig, {}, "packed"),
    "mistral": (MistralConfig, _WINDOW, "packed"),
    "mixtral": (MixtralConfig, {**_GROUPED, "num_local_experts": 4}, "packed"),
    "qwen2": (Qwen2Config, _GROUPED, "packed"),
    "qwen3": (Qwen3Config, {**_GROUPED, "head_dim": 8}, "packed"),
    "gemma": (GemmaConfig, {**_GROUPED, "head_dim": 8}, "packed"),
    "gemma2": (Gemma2Config, {**_WINDOW, "query_pre_attn_scalar": 8}, "packed"),
    "gemma3": (
        Gemma3TextConfig,
        {**_WINDOW, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
        "packed",
    ),
    "phi": (PhiConfig, {}, "packed"),
    "phi3": (Phi3Config, _GROUPED, "packed"),
    "olmo2": (Olmo2Config, _GROUPED, "packed"),
}


def write_tokenizer(folder: Path, *, max_length: int = 128) -> PreTrainedTokenizerFast:
    """Make a WordPiece tokenizer and save it; padding is token 1, as in RoBERTa.

    A trained one would differ from run to run: what is equally frequent comes in any order.
    """
    tokens = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    words = Counter(" ".join(TEXTS).replace(",", " ,").split())
    letters = sorted(set("".join(words)))
    tokens += letters + [f"##{letter}" for letter in letters]
    starts = Counter(word[:3] for word in words.elements())
    pieces = {piece: n for piece, n in (words + starts).items() if piece not in letters}
    tokens += sorted(pieces, key=lambda piece: (-pieces[piece], piece))[: 100 - len(tokens)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_length,
    )
    fast.save_pretrained(folder)
    return fast


def write_checkpoint(folder: Path, family: str = "bert", **changes: object) -> Path:
    """Save a random checkpoint of a family and its tokenizer; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    config_class, extra, _ = {**FAMILIES, **DECODERS}[family]
    sizes = dict(SIZES)
    if family == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}
    if family == "distilbert":
        sizes = {
            "dim": 32,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 130,
            "initializer_range": 0.3,
        }
    config = config_class(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        # Other folders have another digest, so that no test is served a model of another's.
        **{**sizes, **extra, "written_to": str(folder), **changes},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5EncoderModel(config) if family == "t5" else AutoModel.from_config(config)
        for parameter in model.parameters():  # biases and norms too, so that none is a no-op
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder
