"""Classification and segmentation losses: equal to their slow loops, gradients, limits, deviation D5."""

import math

import pytest
import reference
import torch
from builders import IGNORE, QUICK, label_maps, noise, seeds, tensor
from hypothesis import given
from hypothesis import strategies as st

from wsss.method import classification_loss, log_probability, segmentation_loss


def segmentation(logits, labels, **options):
    return segmentation_loss(log_probability(logits, labels.shape[1:]), labels, **options)


@QUICK
@given(seeds(), st.integers(1, 3), st.integers(1, 5))
def test_classification_equals_the_slow_loop(seed, images, classes):
    logits, label = 3 * noise(seed, images, classes), (noise(seed + 1, images, classes) > 0).astype(float)
    loss = classification_loss(tensor(logits), tensor(label))
    assert loss.item() == pytest.approx(reference.classification(logits, label), rel=1e-12)


def test_classification_closed_forms():
    zero = torch.zeros(2, 3)
    assert classification_loss(zero, torch.eye(2, 3)).item() == pytest.approx(math.log(2))
    sure = torch.tensor([[30.0, -30.0]])
    assert classification_loss(sure, torch.tensor([[1.0, 0.0]])) < 1e-12
    assert classification_loss(sure, torch.tensor([[0.0, 1.0]])).item() == pytest.approx(30)


@QUICK
@given(label_maps(classes=2), seeds())
def test_segmentation_equals_the_slow_loop(labels, seed):
    """IGNORE, batches without background or foreground, one pixel; logits at half the labels' size or at one token."""
    logits = noise(seed, len(labels), 3, *(max(1, side // 2) for side in labels.shape[1:]))
    loss = segmentation(tensor(logits), tensor(labels))
    assert loss.item() == pytest.approx(reference.segmentation(logits, labels), rel=1e-12, abs=1e-12)


def test_D5_a_group_without_a_pixel():
    logits = tensor(noise(0, 1, 3, 2, 2)).requires_grad_()
    for labels, empty in (([[0, 0], [0, IGNORE]], "foreground"), ([[1, 2], [1, IGNORE]], "background")):
        labels = torch.tensor([labels])
        base = segmentation(logits, labels, undefined=True)
        assert base.isnan(), f"no {empty}: 0 / 0 in the predecessor"
        assert not torch.autograd.grad(base, logits)[0].any(), "the batch is left out of the term"
        fixed = segmentation(logits, labels)
        kept = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE)
        torch.testing.assert_close(fixed, 0.5 * kept)
    nothing = segmentation(logits, torch.full((1, 2, 2), IGNORE))
    nothing.backward()
    assert nothing == 0 and not logits.grad.any()


def test_gradients():
    label = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: classification_loss(x, label), tensor(noise(0, 1, 3)).requires_grad_())
    labels = torch.tensor([[[0, 1, 2], [IGNORE, 0, 0], [2, 2, 1]]])
    logits = tensor(noise(1, 1, 3, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segmentation(x, labels), logits)
