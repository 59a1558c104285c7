"""Pixel-adaptive refinement and the segmentation pseudo label: equal to a slow loop, properties, deviation D16."""

import numpy as np
import pytest
import torch
from builders import IGNORE, QUICK, noise, seeds, tensor
from hypothesis import given
from hypothesis import strategies as st
from reference import bilinear

from wsss import cam, refine

SIZE = (9, 7)
HIGH, LOW = 0.7, 0.25


def slow_weights(image, box, row, column, dilations):
    """Places and weights of one pixel's neighbours, from the definition; image (3, h, w)."""
    top, bottom, left, right = box
    places, distances = [], []
    for dilation in dilations:
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                if down or across:
                    y = min(max(row + dilation * down, top), bottom - 1)
                    x = min(max(column + dilation * across, left), right - 1)
                    places.append((y, x))
                    distances.append(dilation * (2**0.5 if down and across else 1))
    exponent = np.zeros(len(places))
    for colour in image:
        around = np.array([colour[place] for place in places])
        exponent -= (abs(around - colour[row, column]) / (around.std(ddof=1) + 1e-8) / 0.3) ** 2 / 3
    far = -((np.array(distances) / np.std(distances, ddof=1) / 0.3) ** 2)
    colour_part, distance_part = np.exp(exponent - exponent.max()), np.exp(far - far.max())
    return places, colour_part / colour_part.sum() + 0.01 * distance_part / distance_part.sum()


def slow_refine(image, masks, box, iterations, dilations):
    """(3, h, w), (c, h, w) -> (c, h, w), zero outside the box."""
    inside = [(y, x) for y in range(box[0], box[1]) for x in range(box[2], box[3])]
    weights = {place: slow_weights(image, box, *place, dilations) for place in inside}
    for _ in range(iterations):
        out = np.zeros(masks.shape)
        for y, x in inside:
            for place, weight in zip(*weights[y, x], strict=True):
                out[:, y, x] += weight * masks[(slice(None), *place)]
        masks = out
    return masks


def slow_labels(image, maps, label, box, iterations):
    """(3, h, w) in 0..255, (k, h, w), (k,) -> (h, w): the predecessor's pseudo label, refined across the box's edge."""
    size, half = image.shape[1:], tuple(side // 2 for side in image.shape[1:])
    small = np.stack([bilinear(plane, half) for plane in image])
    own = [k for k in range(len(label)) if label[k]]
    results = []
    for background in (HIGH, LOW):
        planes = np.exp(np.stack([np.full(half, background), *(bilinear(maps[k], half) for k in own)]))
        whole_image = (0, half[0], 0, half[1])
        refined = slow_refine(small, planes / planes.sum(0), whole_image, iterations, (1, 2, 4, 8, 12, 24))
        best = np.stack([bilinear(plane, size) for plane in refined]).argmax(0)
        results.append(np.array([0, *(k + 1 for k in own)])[best])
    strict, loose = results
    labels = np.where(strict > 0, strict, np.where(loose == 0, 0, IGNORE))
    seen = np.zeros(size, bool)
    seen[box[0] : box[1], box[2] : box[3]] = True
    return np.where(seen, labels, IGNORE)


def uniform(seed, *shape):
    """Numbers in 0..1, float64."""
    return tensor(np.random.RandomState(seed).uniform(size=shape))


def pictures(seed, images=2, size=SIZE):
    """Images in 0..255, float64."""
    return 255 * uniform(seed, images, 3, *size)


def spans(side):
    """A half-open range of rows or columns of 0..side with at least one of them."""
    return st.tuples(st.integers(0, side - 1), st.integers(1, side)).map(lambda s: (min(s[0], s[1] - 1), s[1]))


def pseudo_label(pixels, maps, label, box, across_box=False, iterations=10):
    return refine.segmentation_labels(pixels, maps, label, box, LOW, HIGH, across_box=across_box, iterations=iterations)


@QUICK
@given(seeds(), spans(SIZE[0]), spans(SIZE[1]), st.sampled_from([(1,), (2, 1), (1, 2, 4)]), st.integers(0, 3))
def test_refine_equals_the_slow_loop(seed, rows, columns, dilations, iterations):
    """Boxes down to one pixel, images smaller than the dilations."""
    image, masks = pictures(seed), tensor(noise(seed, 2, 3, *SIZE))
    box = [(0, SIZE[0], 0, SIZE[1]), (*rows, *columns)]
    fast = refine.refine(image, masks, torch.tensor(box), iterations, dilations)
    for one in range(2):
        slow = slow_refine(image[one].numpy(), masks[one].numpy(), box[one], iterations, dilations)
        top, bottom, left, right = box[one]
        region = np.s_[:, top:bottom, left:right]
        np.testing.assert_allclose(fast[one].numpy()[region], slow[region], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_segmentation_labels_equal_the_slow_loop(iterations):
    image, label, box = pictures(5, 2, (17, 22)), torch.tensor([[1, 0, 1], [0, 1, 0]]), [(0, 17, 0, 22), (3, 17, 0, 19)]
    hot = torch.linspace(-1.2, 1.2, 22) * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    maps = (hot + uniform(6, 2, 3, 17, 22)).clamp(0, 1)
    found = pseudo_label(image, maps, label.double(), torch.tensor(box), True, iterations)
    for one in range(2):
        slow = slow_labels(image[one].numpy(), maps[one].numpy(), label[one].numpy(), box[one], iterations)
        np.testing.assert_array_equal(found[one], slow)
    assert found.unique().tolist() == [0, 1, 2, 3, IGNORE]


def test_D16_refinement_does_not_cross_the_edge_of_the_box():
    """Neither the refined masks nor the labels depend on what lies outside the box; the predecessor's (D16) do."""
    image, masks, label = pictures(0, size=(24, 20)), uniform(1, 2, 3, 24, 20), torch.ones(2, 3).double()
    box = torch.tensor([[3, 19, 0, 15], [0, 24, 5, 20]])
    outside = ~cam.box_mask(box, (24, 20))[:, None]
    other_image = torch.where(outside, pictures(1, size=(24, 20)), image)
    other_masks = torch.where(outside, 1 - masks.flip(1), masks)

    refined = refine.refine(image, masks, box)
    assert torch.equal(refined, refine.refine(other_image, other_masks, box))
    across, other = refine.refine(image, masks), refine.refine(other_image, other_masks)
    assert (across - other).abs().masked_fill(outside, 0.0).amax((1, 2, 3)).min() > 1e-3

    for iterations in (0, 10):
        fixed = [pseudo_label(*x, label, box, False, iterations) for x in ((image, masks), (other_image, other_masks))]
        assert torch.equal(*fixed)
    compat = [pseudo_label(*x, label, box, True) for x in ((image, masks), (other_image, other_masks))]
    assert (compat[0] != compat[1]).any()


def test_the_stronger_of_two_classes_wins_and_a_tie_with_the_background_is_background():
    maps = torch.tensor([[0.8, 0.95, 0.9], [0.95, 0.8, 0.9], [0.7, 0.7, 0.9], [0.25, 0.25, 0.9]])[..., None, None]
    label = torch.tensor([[1.0, 1.0, 0.0]]).expand(4, 3)
    image = torch.full((4, 3, 4, 4), 50.0)
    found = pseudo_label(image, maps.expand(4, 3, 4, 4).contiguous(), label, torch.tensor([[0, 4, 0, 4]] * 4))
    assert found[:, 0, 0].tolist() == [2, 1, IGNORE, 0]


def test_absent_classes_stay_absent_and_images_do_not_influence_one_another():
    """Images of no, one, two and all classes together; absent ones have the highest CAM."""
    image, maps = pictures(0, 4, (16, 12)), uniform(4, 4, 5, 16, 12)
    label = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).double()
    maps[:, :, :8] = 0.9 + 0.1 * maps[:, :, :8]
    maps = torch.where(label[:, :, None, None] > 0, maps, 1.0)
    box = torch.tensor([[0, 16, 0, 12], [0, 16, 0, 12], [2, 16, 0, 12], [0, 16, 1, 12]])
    together = pseudo_label(image, maps, label, box)
    for one in range(4):
        mine = slice(one, one + 1)
        assert torch.equal(together[mine], pseudo_label(image[mine], maps[mine], label[mine], box[mine]))
        allowed = {0, IGNORE} | {1 + int(k) for k in label[one].nonzero()}
        assert set(together[one].unique().tolist()) <= allowed
        assert bool(((together[one] > 0) & (together[one] < IGNORE)).any()) == bool(label[one].any())
    assert not together[0].any()


@QUICK
@given(seeds(), spans(SIZE[0]), spans(SIZE[1]), st.booleans())
def test_labels_outside_the_box_are_ignored(seed, rows, columns, across_box):
    """Boxes down to one pixel at odd places of an image of odd size."""
    image, maps = pictures(seed), torch.full((2, 1, *SIZE), 0.9).double()
    box = torch.tensor([[*rows, *columns], [0, SIZE[0], 0, SIZE[1]]])
    found = pseudo_label(image, maps, torch.ones(2, 1).double(), box, across_box)
    assert torch.equal(found == 1, cam.box_mask(box, SIZE))
    assert torch.equal(found == IGNORE, ~cam.box_mask(box, SIZE))


def test_a_box_without_a_pixel_is_all_ignored():
    box = torch.tensor([[3, 3, 0, 7], [9, 9, 7, 7], [0, 9, 0, 0]])
    maps, label = uniform(5, 3, 2, *SIZE), torch.ones(3, 2).double()
    assert (pseudo_label(pictures(0, 3), maps, label, box) == IGNORE).all()
    assert refine.refine(pictures(0, 3), maps, box).isfinite().all()
