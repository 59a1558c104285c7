"""Dense energy: its slow loop and stated gradient, and the filter's structure."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from builders import IGNORE, QUICK, label_maps, noise, seeds, tensor
from hypothesis import given
from hypothesis import strategies as st

from wsss import energy, host
from wsss.cam import box_mask
from wsss.energy import energy_loss, filtered, half_probability, start
from wsss.method import log_probability
from wsss.paths import UserError


def planes(pixels):
    """(b, h, w, 3) of 0..255 as uint8 (b, 3, h, w)."""
    return torch.as_tensor(pixels).round().byte().permute(0, 3, 1, 2)


def smooth(height, width):
    """Two flat colours side by side, at full size."""
    pixels = torch.full((1, height, width, 3), 60.0)
    pixels[:, :, width // 2 :] = torch.tensor([200.0, 120.0, 90.0])
    return planes(pixels)


def mixed(height, width, images=1):
    """Random grey levels that change slowly, different in each image."""
    coarse = torch.rand(images, 3, 4, 4, generator=torch.manual_seed(3)) * 255
    return planes(F.interpolate(coarse, (height, width), mode="bilinear").round().permute(0, 2, 3, 1))


def probability(seed, images, classes, height, width):
    return tensor(noise(seed, images, classes, height, width)).softmax(1).float()


def whole(images, height, width):
    return torch.ones(images, height, width, dtype=torch.bool)


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (2, 3)])
def test_half_probability_is_the_bilinear_half(size):
    logits = tensor(noise(0, 2, 3, 4, 5))
    planes = [[reference.bilinear(plane, size) for plane in image] for image in logits.numpy()]
    full = tensor(planes).softmax(1)
    half = F.interpolate(full, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(half_probability(log_probability(logits, size)), half, rtol=0, atol=1e-12)


def test_filter_lies_in_a_band_below_the_exact_gaussian_sum():
    """The image is wider than high: swapped axes, a sigma that is not halved or unused colours leave the band."""
    size, sigma_xy, sigma_rgb = (24, 44), 8.0, 15.0
    image, values = smooth(*size), probability(0, 1, 3, 12, 22)
    fast = filtered(image, values, whole(1, *size), (sigma_xy, sigma_rgb))[0].flatten(1)
    row, column = np.divmod(np.arange(12 * 22), 22)
    colour = np.array([[60, 60, 60], [200, 120, 90]])[(column >= 11).astype(int)]
    places = np.stack([row, column]) / (sigma_xy / 2)
    features = np.concatenate([places, colour.T / sigma_rgb])
    kernel = np.exp(-0.5 * ((features[:, :, None] - features[:, None]) ** 2).sum(0))
    ratio = fast.numpy() / (values[0].flatten(1).numpy() @ kernel)
    assert ratio.min() > 0.35 and ratio.max() < 0.7
    assert 0.42 < ratio.mean() < 0.62


@QUICK
@given(seeds(), st.floats(0, 2), st.floats(0, 2))
def test_filter_is_linear_nonnegative_and_nearly_symmetric(seed, a, b):
    image, valid = mixed(20, 26), box_mask(torch.tensor([[2, 20, 0, 22]]), (20, 26))
    one, two = probability(seed, 1, 3, 10, 13), probability(seed + 1, 1, 3, 10, 13)
    k_one, k_two, k_sum = (filtered(image, x, valid) for x in (one, two, a * one + b * two))
    torch.testing.assert_close(k_sum, a * k_one + b * k_two, rtol=1e-4, atol=1e-4)
    assert k_one.min() >= 0 and k_one.max() > 0.2
    inside = torch.zeros(10, 13)
    inside[1:, :11] = 1
    assert (inside * one * k_two).sum().item() == pytest.approx((inside * k_one * two).sum().item(), rel=0.01)


def test_filter_sees_no_probability_outside_the_box():
    """Odd sides of the box: half-size pixel i is full-size pixel 2 i."""
    image, valid = mixed(12, 14), box_mask(torch.tensor([[3, 11, 2, 9]]), (12, 14))
    values = probability(0, 1, 3, 6, 7)
    inside = torch.zeros(6, 7, dtype=torch.bool)
    inside[2:6, 1:5] = True
    changed = torch.where(inside, values, 0.5 * values + 1)
    assert torch.equal(filtered(image, values, valid), filtered(image, changed, valid))
    smaller, across = torch.where(inside, values, 0), filtered(image, values, valid, across_box=True)
    assert torch.equal(across, filtered(image, smaller, whole(1, 12, 14))), "D17: one lattice for both"


def test_filter_takes_every_second_pixel_and_drops_an_odd_one():
    image, values = mixed(13, 15), probability(0, 1, 2, 6, 7)
    even = filtered(image[:, :, :12, :14], values, whole(1, 12, 14))
    assert torch.equal(filtered(image, values, whole(1, 13, 15)), even)
    unseen = image.clone()
    unseen[:, :, 1::2] = 0
    unseen[:, :, :, 1::2] = 0
    assert torch.equal(filtered(unseen, values, whole(1, 13, 15)), even)


def test_started_together_or_one_by_one_gives_the_same_bits():
    image, values, valid = mixed(16, 20, 3), probability(0, 3, 4, 8, 10), whole(3, 16, 20)
    pending = [start(image.roll(n, 0), values.roll(n, 0), valid) for n in range(3)]
    alone = torch.cat([filtered(image[n : n + 1], values[n : n + 1], valid[:1]) for n in range(3)])
    with ThreadPoolExecutor(2) as threads:
        asked = list(threads.map(lambda n: filtered(image.roll(n, 0), values.roll(n, 0), valid), range(3)))
    for n in range(3):
        assert torch.equal(pending[n](), alone.roll(n, 0))
        assert torch.equal(asked[n], alone.roll(n, 0))
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.slow
def test_a_process_filters_the_same_leaves_stops_to_its_parent_and_its_end_is_said(monkeypatch):
    """The filter has its own process beside an accelerator; nobody waits for it after it has ended."""
    case = mixed(64, 64), probability(0, 1, 3, 32, 32), whole(1, 64, 64)
    expected = filtered(*case)
    monkeypatch.setattr(host, "may_ask", lambda tensor: False)
    try:
        assert torch.equal(filtered(*case), expected)
        (number,) = energy._process()._processes
        for stop in (signal.SIGTERM, signal.SIGINT):
            os.kill(number, stop)
            assert torch.equal(filtered(*case), expected)
        os.kill(number, signal.SIGKILL)
        with pytest.raises(UserError, match="energy's filter was killed"):
            filtered(*case)
    finally:
        energy._process().shutdown()
        energy._process.cache_clear()


def test_what_is_started_is_not_changed_by_later_writes():
    """An optimizer or an in-place operation may run before the result is asked for."""
    image, values, valid = mixed(64, 64), probability(0, 1, 8, 32, 32), whole(1, 64, 64)
    expected = filtered(image, values, valid)
    pending = start(image, values, valid)
    image.zero_()
    values.zero_()
    assert torch.equal(pending(), expected)


def slow_energy(values, k, labels, box, weight):
    total, gradient = 0.0, np.zeros(values.shape)
    for b, c, i, j in np.ndindex(*values.shape):
        if reference.inside(box[b], 2 * i, 2 * j):
            gate = 1.0 if labels[b, 2 * i, 2 * j] == IGNORE else max(0.0, 1 - max(values[b, :, i, j]))
            total += gate * values[b, c, i, j] * k[b, c, i, j]
            gradient[b, c, i, j] = -2 * weight / len(values) * gate * k[b, c, i, j]
    return -weight / len(values) * total, gradient


@QUICK
@given(label_maps(classes=2, side=9).filter(lambda x: min(x.shape[1:]) > 1), seeds(), st.data())
def test_loss_and_gradient_equal_the_slow_loop(labels, seed, data):
    """Odd sides and boxes among them. Probabilities are scaled beyond 1 so that the gate's floor is seen."""
    images, height, width = labels.shape
    sides = [sorted(data.draw(st.tuples(*[st.integers(0, side)] * 2))) for side in (height, width)]
    box = np.array([sides[0] + sides[1]] * images)
    values = 1.3 * tensor(noise(seed, images, 3, height // 2, width // 2)).softmax(1)
    k = np.abs(noise(seed + 1, *values.shape))
    values.requires_grad_()
    loss = energy_loss(values, tensor(k), tensor(labels), box_mask(tensor(box), (height, width)), 0.3)
    loss.backward()
    expected, gradient = slow_energy(values.detach().numpy(), k, labels, box, 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    np.testing.assert_allclose(values.grad, gradient, rtol=1e-12, atol=1e-15)


def test_gradient_is_that_of_the_energy_with_gate_and_kernel_held():
    """Finite differences of -w sum S K S with a symmetric K: S enters twice. Labels are ignored, so all gates are 1."""
    values = tensor(noise(0, 1, 2, 2, 2)).softmax(1).requires_grad_()
    root = noise(1, 4, 4)
    kernel = tensor(root @ root.T)

    def energy(s):
        return -0.5 * (s.flatten(2) * (s.flatten(2) @ kernel)).sum()

    k = (values.detach().flatten(2) @ kernel).unflatten(2, (2, 2)).requires_grad_()
    loss = energy_loss(values, k, torch.full((1, 4, 4), IGNORE), whole(1, 4, 4), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(energy(values.detach()).item()) and k.grad is None
    step = 1e-6
    for place in np.ndindex(1, 2, 2, 2):
        up, down = values.detach().clone(), values.detach().clone()
        up[place] += step
        down[place] -= step
        slope = (energy(up) - energy(down)).item() / (2 * step)
        assert values.grad[place].item() == pytest.approx(slope, rel=1e-6)


def test_gate_is_open_where_ignored_shut_where_sure_and_outside_the_box():
    labels = torch.zeros(1, 4, 8, dtype=torch.long)
    labels[0, :, :4] = IGNORE
    values, valid = torch.zeros(1, 2, 2, 4), box_mask(torch.tensor([[0, 4, 2, 8]]), (4, 8))
    values[:, 0] = 1  # sure everywhere
    loss = energy_loss(values, torch.ones_like(values), labels, valid, 1.0)
    assert loss == -2, "the two ignored half-size pixels inside the box, one each; the sure ones count nothing"
    values[:] = 0.5
    loss = energy_loss(values, torch.ones_like(values), labels, valid, 1.0)
    assert loss == -(2 * 1 + 4 * 0.5)
