"""Which pictures show what my words say? Search images by text in the space of a CLIP model.

CLIP-like models have two towers, one for pictures and one for texts, whose vectors share a space.
`ImageEmbedder(model)` and `TextEmbedder(model)` are these towers: embed the pictures once, then ask
in words, and nearest neighbours answer.

With a network, ``model = "openai/clip-vit-base-patch32"`` searches photographs. So that this script
runs without one, it first trains a CLIP of two small layers from nothing: on scikit-learn's
handwritten digits and captions such as "a handwritten seven", for some seconds. It then
searches pictures that it was not trained on, and shows what it finds.

Needs ``pip install skembed[examples]``.
"""

# %% Handwritten digits as pictures, half of them to search later
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from skembed import ImageEmbedder, TextEmbedder

mpl.use("Agg")  # drop this line in a notebook
import matplotlib.pyplot as plt

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CAPTIONS = ["a handwritten {}", "the digit {}", "{} as someone wrote it", "a picture of the {}"]

digits = load_digits()
pictures = [
    Image.fromarray((image * 255 / 16).astype(np.uint8)).convert("RGB").resize((16, 16))
    for image in digits.images
]
known, unseen = train_test_split(np.arange(len(pictures)), random_state=0, train_size=0.5)

# %% A small CLIP with a tokenizer of its own, written to a folder as any model of the hub is
folder = Path(tempfile.mkdtemp()) / "small-clip"
vocabulary = sorted({word for caption in CAPTIONS for word in caption.split()} - {"{}"})
tokens = ["<pad>", "<unknown>", "<start>", "<end>", *vocabulary, *WORDS]
tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, "<unknown>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token="<pad>",
    bos_token="<start>",
    eos_token="<end>",
    model_max_length=16,
)
prepare = CLIPImageProcessor(
    size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_normalize=True
)
tower = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
torch.manual_seed(0)
clip = CLIPModel(
    CLIPConfig(
        text_config={
            **tower,
            "num_hidden_layers": 1,
            "vocab_size": len(tokens),
            "max_position_embeddings": 16,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        vision_config={**tower, "num_hidden_layers": 2, "image_size": 16, "patch_size": 4},
        projection_dim=32,
    )
)

# %% Train it: pictures and captions of one digit belong together (arXiv:2103.00020)
started = time.perf_counter()
pixels = prepare([pictures[i] for i in known], return_tensors="pt")["pixel_values"]
labels = torch.from_numpy(digits.target[known])
optimizer = torch.optim.AdamW(clip.parameters(), lr=3e-3)
rng = np.random.default_rng(0)
for _ in range(300):
    batch = torch.from_numpy(rng.choice(len(known), 64, replace=False))
    captions = [rng.choice(CAPTIONS).format(WORDS[label]) for label in labels[batch]]
    texts = tokenizer(captions, padding=True, return_tensors="pt", return_token_type_ids=False)
    logits = clip(pixel_values=pixels[batch], **texts).logits_per_image
    is_pair = (labels[batch][:, None] == labels[batch][None, :]).float()
    target = is_pair / is_pair.sum(1, keepdim=True)
    loss = (
        torch.nn.functional.cross_entropy(logits, target)
        + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for part in (clip, tokenizer, prepare):
    part.save_pretrained(folder)
print(f"trained a small CLIP on {len(known)} pictures in {time.perf_counter() - started:.0f} s")

# %% Search: from here on the model is any CLIP, a folder or an id of the hub
model = folder
gallery = [pictures[i] for i in unseen]
images, texts = ImageEmbedder(model, normalize=True), TextEmbedder(model, normalize=True)
index = NearestNeighbors(n_neighbors=12, metric="cosine").fit(images.fit_transform(gallery))
print(f"pictures: {images.report_}")

queries = [caption.format(word) for caption, word in zip(CAPTIONS * 3, WORDS, strict=False)]
distances, hits = index.kneighbors(texts.fit_transform(queries))
truth = digits.target[unseen]
print("\nAsked, and how many of the 12 pictures found show it")
for query, word, found in zip(queries, WORDS, hits, strict=True):
    print(f"  {query:<28} {np.sum(truth[found] == WORDS.index(word)):2d}")

# %% Classify without a single labelled picture: the nearest caption names the digit
captions = [CAPTIONS[0].format(word) for word in WORDS]
classifier = KNeighborsClassifier(1, metric="cosine").fit(texts.transform(captions), range(10))
accuracy = accuracy_score(truth, classifier.predict(images.transform(gallery)))
print(f"\n{accuracy:.1%} of {len(gallery)} unseen pictures have their own caption nearest")

# %% Look at the hits
figure, axes = plt.subplots(len(queries), 12, figsize=(12, 10))
for query, found, row in zip(queries, hits, axes, strict=True):
    row[0].set_title(query, loc="left", fontsize=9)
    for i, axis in zip(found, row, strict=True):
        axis.imshow(gallery[i])
        axis.axis("off")
figure.tight_layout()
shown = folder.parent / "hits.png"
figure.savefig(shown, dpi=80)
print(f"the pictures found are in {shown}")
