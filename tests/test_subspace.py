"""Multi-subspace token contrast (Module A): slow loops, gradients, closed forms, invariances, anchors."""

import math

import numpy as np
import pytest
import torch
from builders import IGNORE, QUICK, label_maps, noise, seeds, tensor, views
from hypothesis import given
from hypothesis import strategies as st

from wsss import contrast, host, subspace

# The definitions as loops over plain numbers.


def slow_patch_term(z, labels, images, temperature, across_images=True, across_backgrounds=False):
    values = []
    for k in range(z.shape[1]):
        terms = []
        for i in range(len(z)):
            others = [a for a in range(len(z)) if a != i]
            across = across_images if labels[i] else across_backgrounds
            positive = [p for p in others if labels[p] == labels[i] and (across or images[p] == images[i])]
            negative = [a for a in others if labels[a] != labels[i]]
            e = {a: math.exp(z[i, k] @ z[a, k] / temperature) for a in positive + negative}
            if positive:
                terms.append(-sum(math.log(e[p] / sum(e.values())) for p in positive) / len(positive))
        values.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(values) / len(values)


def slow_orthogonality(projection):
    subspaces, width, _ = projection.shape
    values = [
        sum((projection[k, a] @ projection[m, b]) ** 2 for a, b in np.ndindex(width, width)) / width
        for k, m in np.ndindex(subspaces, subspaces)
        if k != m
    ]
    return sum(values) / len(values) if values else 0.0


def slow_decorrelation(z, labels, centre=True):
    """L_dec; without `centre` the raw penalty, centred by the mean of all."""
    count, subspaces, width = z.shape
    scaled = np.zeros_like(z)
    for k, d in np.ndindex(subspaces, width):
        column = z[:, k, d]
        means = [np.mean(column[labels == label]) if centre else np.mean(column) for label in labels]
        centred = column - np.array(means)
        scaled[:, k, d] = centred / (math.sqrt(sum(x * x for x in centred) / max(count, 1)) + 1e-5)
    values = []
    for k, m in np.ndindex(subspaces, subspaces):
        if k != m:
            values += [(scaled[:, k, a] @ scaled[:, m, b] / max(count, 1)) ** 2 for a, b in np.ndindex(width, width)]
    return sum(values) / len(values) if values else 0.0


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def anchors(labels, seed, subspaces=2, width=3):
    """Normalised z, label and image of every labelled token of (b, i, j) maps."""
    flat = labels.reshape(len(labels), -1)
    images, tokens = np.nonzero(flat != IGNORE)
    return unit(noise(seed, len(images), subspaces, width)), flat[images, tokens], images


# Six anchors in two images: classes with and without a partner, background in both images.
LABELS, IMAGES = torch.tensor([1, 1, 2, 0, 0, 0]), torch.tensor([0, 1, 0, 0, 0, 1])

# Projection.


@QUICK
@given(seeds(), st.integers(1, 3), st.booleans())
def test_project_equals_the_slow_loop(seed, subspaces, normalise):
    g, projection = unit(noise(seed, 2, 3, 5)), unit(noise(seed + 1, subspaces, 4, 5))
    z = subspace.project(tensor(g), tensor(projection), normalise)
    assert z.shape == (2, 3, subspaces, 4)
    for a, b, k in np.ndindex(2, 3, subspaces):
        wanted = projection[k] @ g[a, b]
        wanted = wanted / math.sqrt(wanted @ wanted) if normalise else wanted
        np.testing.assert_allclose(z[a, b, k], wanted, atol=1e-12)


# A1, class tokens.


@pytest.mark.parametrize(("raw", "extra"), [(False, False), (False, True), (True, False), (True, True)])
def test_class_term_is_the_mean_of_the_bases_over_subspaces(raw, extra):
    student, teacher, flags = map(tensor, views(0, images=3, crops=3, width=4, subspaces=(4,)))
    switches = {"raw_exponentials": raw, "extra_term": extra}
    loss = subspace.subspace_contrast_loss(student, teacher, flags, 0.5, **switches)
    each = [contrast.class_contrast_loss(student[:, :, k], teacher[:, :, k], flags, 0.5, **switches) for k in range(4)]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    alone = subspace.subspace_contrast_loss(student[:, :, :1], teacher[:, :, :1], flags, 0.5, **switches)
    assert torch.equal(alone, each[0])


# Anchors.


@QUICK
@given(label_maps(classes=2), seeds(), st.integers(1, 4), st.integers(1, 20))
def test_anchors_are_labelled_balanced_and_within_both_limits(labels, seed, per_class, total):
    """Every group gives the same quota, or all it has; the last round of a full batch may leave groups one short."""
    flat = labels.reshape(len(labels), -1)
    chosen = subspace.choose_anchors(tensor(flat), torch.Generator().manual_seed(seed), per_class, total).numpy()
    assert len(set(map(tuple, chosen))) == len(chosen) and sorted(map(tuple, chosen)) == list(map(tuple, chosen))
    picked = flat[chosen[:, 0], chosen[:, 1]]
    sizes = {(b, c): int((flat[b] == c).sum()) for b in range(len(flat)) for c in set(flat[b]) - {IGNORE}}
    drawn = {(b, c): int(((chosen[:, 0] == b) & (picked == c)).sum()) for b, c in sizes}
    assert sum(drawn.values()) == len(chosen), "no IGNORE, no other image"
    assert len(chosen) == min(total, sum(min(size, per_class) for size in sizes.values()))
    highest = max(drawn.values(), default=0)
    assert highest <= per_class
    for group, size in sizes.items():
        short = 0 if len(chosen) < total else 1
        assert min(size, highest) - short <= drawn[group] <= size


def test_anchors_are_filled_up_where_the_device_may_not_be_asked(monkeypatch):
    """The same anchors, filled up with others of the label IGNORE to the largest possible number."""
    labels = tensor(np.random.RandomState(0).choice([0, 1, 2, IGNORE], size=(2, 12)))
    drawn = subspace.choose_anchors(labels, torch.Generator().manual_seed(3), 2, 20)
    monkeypatch.setattr(host, "may_ask", lambda labels: False)
    padded = subspace.choose_anchors(labels, torch.Generator().manual_seed(3), 2, 20)
    assert len(drawn) < len(padded) == 20 == len(padded[:, :2].unique(dim=0))
    assert torch.equal(padded[padded[:, 2] != IGNORE], drawn)
    assert torch.equal(drawn[:, 2], labels[drawn[:, 0], drawn[:, 1]])


@pytest.mark.parametrize("by_label", [True, False])
def test_anchors_of_label_IGNORE_take_no_part(by_label):
    z, ignored = tensor(noise(0, 6, 2, 3)), torch.tensor([6, 7])
    padded = torch.cat([z, tensor(noise(1, 2, 2, 3))])
    labels, images = torch.cat([LABELS, torch.full((2,), IGNORE)]), torch.cat([IMAGES, torch.tensor([0, 1])])
    for loss, more in ((subspace.patch_subspace_loss, (IMAGES, 0.5)), (subspace.decorrelation_loss, (by_label,))):
        seen = [x.clone().requires_grad_() for x in (z, padded)]
        one = loss(seen[0], LABELS, *more)
        two = loss(seen[1], labels, *((images, 0.5) if more[0] is IMAGES else more))
        torch.testing.assert_close(two, one)
        (one + two).backward()
        torch.testing.assert_close(seen[1].grad[:6], seen[0].grad)
        assert not seen[1].grad[ignored].any()


def test_anchors_take_the_same_random_numbers_whatever_the_labels():
    """What is drawn after them does not depend on the model."""
    states = []
    for labels in (torch.zeros(2, 9), torch.arange(18).reshape(2, 9) % 5, torch.full((2, 9), IGNORE)):
        generator = torch.Generator().manual_seed(0)
        subspace.choose_anchors(labels.long(), generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
    for labels in (torch.full((2, 5), IGNORE), torch.zeros(2, 0, dtype=torch.long)):
        assert subspace.choose_anchors(labels, torch.Generator()).shape == (0, 3), "no anchors keep the shape"


# A2, patch tokens.


@QUICK
@given(
    label_maps(classes=2, side=2),
    seeds(),
    st.integers(1, 3),
    st.sampled_from([0.1, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_patch_term_equals_the_slow_loop(labels, seed, subspaces, temperature, images_too, backgrounds_too):
    """IGNORE anywhere, no anchors, one anchor, anchors without positives or negatives; all options."""
    (z, label, images), options = anchors(labels, seed, subspaces), (temperature, images_too, backgrounds_too)
    switches = {"across_images": images_too, "across_backgrounds": backgrounds_too}
    loss = subspace.patch_subspace_loss(*map(tensor, (z, label, images)), temperature, **switches)
    assert loss.item() == pytest.approx(slow_patch_term(z, label, images, *options), rel=1e-9, abs=1e-12)


def test_patch_term_closed_form():
    """Two anchors of a class at one place, one of another opposite: log(1 + e^(-2/T)); the third is skipped."""
    z = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[-1.0, 0.0]]], dtype=torch.float64)
    loss = subspace.patch_subspace_loss(z, torch.tensor([1, 1, 2]), torch.tensor([0, 1, 0]), 0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-4)))


def test_backgrounds_of_two_images_are_neither_positives_nor_negatives():
    """Image 1's only background anchor does not act on image 0's background, and has no loss of its own."""
    z, labels, images = tensor(unit(noise(0, 4, 1, 3))), torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 0])
    loss = subspace.patch_subspace_loss(z, labels, images, 0.1)
    torch.testing.assert_close(
        loss, subspace.patch_subspace_loss(z[[0, 1, 3]], labels[[0, 1, 3]], images[[0, 1, 3]], 0.1)
    )
    classes = subspace.patch_subspace_loss(z, torch.tensor([2, 2, 2, 1]), images, 0.1)
    assert not torch.isclose(loss, classes), "a class is one thing in all images"


@pytest.mark.parametrize("labels", [[], [1], [1, 2, 3]])
def test_patch_term_without_positives_is_zero_with_a_zero_gradient(labels):
    z = tensor(unit(noise(0, len(labels), 2, 3))).requires_grad_()
    labels = torch.tensor(labels, dtype=torch.long)
    loss = subspace.patch_subspace_loss(z, labels, torch.zeros_like(labels), 0.1)
    loss.backward()
    assert loss == 0 and z.grad.isfinite().all() and not z.grad.any()


# Decoupling.


@QUICK
@given(seeds(), st.integers(1, 4), st.integers(1, 3))
def test_orthogonality_equals_the_slow_loop(seed, subspaces, width):
    projection = unit(noise(seed, subspaces, width, 5))
    loss = subspace.orthogonality_loss(tensor(projection))
    assert loss.item() == pytest.approx(slow_orthogonality(projection), rel=1e-12, abs=1e-15)


def test_orthogonality_closed_forms():
    """0 for orthogonal subspaces; 1 for one orthonormal basis taken thrice; cos^2 for two lines."""
    basis = torch.linalg.qr(tensor(noise(0, 12, 12)))[0].reshape(3, 4, 12)
    assert subspace.orthogonality_loss(basis).item() == pytest.approx(0, abs=1e-28)
    assert subspace.orthogonality_loss(basis[:1].expand(3, -1, -1)).item() == pytest.approx(1)
    lines = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]])
    assert subspace.orthogonality_loss(lines).item() == pytest.approx(0.36)


@QUICK
@given(label_maps(classes=2, side=2), seeds(), st.integers(1, 3), st.booleans())
def test_decorrelation_equals_the_slow_loop(labels, seed, subspaces, by_label):
    """No anchors, one anchor, labels of one anchor."""
    z, label, _ = anchors(labels, seed, subspaces)
    loss = subspace.decorrelation_loss(tensor(z), tensor(label), by_label)
    assert loss.item() == pytest.approx(slow_decorrelation(z, label, by_label), rel=1e-9, abs=1e-12)


def test_decorrelation_does_not_mind_class_codes():
    """Every subspace sees its own code of the same class plus independent noise, as contrast asks for: raw subspaces
    are correlated, label-centred ones are not."""
    labels = np.arange(2000) % 3
    codes = 3 * noise(0, 3, 2, 4)
    z = codes[labels] + noise(1, 2000, 2, 4)
    loss = subspace.decorrelation_loss(tensor(z), tensor(labels)).item()
    raw = slow_decorrelation(z, labels, centre=False)
    assert loss < 2 / 2000 and raw > 0.2
    blind = subspace.decorrelation_loss(tensor(z), torch.zeros(2000, dtype=torch.long))
    assert blind.item() == pytest.approx(raw), "the labels are what makes the difference"


def test_decoupling_of_one_subspace_or_of_no_anchors_is_zero_with_a_zero_gradient():
    projection = tensor(unit(noise(0, 1, 3, 4))).requires_grad_()
    single, none = tensor(noise(0, 6, 1, 3)).requires_grad_(), torch.zeros(0, 2, 3).requires_grad_()
    total = subspace.orthogonality_loss(projection) + subspace.decorrelation_loss(single, LABELS)
    total = total + subspace.decorrelation_loss(none, LABELS[:0])
    total.backward()
    assert total == 0 and none.grad is not None
    assert not projection.grad.any() and not single.grad.any()


def test_decorrelation_has_a_finite_gradient_where_a_dimension_does_not_vary():
    z = tensor(noise(0, 6, 2, 3))
    z[:, 0, 1] = 0.25
    z.requires_grad_()
    subspace.decorrelation_loss(z, LABELS).backward()
    assert z.grad.isfinite().all() and z.grad.any()


def test_gradients():
    """Of projections, A2 and both parts of A3."""
    g, projection = (tensor(unit(noise(0, 2, 4))).requires_grad_(), tensor(unit(noise(1, 2, 3, 4))).requires_grad_())
    assert torch.autograd.gradcheck(lambda x, p: subspace.project(x, p, True), (g, projection))
    z, normed = tensor(noise(1, 6, 2, 3)).requires_grad_(), tensor(unit(noise(0, 6, 2, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: subspace.patch_subspace_loss(x, LABELS, IMAGES, 0.5), normed)
    assert torch.autograd.gradcheck(subspace.orthogonality_loss, projection)
    assert torch.autograd.gradcheck(lambda x: subspace.decorrelation_loss(x, LABELS), z)
