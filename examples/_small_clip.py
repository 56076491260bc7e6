"""A CLIP small enough to be trained in some seconds: handwritten digits and their captions.

It is saved as any CLIP model of the hub is, so that `ImageEmbedder` and `TextEmbedder` read its
folder like theirs.

Reference: Radford et al., arXiv:2103.00020.
"""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CAPTIONS = ["a handwritten {}", "the digit {}", "{} as someone wrote it", "a picture of the {}"]
SIDE = 16  # pixels


def make_tokenizer():
    """Return a tokenizer that knows the words of the captions and no others."""
    vocabulary = sorted({word for caption in CAPTIONS for word in caption.split()} - {"{}"})
    tokens = ["<pad>", "<unknown>", "<start>", "<end>", *vocabulary, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, "<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=16,
    )


def make_clip(n_tokens):
    """Return a CLIP of few small layers with random weights."""
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    text = {
        **tower,
        "num_hidden_layers": 1,
        "vocab_size": n_tokens,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    vision = {**tower, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": 4}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def train_small_clip(pictures, labels, folder, n_steps=300):
    """Train a CLIP on pictures of digits, labelled 0 to 9, and save it to a folder."""
    tokenizer = make_tokenizer()
    prepare = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_normalize=True
    )
    clip = make_clip(len(tokenizer))
    pixels = prepare(pictures, return_tensors="pt")["pixel_values"]
    labels = torch.as_tensor(labels)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(n_steps):
        batch = torch.from_numpy(rng.choice(len(pixels), 64, replace=False))
        captions = [rng.choice(CAPTIONS).format(WORDS[label]) for label in labels[batch]]
        texts = tokenizer(captions, padding=True, return_tensors="pt", return_token_type_ids=False)
        logits = clip(pixel_values=pixels[batch], **texts).logits_per_image
        # Pictures and captions of one digit belong together.
        is_pair = (labels[batch][:, None] == labels[batch][None, :]).float()
        target = is_pair / is_pair.sum(1, keepdim=True)
        cross_entropy = torch.nn.functional.cross_entropy
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    disable_progress_bar()  # of saving: it takes no time
    for part in (clip, tokenizer, prepare):
        part.save_pretrained(folder)
