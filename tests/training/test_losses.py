"""Losses of similar and dissimilar vectors, against NumPy, their gradients, and the reference."""

import numpy as np
import pytest
import torch

from skembed.training import _similarity as losses

RNG = np.random.default_rng(0)
A, B, C = RNG.normal(size=(3, 5, 4))
CLASSES = np.array([0, 0, 1, 1, 2])
IS_SAME = CLASSES[:, None] == CLASSES
IGNORED = np.zeros((5, 5), dtype=bool)
IGNORED[0, 3] = IGNORED[3, 0] = True


def cosines(a, b):
    return np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])


def info_nce(a, b, t, ignored):
    found = []
    for i, row in enumerate(np.exp(cosines(a, b) / t)):
        found.append(
            -np.log(row[i] / sum(v for v, out in zip(row, ignored[i], strict=True) if not out))
        )
    return np.mean(found)


def supervised_contrastive(x, t, ignored):
    shares, found = np.exp(cosines(x, x) / t), []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and not ignored[i, j]]
        positives = [j for j in others if CLASSES[j] == CLASSES[i]]
        if positives:
            whole = sum(shares[i, j] for j in others)
            found.append(-np.mean([np.log(shares[i, j] / whole) for j in positives]))
    return np.mean(found)


def class_cosine(x, ignored):
    within, between = [], []
    for i in range(len(x)):
        for j in range(i):
            if not ignored[i, j]:
                cosine = cosines(x, x)[i, j]
                if CLASSES[i] == CLASSES[j]:
                    within.append((cosine - 1) ** 2)
                else:
                    between.append(cosine**2)
    return (np.mean(within) + np.mean(between)) / 2


SCORES = np.array([0.9, -0.5, 0.0, 1.0, 0.3])
CASES = {
    "info_nce": (
        lambda a, b, c: losses.info_nce_loss(a, b, 0.3, torch.from_numpy(IGNORED)),
        info_nce(A, B, 0.3, IGNORED),
    ),
    "info_nce of triplets": (
        lambda a, b, c: losses.info_nce_loss(a, torch.cat([b, c]), 0.3),
        info_nce(A, np.concatenate([B, C]), 0.3, np.zeros((5, 10), dtype=bool)),
    ),
    "supervised contrastive": (
        lambda a, b, c: losses.supervised_contrastive_loss(
            a, torch.from_numpy(IS_SAME), 0.3, torch.from_numpy(IGNORED)
        ),
        supervised_contrastive(A, 0.3, IGNORED),
    ),
    "cosines of classes": (
        lambda a, b, c: losses.class_cosine_loss(
            a, torch.from_numpy(IS_SAME), torch.from_numpy(IGNORED)
        ),
        class_cosine(A, IGNORED),
    ),
    "cosine": (
        lambda a, b, c: losses.cosine_loss(a, b, torch.from_numpy(SCORES)),
        np.mean((np.diag(cosines(A, B)) - SCORES) ** 2),
    ),
    "triplet": (
        lambda a, b, c: losses.triplet_loss(a, b, c, 0.3),
        np.mean(np.maximum(0, np.diag(cosines(A, C)) - np.diag(cosines(A, B)) + 0.3)),
    ),
}


def tensors():
    return [torch.from_numpy(x.copy()).requires_grad_() for x in (A, B, C)]


@pytest.mark.parametrize("case", CASES)
def test_a_loss_has_the_value_of_its_formula(case):
    loss, expected = CASES[case]
    assert loss(*tensors()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_loss_has_the_gradient_of_its_differences(case):
    loss, _ = CASES[case]
    assert torch.autograd.gradcheck(loss, tensors())


def test_losses_are_those_of_sentence_transformers():
    st = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    a, b, c = (torch.from_numpy(x) for x in (A, B, C))
    scores = torch.from_numpy(SCORES)
    ranking = st.MultipleNegativesRankingLoss(None, scale=20.0)
    cosine = st.CosineSimilarityLoss(None)
    triplet = st.TripletLoss(None, st.TripletDistanceMetric.COSINE, triplet_margin=0.3)
    pairs = [
        (ranking.compute_loss_from_embeddings([a, b], None), losses.info_nce_loss(a, b, 0.05)),
        (
            ranking.compute_loss_from_embeddings([a, b, c], None),
            losses.info_nce_loss(a, torch.cat([b, c]), 0.05),
        ),
        # It compares in float32.
        (
            cosine.compute_loss_from_embeddings([a.float(), b.float()], scores),
            losses.cosine_loss(a.float(), b.float(), scores.float()),
        ),
        (triplet.compute_loss_from_embeddings([a, b, c], None), losses.triplet_loss(a, b, c, 0.3)),
    ]
    for theirs, ours in pairs:
        torch.testing.assert_close(ours, theirs)


def test_rows_without_another_of_their_class_give_no_loss_and_no_gradient():
    vectors = torch.from_numpy(A.copy()).requires_grad_()
    loss = losses.supervised_contrastive_loss(vectors, torch.eye(5, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss == 0
    assert not vectors.grad.any()
