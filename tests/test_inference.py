"""The final protocols equal a slow restatement; what they combine, in which order, and at which size."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import tiny
from PIL import Image

from wsss.inference import protocols
from wsss.model import build
from wsss.paths import UserError

SIZES = [(40, 48), (31, 57), (13, 90)]
"""Of whole patches; of none such; with a side that is smaller than one patch at no scale but 1.5."""
PATCH = 16


@pytest.fixture(scope="module")
def model():
    """A network of random weights that gives every position logits of its own."""
    return build(tiny(model__patch_size=PATCH, model__image_size=32), 2).eval()


def network(model):
    return lambda image: model(image).segmentation


def image(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def slowly(model, photo: torch.Tensor, size: tuple[int, int], kind: str, scales, flip: bool) -> np.ndarray:
    """The protocol's words as loops: one pass at a time, mirrored by hand, combined pixel by pixel in numpy."""
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
    asked = protocols.protocol(kind, 40, scales, flip=flip)
    for size in SIZES:
        photo = image((40, 40) if kind == "coco" else size)
        (got,) = protocols.scores(network(model), photo, [size], asked, PATCH)
        expected = slowly(model, photo, size, kind, scales, flip)
        assert got.shape == (3, *size) and got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_batch_equals_its_images(model, kind):
    """Squashed photographs go in one batch whatever their own sizes are."""
    asked, sizes = protocols.protocol(kind, 40), [(40, 40)] * 3 if kind == "voc" else SIZES
    photos = [image((40, 40), seed) for seed in range(3)]
    together = protocols.scores(network(model), torch.cat(photos), sizes, asked, PATCH)
    for photo, size, got in zip(photos, sizes, together, strict=True):
        (alone,) = protocols.scores(network(model), photo, [size], asked, PATCH)
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


def test_scores_stay_float32_under_bfloat16(model):
    def half(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).segmentation

    (got,) = protocols.scores(half, image((40, 48)), [(40, 48)], protocols.protocol("voc"), PATCH)
    assert got.dtype == torch.float32
    (exact,) = protocols.scores(network(model), image((40, 48)), [(40, 48)], protocols.protocol("voc"), PATCH)
    assert 0 < (got - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(("kind", "size"), [("voc", (3, 31, 57)), ("coco", (3, 32, 32))])
def test_what_the_network_sees(kind, size):
    photograph = Image.fromarray(np.full((31, 57), 200, np.uint8)).convert("RGB")
    seen = protocols.pixels(photograph, protocols.protocol(kind, 32))
    assert seen.shape == size
    assert (seen == 200).all() and seen.dtype == torch.uint8


def test_the_protocols_are_the_papers():
    """Scales, mirror images, combination, and the CRF's numbers as the method page has them."""
    crf = {"iterations": 10, "gaussian": [1, 1], "bilateral": [121, 5, 4]}
    shared = {"scales": [1, 1.25, 1.5], "flip": True, "crf": crf}
    voc = {"kind": "voc", "size": "native", "over_flip": "sum", "over_scales": "max", **shared}
    coco = {"kind": "coco", "size": 448, "over_flip": "max", "over_scales": "sum", **shared}
    assert protocols.protocol("voc").numbers() == voc == json.loads(json.dumps(voc))
    assert protocols.protocol("coco").numbers() == coco
    assert protocols.protocol("coco", 64, crf=False).numbers() == coco | {"size": 64, "crf": None}
    assert protocols.protocol("voc", longest=64).numbers() == voc | {"longest": 64}
    assert protocols.protocol("voc").changes() == []
    assert protocols.protocol("voc", scales=(1.0, 1.5), flip=False).changes() == ["s1+1.5", "noflip"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "vox"}, "no final protocol named vox; did you mean voc?"),
        ({"kind": "voc", "scales": (1.0, -1.0)}, "--scales must be different numbers above 0, up to 8; -1 is none"),
        ({"kind": "voc", "scales": (0.0,)}, "0 is none"),
        ({"kind": "voc", "scales": (float("nan"),)}, "nan is none"),
        ({"kind": "voc", "scales": (12.5,)}, "12.5 is none"),
        ({"kind": "coco", "scales": (1.0, 1.0)}, "one of them is there twice"),
    ],
)
def test_refuses(options, says):
    with pytest.raises(UserError, match="(?s)" + says.replace("?", r"\?")):
        protocols.protocol(**options)
