"""Patch and class token contrast and the choice of local crops: slow loops, gradients, deviations D4, D6, D7."""

from collections import Counter

import numpy as np
import pytest
import reference
import torch
from builders import IGNORE, QUICK, forward, label_maps, noise, seeds, tensor, tiny, training_batch, views
from hypothesis import given
from hypothesis import strategies as st

from wsss import cam, contrast, host, model

# Patch tokens.


@QUICK
@given(label_maps(classes=2, side=3), seeds())
def test_patch_contrast_equals_the_slow_loop(labels, seed):
    """IGNORE anywhere, one token, one image, no positive or no negative pair."""
    tokens = noise(seed, len(labels), labels[0].size, 4)
    affinity = contrast.affinity_labels(tensor(labels))
    np.testing.assert_array_equal(affinity, reference.affinity(labels))
    loss = contrast.patch_contrast_loss(tensor(tokens), affinity)
    assert loss.item() == pytest.approx(reference.patch_contrast(tokens, affinity.numpy()), rel=1e-12)


def test_patch_contrast_gradient():
    affinity = contrast.affinity_labels(torch.tensor([[[0, 1, 1], [2, 0, IGNORE]]]))
    tokens = tensor(noise(0, 1, 6, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrast.patch_contrast_loss(x, affinity), tokens)


@QUICK
@given(seeds(), st.integers(1, 3), st.integers(0, 4), st.sampled_from([0.125, 0.5, 1.0]))
def test_class_contrast_equals_the_slow_loop(seed, images, crops, temperature):
    """Images without a negative view as well (no crops at all)."""
    student, teacher, flags = views(seed, images, crops)
    fast = [tensor(x) for x in (student, teacher, flags)]
    for epsilon, extra in ((0.0, False), (0.0, True), (1e-4, False), (1e-4, True)):
        loss = contrast.class_contrast_loss(*fast, temperature, raw_exponentials=epsilon > 0, extra_term=extra)
        wanted = reference.class_contrast(student, teacher, flags, temperature, epsilon, extra)
        assert loss.item() == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_class_contrast_without_negatives_is_zero_with_a_finite_gradient():
    student, teacher, flags = (tensor(x) for x in views(0, crops=0))
    loss = contrast.class_contrast_loss(student.requires_grad_(), teacher, flags, 0.5)
    loss.backward()
    assert loss == 0 and not student.grad.any() and student.grad.isfinite().all()


@pytest.mark.parametrize(("raw", "extra"), [(False, False), (False, True), (True, True)])
def test_class_contrast_gradient_reaches_the_student_only(raw, extra):
    student, teacher, flags = (tensor(x) for x in views(0, images=1, crops=2, width=3))
    flags[0, 3] = 0
    student.requires_grad_()
    switches = {"raw_exponentials": raw, "extra_term": extra}
    assert torch.autograd.gradcheck(lambda s: contrast.class_contrast_loss(s, teacher, flags, 0.5, **switches), student)
    teacher.requires_grad_()
    contrast.class_contrast_loss(student, teacher, flags, 0.5, **switches).backward()
    assert teacher.grad is None


def test_D7_raw_exponentials_overflow_and_logsumexp_does_not():
    student, teacher, flags = (tensor(x).float() for x in views(0, width=64, scale=8.0))
    student.requires_grad_()
    predecessor = contrast.class_contrast_loss(student, teacher, flags.long(), 0.5, raw_exponentials=True)
    assert not predecessor.isfinite()
    fixed = contrast.class_contrast_loss(student, teacher, flags.long(), 0.5)
    fixed.backward()
    assert fixed.isfinite() and student.grad.isfinite().all()


def crop_case(seed, side=12):
    """Roi codes of two images, the second padded on the left half and at the top."""
    codes = np.random.RandomState(seed).choice([0, 0, 1, 2], size=(2, side, side))
    box = torch.tensor([[0, side, 0, side], [2, side, side // 2, side]])
    return torch.from_numpy(codes), cam.box_mask(box, (side, side))


@QUICK
@given(seeds(), st.sampled_from([3, 4, 5, 12]), st.booleans())
def test_crops_lie_in_the_image_on_uncertain_centres_with_the_flag_of_the_slow_loop(seed, size, padding):
    codes, inside = crop_case(seed)
    generator = torch.Generator().manual_seed(seed)
    corners, flags = contrast.choose_crops(codes, inside, size, 3, generator, padding_in_crops=padding)
    assert corners.shape == (2, 3, 2) and flags.shape == (2, 3)
    for b in range(2):
        for (top, left), flag in zip(corners[b].tolist(), flags[b].tolist(), strict=True):
            assert 0 <= top <= 12 - size and 0 <= left <= 12 - size
            if size <= 5:
                assert codes[b, top + size // 2, left + size // 2] <= 1
            assert flag == reference.crop_flag(codes[b].numpy(), inside[b].numpy(), top, left, size, padding)
        if size <= 5:
            assert len(set(map(tuple, corners[b].tolist()))) == 3


def test_crops_come_from_anywhere_where_nothing_is_uncertain():
    codes, inside = torch.full((1, 6, 6), 2), torch.ones(1, 6, 6, dtype=torch.bool)
    corners, flags = contrast.choose_crops(codes, inside, 4, 5, torch.Generator().manual_seed(0))
    assert len(set(map(tuple, corners[0].tolist()))) == 5 and flags.all()


@pytest.mark.parametrize("ask", [True, False])
def test_crops_are_those_that_multinomial_draws(monkeypatch, ask):
    monkeypatch.setattr(host, "may_ask", lambda tensor: ask)
    codes, inside = crop_case(0)
    corners, _ = contrast.choose_crops(codes, inside, 4, 3, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    usable = 2 * contrast.window_sums(inside.long(), 4) >= 16
    for b, weights in enumerate(((codes[:, 2:11, 2:11] <= 1) & usable).float()):
        places = torch.multinomial(weights.flatten(), 3, generator=generator)
        assert torch.equal(corners[b], torch.stack([places // 9, places % 9], 1))


def test_few_places_take_turns_where_the_device_may_not_be_asked(monkeypatch):
    monkeypatch.setattr(host, "may_ask", lambda tensor: False)
    codes, inside = torch.zeros(1, 8, 16, dtype=torch.long), torch.zeros(1, 8, 16, dtype=torch.bool)
    inside[:, :4, :1] = True  # seen in full by the crops at the left edge whose top is its own
    inside[:, 1:5, 15:] = True
    corners, _ = contrast.choose_crops(codes, inside, 4, 5, torch.Generator().manual_seed(0))
    count = Counter(map(tuple, corners[0].tolist()))
    assert count.keys() == {(0, 0), (1, 12)} and sorted(count.values()) == [2, 3]


def test_D4_padding_neither_drawn_nor_a_negative():
    """The image fills the left half, all of it sure foreground but for a strip; the padding's code is 0."""
    codes = torch.zeros(1, 8, 16, dtype=torch.long)
    codes[:, :, :8], codes[:, :, 2:4] = 2, 1
    inside = cam.box_mask(torch.tensor([[0, 8, 0, 8]]), (8, 16))
    draws = {}
    for padding in (False, True):
        corners, flags = contrast.choose_crops(
            codes, inside, 4, 5, torch.Generator().manual_seed(0), padding_in_crops=padding
        )
        draws[padding] = (corners[0, :, 1] + 2, flags[0])
    centres, flags = draws[False]
    assert (centres <= 8).all() and flags.all(), "only crops that show the image at least by half, all foreground"
    centres, flags = draws[True]
    assert (centres > 8).any() and not flags[centres >= 10].any(), "the predecessor takes padding for background"


def test_D4_a_photograph_smaller_than_half_a_crop_is_what_crops_show():
    """The photograph is 2 x 3 pixels of sure foreground in a corner of padding: it fills half of no 4 x 4 crop."""
    codes, inside = torch.zeros(1, 8, 16, dtype=torch.long), torch.zeros(1, 8, 16, dtype=torch.bool)
    codes[:, :2, :3], inside[:, :2, :3] = 2, True
    corners, flags = contrast.choose_crops(codes, inside, 4, 5, torch.Generator().manual_seed(0))
    assert corners.shape == (1, 5, 2) and not corners.any() and flags.all()


def test_the_teacher_of_a_step_is_the_head_that_follows():
    """The teacher's head starts as a copy of the student's, which would hide a confusion; so it is changed."""
    config = tiny()
    net, batch = model.build(config, 4), training_batch(config)
    with torch.no_grad():
        for parameter in net.proj_head_t.parameters():
            parameter.add_(0.1)
        _, output, targets = forward(config, batch, net=net)
        torch.testing.assert_close(targets.teacher[0], net.proj_head_t(output.class_token))
    assert (targets.teacher - output.student[:2]).abs().max() > 1e-2


@pytest.mark.parametrize(("pixels", "code", "flag"), [(4, 1, 0), (4, 2, 1), (5, 1, 0), (6, 1, 1)])
def test_D14_sure_foreground_counts_double_in_the_flag(pixels, code, flag):
    """Of 25 pixels: mean codes of .16, .32, .2 (the threshold, a negative) and .24."""
    codes, inside = torch.zeros(1, 5, 5, dtype=torch.long), torch.ones(1, 5, 5, dtype=torch.bool)
    codes.view(-1)[:pixels] = code
    assert contrast.choose_crops(codes, inside, 5, 1, torch.Generator())[1].item() == flag
