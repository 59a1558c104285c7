"""Dense CRF: what it does to clean and to noisy probabilities, what it refuses."""

import inspect

import numpy as np
import pytest
from builders import noise

from wsss.inference.crf import dense_crf
from wsss.paths import UserError


def halves(height=24, width=32):
    """A dark half and a bright half, and the mask of the bright one."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, width // 2 :] = (210, 180, 150)
    return image, image[..., 0] > 100


def softmax(scores):
    e = np.exp(scores - scores.max(0))
    return (e / e.sum(0)).astype(np.float32)


def test_no_iteration_gives_the_clipped_probability_back():
    image, bright = halves(3, 4)
    probability = np.stack([~bright, bright]).astype(np.float64)
    expected = np.clip(probability, 1e-5, 1) / (1 + 1e-5)
    np.testing.assert_allclose(dense_crf(image, probability, iterations=0), expected, rtol=1e-5)


def test_one_iteration_of_the_position_term_alone_lies_near_the_slow_loop():
    """The lattice approximates the Gaussian; normalised symmetrically the two differ by some per cent."""
    image, sigma, weight = halves(6, 9)[0], 1.5, 4.0
    probability = softmax(noise(0, 3, 6, 9))
    mine = dense_crf(image, probability, 1, (sigma, weight), (1.0, 1.0, 0.0))
    row, column = np.divmod(np.arange(54), 9)
    kernel = np.exp(-((row[:, None] - row) ** 2 + (column[:, None] - column) ** 2) / (2 * sigma**2))
    scale = 1 / np.sqrt(kernel.sum(1))
    flat = probability.reshape(3, -1)
    message = weight * (flat @ (scale[:, None] * kernel * scale))
    expected = softmax(np.log(flat) + message).reshape(3, 6, 9)
    assert np.abs(mine - expected).max() < 0.03
    assert np.abs(mine - probability).max() > 0.1


def test_a_noisy_map_on_two_colours_is_cleaned():
    """A fifth of the pixels say the wrong class; afterwards none does. Without the colour term it would not do."""
    image, bright = halves()
    said = bright ^ (np.random.RandomState(0).rand(*bright.shape) < 0.2)
    probability = np.where(np.stack([~said, said]), 0.7, 0.3).astype(np.float32)
    before = (probability.argmax(0) != bright).mean()
    after = (dense_crf(image, probability).argmax(0) != bright).mean()
    blind = (dense_crf(np.full_like(image, 90), probability).argmax(0) != bright).mean()
    assert before > 0.15 and after == 0 and blind > 0.1


def test_rare_classes_merged_are_nearly_the_whole_crf():
    """Three classes compete, nine are nowhere above 1/20: the same labels, marginals apart by less than a hundredth."""
    image, bright = halves()
    scores = np.stack([~bright, bright, bright & (np.arange(32) > 20), *np.zeros((9, 24, 32))])
    probability = softmax(5 * scores + noise(0, 12, 24, 32))
    whole, merged = dense_crf(image, probability), dense_crf(image, probability, merge=0.2)
    assert 1 < (probability.max((1, 2)) < 0.2).sum() < 12
    assert (whole.argmax(0) == merged.argmax(0)).all()
    assert 0 < np.abs(whole - merged).max() < 0.01
    np.testing.assert_allclose(merged.sum(0), 1, rtol=1e-5)


def test_merging_one_class_or_none_is_the_whole_crf():
    image, bright = halves()
    probability = softmax(np.stack([4.0 * ~bright, 4.0 * bright, -2 + 0 * bright]))
    assert probability[2].max() < 0.05
    for merge in (0.05, 1e-6):
        assert np.array_equal(dense_crf(image, probability, merge=merge), dense_crf(image, probability))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("classes", [1, 21])
def test_any_size(shape, classes):
    image = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    q = dense_crf(image, softmax(noise(0, classes, *shape)))
    assert q.shape == (classes, *shape) and np.abs(q.sum(0) - 1).max() < 1e-5


def test_leaves_its_inputs_and_takes_read_only_and_strided_ones():
    image, bright = halves(12, 16)
    probability = softmax(np.stack([~bright, bright]) + noise(0, 2, 12, 16))
    copies = image.copy(), probability.copy()
    expected = dense_crf(image, probability)
    assert np.array_equal(image, copies[0]) and np.array_equal(probability, copies[1])
    image.flags.writeable = probability.flags.writeable = False
    assert np.array_equal(dense_crf(image, probability), expected)
    strided = np.repeat(image, 2, 0)[::2], np.asfortranarray(probability)
    assert np.array_equal(dense_crf(*strided), expected)


@pytest.mark.parametrize(
    ("image", "probability"),
    [
        (np.zeros((4, 6, 3), np.float32), np.ones((2, 4, 6))),
        (np.zeros((3, 4, 6), np.uint8), np.ones((2, 4, 6))),
        (np.zeros((4, 6), np.uint8), np.ones((2, 4, 6))),
        (np.zeros((4, 6, 3), np.uint8), np.ones((2, 6, 4))),
        (np.zeros((4, 6, 3), np.uint8), np.ones((4, 6))),
        (np.zeros((4, 6, 3), np.uint8), np.ones((0, 4, 6))),
        (np.zeros((0, 6, 3), np.uint8), np.ones((2, 0, 6))),
    ],
)
def test_refuses_what_does_not_fit(image, probability):
    with pytest.raises(ValueError, match="dense CRF: "):
        inspect.unwrap(dense_crf)(image, probability)  # as users call it, without the tests' shape checks


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_what_is_not_finite(bad):
    probability = np.full((2, 4, 6), 0.5)
    probability[1, 2, 3] = bad
    with pytest.raises(UserError, match="finite"):
        dense_crf(np.zeros((4, 6, 3), np.uint8), probability)
