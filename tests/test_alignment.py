"""Cross-layer CAM alignment (Module B): slow loops, gradients, what each term sees and does not, direction."""

import math
from functools import partial

import numpy as np
import pytest
import reference
import torch
from builders import QUICK, noise, seeds, tensor
from hypothesis import assume, given
from hypothesis import strategies as st

from wsss import alignment, schedule

# The definitions as loops over plain numbers.


def slow_student_cam(tokens, weight, grid, valid, floor):
    """Also the range that each class of each image is divided by."""
    raw = np.maximum(reference.cam_scores(tokens, weight, grid), 0)
    out, ranges = np.zeros(raw.shape), np.zeros(raw.shape[:2])
    for b, k in np.ndindex(*raw.shape[:2]):
        seen = raw[b, k][valid[b]]
        low, high = (seen.min(), seen.max()) if seen.size else (0.0, 0.0)
        ranges[b, k] = max(high - low, floor)
        out[b, k] = np.clip((raw[b, k] - low) / ranges[b, k], 0, 1)
    return out, ranges


def slow_intensity(student, teacher, label, valid, beta):
    terms = []
    for b, k, i, j in np.ndindex(*student.shape):
        if label[b, k] and valid[b, i, j]:
            error = abs(student[b, k, i, j] - teacher[b, k, i, j])
            terms.append(error**2 / (2 * beta) if error < beta else error - beta / 2)
    return sum(terms) / len(terms) if terms else 0.0


def slow_affinity(cam, label, i, j, background):
    """Cosine of two tokens of one image, (k, n) and (k,)."""
    present = [k for k in range(len(label)) if label[k]]
    vectors = [[cam[k, t] for k in present] for t in (i, j)]
    if background:
        vectors = [[1 - max(v, default=0.0), *v] for v in vectors]
    norms = [math.sqrt(sum(x * x for x in v)) for v in vectors]
    return sum(x * y for x, y in zip(*vectors, strict=True)) / (max(norms[0], 1e-6) * max(norms[1], 1e-6))


def slow_structure(student, teacher, label, valid, background, balance, similar=0.5):
    student, teacher = (x.reshape(*x.shape[:2], -1) for x in (student, teacher))
    valid, near, far = valid.reshape(len(valid), -1), [], []
    for b, i, j in np.ndindex(len(valid), valid.shape[1], valid.shape[1]):
        if i != j and valid[b, i] and valid[b, j] and label[b].any():
            target = slow_affinity(teacher[b], label[b], i, j, background)
            error = (slow_affinity(student[b], label[b], i, j, background) - target) ** 2
            (near if target >= similar else far).append(error)
    groups = [near, far] if balance else [near + far]
    return sum(sum(group) / len(group) for group in groups if group) / len(groups)


def cams(seed, images=2, classes=3, grid=(2, 3)):
    """Student, teacher in [0, 1], label (images without a class as well) and valid (images without a token as well)."""
    rng = np.random.RandomState(seed)
    student, teacher = rng.random_sample((2, images, classes, *grid))
    teacher[rng.random_sample(teacher.shape) < 0.3] = 0
    label = (rng.random_sample((images, classes)) < 0.6).astype(float)
    valid = rng.random_sample((images, *grid)) < rng.choice([0.1, 0.8, 1.0], size=(images, 1, 1))
    return student, teacher, label, valid


def one_class(*planes):
    """(1, 1, 1, n) CAMs of one-class images with their label and valid."""
    maps = [tensor(plane)[None, None, None] for plane in planes]
    return *maps, torch.ones(1, 1), torch.ones(1, 1, maps[0].shape[-1], dtype=torch.bool)


def gradient(loss, student, *rest, **options):
    student = student.clone().requires_grad_()
    loss(student, *rest, **options).backward()
    return student.grad


LOSSES = [alignment.intensity_loss, alignment.structure_loss]

# Student and teacher CAM.


@QUICK
@given(seeds(), st.integers(1, 3), st.sampled_from([1e-3, 2.0]))
def test_student_cam_equals_the_slow_loop(seed, classes, floor):
    """Images without a valid token as well; floors that do and do not act."""
    tokens, weight, valid = noise(seed, 2, 6, 4), noise(seed + 1, classes, 4), cams(seed)[3]
    for mask in (valid, np.ones_like(valid)):
        cam = alignment.student_cam(tensor(tokens), tensor(weight), (2, 3), tensor(mask), floor=floor)
        np.testing.assert_allclose(cam, slow_student_cam(tokens, weight, (2, 3), mask, floor)[0], atol=1e-12)
    assert torch.equal(cam, alignment.student_cam(tensor(tokens), tensor(weight), (2, 3), None, floor=floor))


@QUICK
@given(seeds())
def test_student_cam_gradient_is_the_classifier_over_the_range(seed):
    """Minimum, maximum and classifier are held: d S / d F = w / range at every valid token with a positive score,
    the strongest and the weakest included, and 0 elsewhere."""
    tokens, weight, upstream = noise(seed, 1, 6, 4), noise(seed + 1, 2, 4), noise(seed + 2, 1, 2, 2, 3)
    every = np.ones((1, 2, 3), bool)
    ranges = slow_student_cam(tokens, weight, (2, 3), every, 1e-3)[1]
    inputs, classifier = tensor(tokens).requires_grad_(), tensor(weight).requires_grad_()
    (alignment.student_cam(inputs, classifier, (2, 3), tensor(every)) * tensor(upstream)).sum().backward()
    wanted = np.zeros_like(tokens)
    for n, k in np.ndindex(6, 2):
        if tokens[0, n] @ weight[k] > 0:
            wanted[0, n] += upstream[0, k, n // 3, n % 3] * weight[k] / ranges[0, k]
    np.testing.assert_allclose(inputs.grad, wanted, atol=1e-9)
    assert classifier.grad is None


def test_teacher_cam_is_bilinear_and_detached():
    cam = tensor(noise(0, 1, 2, 6, 8)).requires_grad_()
    small = alignment.teacher_cam(cam, (2, 3))
    assert not small.requires_grad
    for k in range(2):
        np.testing.assert_allclose(small[0, k], reference.bilinear(cam.detach()[0, k], (2, 3)), atol=1e-12)


# Intensity and structure against their slow loops.


@QUICK
@given(seeds(), st.integers(1, 3), st.sampled_from([(2, 3), (1, 1)]), st.sampled_from([0.1, 0.5]))
def test_intensity_equals_the_slow_loop(seed, classes, grid, beta):
    arrays = cams(seed, 2, classes, grid)
    loss = alignment.intensity_loss(*map(tensor, arrays), beta)
    assert loss.item() == pytest.approx(slow_intensity(*arrays, beta), rel=1e-9, abs=1e-12)


@QUICK
@given(
    seeds(),
    st.integers(1, 3),
    st.sampled_from([(2, 3), (1, 1)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.5, 0.8]),
)
def test_structure_equals_the_slow_loop(seed, classes, grid, background, balance, similar):
    """Images without a class, without a valid token or with one only; tokens without a response."""
    arrays = cams(seed, 2, classes, grid)
    switches = {"background": background, "balance": balance, "similar": similar}
    loss = alignment.structure_loss(*map(tensor, arrays), **switches)
    assert loss.item() == pytest.approx(slow_structure(*arrays, background, balance, similar), rel=1e-9, abs=1e-12)


def test_closed_forms():
    """S = (1, 0) against T = (1, 1): the tokens are foreign for the student (A 0) and one for the teacher (A 1)."""
    arrays = one_class([1.0, 0.0], [1.0, 1.0])
    assert alignment.intensity_loss(*arrays).item() == pytest.approx((1 - 0.05) / 2)
    assert alignment.structure_loss(*arrays).item() == pytest.approx(0.5), "half the mean over near pairs, no far ones"
    assert alignment.structure_loss(*arrays, balance=False).item() == pytest.approx(1)
    small = one_class([0.5, 0.5], [0.54, 0.5])
    assert alignment.intensity_loss(*small).item() == pytest.approx(0.04**2 / 0.2 / 2), "quadratic below beta"


@pytest.mark.parametrize("options", [None, {}, {"background": False}, {"balance": False}])
def test_gradients(options):
    """Of intensity, and of structure with its options."""
    student, teacher, _, valid = map(tensor, cams(1))
    label = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    valid[:, 0] = True
    term = alignment.intensity_loss if options is None else partial(alignment.structure_loss, **options)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term(x, teacher, label, valid), student)
    assert term(student, teacher, label, valid) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_reaches_present_classes_and_valid_tokens_of_the_student_only(loss):
    student, teacher, label, valid = map(tensor, cams(1))
    label[0], valid[:, 0, :2] = torch.tensor([1.0, 0.0, 1.0]), True
    teacher.requires_grad_()
    found = gradient(loss, student, teacher, label, valid)
    counted = (label > 0)[:, :, None, None] & valid[:, None]
    assert teacher.grad is None
    assert found[counted].any() and not found[~counted].any()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("empty", ["label", "valid"])
def test_nothing_to_compare_is_zero_with_a_zero_gradient(loss, empty):
    student, teacher, label, valid = map(tensor, cams(1))
    label, valid = (torch.zeros_like(x) if name == empty else x for name, x in (("label", label), ("valid", valid)))
    for options in ({}, {"background": False}) if loss is alignment.structure_loss else ({},):
        assert loss(student, teacher, label, valid, **options) == 0
        found = gradient(loss, student, teacher, label, valid, **options)
        assert found.isfinite().all() and not found.any()


# What each term sees, and why the two are joined.


@QUICK
@given(seeds())
def test_without_the_background_channel_a_one_class_image_has_no_structure(seed):
    """Every cosine is 1 where the CAM is positive, whatever its values: no gradient. With the channel there is one."""
    rng = np.random.RandomState(seed)
    arrays = one_class(*rng.uniform(0.01, 1, size=(2, 6)))
    bare = gradient(alignment.structure_loss, *arrays, background=False)
    assert bare.abs().max() < 1e-12
    assert alignment.structure_loss(*arrays, background=False) < 1e-24
    assert gradient(alignment.structure_loss, *arrays).abs().max() > 1e-6


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_without_the_background_channel_a_token_without_response_has_no_gradient(value):
    """Its cosine has no derivative; 1 / eps would be a step of 1e6."""
    arrays = one_class([value, 0.5, 1.0], [0.2, 0.4, 1.0])
    assert not gradient(alignment.structure_loss, *arrays, background=False)[..., 0].any()
    assert alignment.structure_loss(*arrays, background=False).item() == pytest.approx(0.5 * 4 / 6)


@QUICK
@given(seeds())
def test_structure_is_blind_to_a_swap_of_foreground_and_background_and_intensity_is_not(seed):
    plane, teacher = np.random.RandomState(seed).random_sample((2, 6))
    swapped, _, label, valid = one_class(1 - plane, teacher)
    plain, target, _, _ = one_class(plane, teacher)
    one, two = (alignment.structure_loss(x, target, label, valid) for x in (plain, swapped))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    exact = [loss(1 - target, target, label, valid) for loss in LOSSES]
    assert exact[0] > 0.05 and exact[1] < 1e-24, "the very inverse of the teacher satisfies structure"


@QUICK
@given(seeds(), st.booleans())
def test_structure_is_blind_to_a_swap_of_classes_and_intensity_is_not(seed, background):
    _, teacher, _, _ = map(tensor, cams(seed, 1, 2))
    label, valid = torch.ones(1, 2), torch.ones(1, 2, 3, dtype=torch.bool)
    swapped = teacher.flip(1)
    assume((swapped - teacher).abs().max() > 0.1)
    assert alignment.structure_loss(swapped, teacher, label, valid, background=background) < 1e-24
    assert alignment.intensity_loss(swapped, teacher, label, valid) > 1e-3


@QUICK
@given(seeds(), st.floats(0.05, 0.95), st.integers(1, 3))
def test_structure_has_no_gradient_at_a_flat_cam_and_intensity_has(seed, level, classes):
    _, teacher, _, _ = map(tensor, cams(seed, 1, classes))
    label, valid = torch.ones(1, classes), torch.ones(1, 2, 3, dtype=torch.bool)
    student = torch.full_like(teacher, level)
    assert alignment.structure_loss(student, teacher, label, valid) > 0 or classes == 1
    assert gradient(alignment.structure_loss, student, teacher, label, valid).abs().max() < 1e-12
    assert gradient(alignment.intensity_loss, student, teacher, label, valid).abs().max() > 1e-3


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_fixed_directions(progress):
    fixed = {"aux_to_last": (1, 0), "last_to_aux": (0, 1), "both": (0.5, 0.5)}
    for direction, wanted in fixed.items():
        assert schedule.direction_weights(progress, direction, 0.3) == wanted


def test_the_scheduled_direction_crosses_over_linearly():
    table = [(0.0, 1), (0.4, 1), (0.425, 0.75), (0.45, 0.5), (0.475, 0.25), (0.5, 0), (1.0, 0)]
    for progress, first in table:
        found = schedule.direction_weights(progress, "scheduled", 0.45)
        assert found == pytest.approx((first, 1 - first), abs=1e-9)
    assert schedule.direction_weights(0.4, "scheduled", 0.45, 0.2) == pytest.approx((0.75, 0.25))
    assert schedule.direction_weights(0.0, "scheduled", 0.0) == (0, 1), "the last layer leads from the start"
    assert schedule.direction_weights(0.0, "scheduled", 0.05) == pytest.approx((1, 0))
    steep = [schedule.direction_weights(progress, "scheduled", 0.5, 0.0) for progress in (0.49, 0.5)]
    assert steep == [(1, 0), (0, 1)]


def test_an_affinity_of_exactly_one_half_is_near():
    """T = (1,1,1,1), (1,0,0,0), (1,1,1,1) without the background channel: affinities 1/2, 1/2 and 1, so that all six
    pairs are near; S has affinity 1 everywhere."""
    teacher = torch.ones(1, 4, 1, 3, dtype=torch.float64)
    teacher[0, 1:, 0, 1] = 0
    label, valid = torch.ones(1, 4), torch.ones(1, 1, 3, dtype=torch.bool)
    assert (alignment.cam_affinity(teacher, label, False) == 0.5).sum() == 4
    loss = alignment.structure_loss(torch.ones_like(teacher), teacher, label, valid, background=False)
    assert loss.item() == pytest.approx(0.5 * (4 / 6) * 0.25)
