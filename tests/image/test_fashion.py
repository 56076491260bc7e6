"""Real weights in a module of one's own name what is on photographs and tell clothes apart."""

import copy

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from torchvision.models import ResNet50_Weights

from skembed import ImageEmbedder
from skembed.weights import fingerprint
from tests.image.efficientnet_lite0 import Preset, efficientnet_lite0
from tests.materials import fashion_mnist, material

CLASSES = ResNet50_Weights.DEFAULT.meta["categories"]


@pytest.fixture(scope="module")
def network():
    return efficientnet_lite0(material("efficientnet_lite0"))


@pytest.mark.parametrize(
    ("number", "seen"),
    [(0, {"boathouse", "palace", "monastery"}), (1, {"daisy", "bee"})],
)
def test_the_network_names_what_is_on_a_photograph(number, seen, network):
    image = Image.fromarray(load_sample_images().images[number])
    with torch.inference_mode():
        scores = network(Preset()(image)[None])[0]
    best = {CLASSES[each] for each in scores.topk(5).indices}
    assert best >= seen


def test_features_tell_clothes_apart_better_than_pixels(network):
    images, labels = (each[:2000] for each in fashion_mnist("t10k"))
    embedder = ImageEmbedder(network, preprocess=Preset(64), layer="_blocks.10", cache=None)
    features = embedder.fit_transform(images)
    assert features.shape == (2000, 112)

    def accuracy(vectors):
        knn = KNeighborsClassifier(n_neighbors=5).fit(normalize(vectors)[:1500], labels[:1500])
        return knn.score(normalize(vectors)[1500:], labels[1500:])

    assert accuracy(features) > accuracy(images.reshape(2000, -1) / 255) + 0.02


def test_the_network_and_its_preset_have_digests_of_their_own(network):
    digest = fingerprint(network)
    assert fingerprint(copy.deepcopy(network)) == digest
    assert fingerprint(Preset(64)) != fingerprint(Preset(96))
