"""CAMs and labels: equal to their slow loops, thresholds, float32."""

import numpy as np
import reference
import torch
from builders import IGNORE, QUICK, noise, seeds, tensor
from hypothesis import given
from hypothesis import strategies as st

from wsss import cam


def boxes(side):
    """A half-open range of rows or columns of 0..side, maybe empty."""
    return st.tuples(st.integers(0, side), st.integers(0, side)).map(sorted)


def random_maps(seed, images=2, classes=3, size=(5, 4)):
    """CAM values in 0..1 and image labels, the last class absent everywhere."""
    maps = 1 / (1 + np.exp(-2 * noise(seed, images, classes, *size)))
    label = (noise(seed + 1, images, classes) > -0.5).astype(float)
    label[:, -1] = 0
    return maps, label


@QUICK
@given(boxes(20), boxes(17), st.sampled_from([2, 3, 8]))
def test_token_mask_equals_the_slow_loop(rows, columns, patch):
    """Also for sizes that the patch does not divide: 20 x 17 pixels."""
    grid = (20 // patch, 17 // patch)
    mask = cam.token_mask(torch.tensor([[*rows, *columns]]), patch, grid)
    np.testing.assert_array_equal(mask[0].numpy(), reference.token_mask((*rows, *columns), patch, grid))


def test_scores_keep_float32_under_autocast():
    tokens, weight = tensor(noise(0, 1, 4, 64)).float(), tensor(noise(1, 2, 64)).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = cam.class_scores(tokens, weight, (2, 2))
    assert torch.equal(inside, cam.class_scores(tokens, weight, (2, 2)))


@QUICK
@given(seeds(), st.booleans(), boxes(5), boxes(4))
def test_normalise_equals_the_slow_loop(seed, masked, rows, columns):
    raw = noise(seed, 2, 3, 5, 4)
    raw[0, 0] = -abs(raw[0, 0])
    box = torch.tensor([[0, 5, 0, 4], [*rows, *columns]])
    valid = cam.box_mask(box, (5, 4)) if masked else None
    wanted = reference.normalise(raw, valid.numpy() if masked else None)
    np.testing.assert_allclose(cam.to_unit_range(tensor(raw), valid), wanted, atol=1e-9)


@QUICK
@given(seeds(), boxes(5), boxes(4), st.floats(0.5, 0.9), st.floats(0.05, 0.45))
def test_labels_equal_the_slow_loops(seed, rows, columns, high, low):
    maps, label = random_maps(seed)
    box = np.array([[0, 5, 0, 4], [*rows, *columns]])
    given = tensor(maps), tensor(label)
    training = cam.training_labels(*given, cam.box_mask(tensor(box), (5, 4)), low, high)
    np.testing.assert_array_equal(training, reference.training_labels(maps, label, box, low, high))
    evaluation = cam.evaluation_labels(*given, low)
    np.testing.assert_array_equal(evaluation, reference.evaluation_labels(maps, label, low))
    np.testing.assert_array_equal(
        cam.foreground_certainty(*given, low, high), reference.foreground_certainty(maps, label, low, high)
    )


def test_thresholds_belong_to_the_lower_side():
    """v <= low is background and v <= high ignored, but v >= high counts as sure for the roi code."""
    maps = torch.tensor([0.25, 0.5, 0.75, 0.875])[None, None, None]
    whole, label = torch.ones(1, 1, 4, dtype=torch.bool), torch.ones(1, 1)
    assert cam.training_labels(maps, label, whole, 0.25, 0.75).tolist() == [[[0, IGNORE, IGNORE, 1]]]
    assert cam.evaluation_labels(maps, label, 0.5).tolist() == [[[0, 0, 1, 1]]]
    assert cam.foreground_certainty(maps, label, 0.25, 0.75).tolist() == [[[0, 1, 2, 2]]]
