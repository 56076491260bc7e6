"""A tiny random EmbeddingGemma 2, laid out as the published one, and its own vectors."""

import json

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

_MARKS = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
_WORDS = ["the", "of", "a", "sound", "bright", "high", "low", "dark", "tone", "picture"]
_TEMPLATE = (
    "{%- for m in messages -%}{%- for item in m['content'] -%}{%- if item.type == 'text' -%}"
    "{{ item.text }}{%- else -%}<|{{ item.type }}|>{%- endif -%}{%- endfor -%}{%- endfor -%}"
)
PROMPTS = {"query": "the picture of ", "document": ""}


def _write_tokenizer(folder):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *_MARKS.values(), *_WORDS]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    fast = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=_MARKS,
        chat_template=_TEMPLATE,
    )
    fast.save_pretrained(folder)
    return fast


def _config(ids):
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "sliding_window_pattern": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 4,  # less than the tokens of a row
        "hidden_size_per_layer_input": 8,
        "embedding_dim": 24,
        "max_position_embeddings": 16_384,
    }
    vision = {
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "position_embedding_size": 256,
    }
    audio = {
        "model_type": "gemma4_audio",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [128, 4],
        "output_proj_dims": 40,
    }
    parts = {"text_config": text, "vision_config": vision, "audio_config": audio}
    return tf.EmbeddingGemma2Config(**parts, **ids)


def write_embedding_gemma(folder):
    """Save the model with the files of its processor and of sentence-transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(folder)
    mark = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _MARKS.items()}
    config = _config(
        {
            "image_token_id": mark["image_token"],
            "video_token_id": mark["video_token"],
            "audio_token_id": mark["audio_token"],
            "boi_token_id": mark["boi_token"],
            "eoi_token_id": mark["eoi_token"],
            "boa_token_id": mark["boa_token"],
            "eoa_token_index": mark["eoa_token"],
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tf.EmbeddingGemma2Model(config)
        for parameter in model.parameters():  # so that positions and neighbours matter
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor = tf.EmbeddingGemma2Processor(
        feature_extractor=tf.Gemma4AudioFeatureExtractor(),
        image_processor=tf.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer=tokenizer,
        video_processor=tf.EmbeddingGemma2VideoProcessor(patch_size=4, max_soft_tokens=70),
        chat_template=_TEMPLATE,
    )
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)
    _write_modules(folder)
    return folder


def _write_modules(folder):
    kinds = {
        "": "base.modules.transformer.Transformer",
        "1_Pooling": "sentence_transformer.modules.pooling.Pooling",
        "2_Normalize": "base.modules.normalize.Normalize",
    }
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    modalities = dict.fromkeys(("text", "image", "audio"), method)
    modalities["message"] = {**method, "format": "structured"}
    files = {
        "modules.json": listed,
        "1_Pooling/config.json": {"embedding_dimension": 24, "pooling_mode": "mean"},
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": modalities,
            "module_output_name": "token_embeddings",
        },
        "config_sentence_transformers.json": {"prompts": PROMPTS, "default_prompt_name": None},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


@torch.inference_mode()
def own_vectors(folder, **rows):
    """Return the vectors of the model for `text`, `images` or `audio`, as its page says."""
    model = tf.EmbeddingGemma2Model.from_pretrained(folder).eval()
    processor = tf.AutoProcessor.from_pretrained(folder)
    inputs = processor(**rows, return_tensors="pt", padding=True)
    states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    pooled = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()
