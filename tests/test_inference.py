"""The final protocols equal a slow restatement; what they combine, in which order, and at which size."""

import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import noise, tiny

from wsss import protocols
from wsss.inference import multi_scale
from wsss.inference.crf import dense_crf
from wsss.model import build
from wsss.paths import UserError

SIZES = [(40, 48), (31, 57), (13, 90)]
"""Of whole patches; not of whole patches; with a side that is shorter than a patch up to scale 1."""
PATCH = 16


@pytest.fixture(scope="module")
def model():
    return build(tiny(model__patch_size=PATCH, model__image_size=32), 2).eval()


def network(model):
    return lambda image: model(image).segmentation


def image(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def squashing(protocol: protocols.Protocol, size: int) -> protocols.Protocol:
    """A protocol of smaller squares, if it squashes."""
    return replace(protocol, size=protocol.size and size)


def slowly(model, photo: torch.Tensor, size: tuple[int, int], kind: str, scales, flip: bool) -> np.ndarray:
    """The protocol as loops: one pass at a time, mirrored by hand, combined pixel by pixel in numpy."""
    by_scale = []
    for scale in scales:
        height, width = (max(PATCH, int(side * scale)) for side in photo.shape[2:])
        scaled = F.interpolate(photo, (height, width), mode="bilinear", align_corners=False)
        passes = []
        for mirrored in (False, True) if flip else (False,):
            seen = torch.from_numpy(scaled.numpy()[..., ::-1].copy()) if mirrored else scaled
            kept = seen[:, :, : height // PATCH * PATCH, : width // PATCH * PATCH]
            with torch.no_grad():
                logits = model(kept).segmentation
            stretched = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].numpy()
            passes.append(stretched[..., ::-1] if mirrored else stretched)
        by_scale.append(sum(passes) if kind == "voc" else np.max(passes, 0))
    return np.max(by_scale, 0) if kind == "voc" else np.sum(by_scale, 0)


@pytest.mark.parametrize("flip", [True, False], ids=["flip", "plain"])
@pytest.mark.parametrize("scales", [(1.0, 1.25, 1.5), (0.75,)], ids=["three", "one"])
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_equals_the_slow_restatement(model, kind, scales, flip):
    asked = squashing(protocols.get(kind, scales, flip=flip), 40)
    for size in SIZES:
        photo = image((40, 40) if kind == "coco" else size)
        (got,) = multi_scale.scores(network(model), photo, [size], asked, PATCH)
        expected = slowly(model, photo, size, kind, scales, flip)
        assert got.shape == (3, *size) and got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_batch_equals_its_images(model, kind):
    """Squashed photographs go in one batch whatever their own sizes are."""
    asked, sizes = squashing(protocols.get(kind), 40), [(40, 40)] * 3 if kind == "voc" else SIZES
    photos = [image((40, 40), seed) for seed in range(3)]
    together = multi_scale.scores(network(model), torch.cat(photos), sizes, asked, PATCH)
    for photo, size, got in zip(photos, sizes, together, strict=True):
        (alone,) = multi_scale.scores(network(model), photo, [size], asked, PATCH)
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


def test_scores_stay_float32_under_bfloat16(model):
    def half(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).segmentation

    (got,) = multi_scale.scores(half, image((40, 48)), [(40, 48)], protocols.get("voc"), PATCH)
    assert got.dtype == torch.float32
    (exact,) = multi_scale.scores(network(model), image((40, 48)), [(40, 48)], protocols.get("voc"), PATCH)
    assert 0 < (got - exact).abs().max() < 0.05 * exact.abs().max()


NAMES = [
    ({}, "voc-crf", "final"),
    ({"crf": False}, "voc", "final-without-crf"),
    ({"scales": (1.0, 1.5), "flip": False}, "voc-crf-s1+1.5-noflip", "final-s1+1.5-noflip"),
    ({"merge": 0.05, "longest": 64}, "voc-crf-merge0.05-longest64", "final-merge0.05-longest64"),
]


@pytest.mark.parametrize(("changes", "stem", "name"), NAMES)
def test_files_and_records_are_called_after_what_departs(changes, stem, name):
    protocol = protocols.get("voc", **changes)
    assert (protocol.stem(), protocol.name(usual="voc")) == (stem, name)
    assert protocol.stem("best") == re.sub("^voc(-crf)?", r"\g<0>-best", stem)
    assert protocol.name(usual="coco") == name.replace("final", "final-voc")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "vox"}, "no final protocol named vox; did you mean voc?"),
        ({"kind": "voc", "scales": (1.0, -1.0)}, "--scales must be different numbers above 0, up to 8; -1 is not"),
        ({"kind": "voc", "scales": (0.0,)}, "0 is not allowed"),
        ({"kind": "voc", "scales": (float("nan"),)}, "nan is not allowed"),
        ({"kind": "voc", "scales": (12.5,)}, "12.5 is not allowed"),
        ({"kind": "coco", "scales": (1.0, 1.0)}, "one is given twice"),
    ],
)
def test_refuses(options, says):
    with pytest.raises(UserError, match="(?s)" + says.replace("?", r"\?")):
        protocols.get(**options)


# Dense CRF: what it does to clean and to noisy probabilities, what it refuses.


def halves(height=24, width=32):
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
    """A fifth of the pixels have the wrong class; afterwards none has. Without colours, more than a tenth keep it."""
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
    few = softmax(np.stack([4.0 * ~bright, 4.0 * bright, -2 + 0 * bright]))
    for merge in (0.05, 1e-6):  # one class is below it, or none
        assert np.array_equal(dense_crf(image, few, merge=merge), dense_crf(image, few))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("classes", [1, 21])
def test_any_size(shape, classes):
    image = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    q = dense_crf(image, softmax(noise(0, classes, *shape)))
    assert q.shape == (classes, *shape) and np.abs(q.sum(0) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("image", "probability"),
    [
        (np.zeros((4, 6, 3), np.float32), np.ones((2, 4, 6))),
        (np.zeros((4, 6), np.uint8), np.ones((2, 4, 6))),
        (np.zeros((4, 6, 3), np.uint8), np.ones((2, 6, 4))),
        (np.zeros((4, 6, 3), np.uint8), np.ones((0, 4, 6))),
    ],
)
def test_refuses_what_does_not_fit(image, probability):
    with pytest.raises(ValueError, match="dense CRF: "):
        inspect.unwrap(dense_crf)(image, probability)  # as users call it, without the tests' shape checks


def test_refuses_what_is_not_finite():
    for bad in (np.nan, np.inf):
        probability = np.full((2, 4, 6), 0.5)
        probability[1, 2, 3] = bad
        with pytest.raises(UserError, match="finite"):
            dense_crf(np.zeros((4, 6, 3), np.uint8), probability)
