"""A step of training by way of `method`, against the base's own numbers: the settings, labels and terms that `method`
puts together give what its functions gave on the same inputs (tests/golden/README.md). The package's functions one by
one are compared by `wsss verify` (test_verify)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss import method
from wsss.batch import Batch, Output
from wsss.config import IGNORE, Config
from wsss.losses import log_probability
from wsss.presets import BASE, RELEASED
from wsss.settings import override

GOLDEN = Path(__file__).parent / "golden" / "toco.npz"
TOCO = override(Config(), {**BASE, **RELEASED})
"""The base as its authors released it."""


def case(name: str) -> dict[str, Tensor]:
    """The arrays of a case: in/label, out/loss, grad/tokens."""
    with np.load(GOLDEN) as arrays:
        stored = [key for key in arrays.files if key.startswith(f"{name}/")]
        return {key.removeprefix(f"{name}/"): torch.from_numpy(arrays[key]) for key in stored}


def maps_of(label: Tensor, classes: int) -> Tensor:
    """CAMs (b, k, h, w) between whose thresholds, .25 and .7, just `label` comes out: 1 for a class, 0 for background,
    one half where nothing is sure."""
    maps = torch.stack([label == number for number in range(1, classes + 1)], 1).float()
    return torch.where((label == IGNORE)[:, None], 0.5, maps)


def step_of(images: int, size: tuple[int, int], patch: int, classes: int, tokens: Tensor | None = None) -> tuple:
    """A batch of whole photographs that show every class, and an output with nothing in it but tokens."""
    pixels = torch.zeros(images, 3, *size, dtype=torch.uint8)
    box = torch.tensor([[0, size[0], 0, size[1]]]).expand(images, 4)
    label, grid = torch.ones(images, classes), (size[0] // patch, size[1] // patch)
    tokens = torch.zeros(images, grid[0] * grid[1], 2) if tokens is None else tokens
    output = Output(tokens, tokens, (), tokens[:, 0], None, grid, patch, label, label)
    return Batch([""] * images, pixels, label, box, None, None), output


def close(value: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the largest."""
    torch.testing.assert_close(value, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_patch_token_contrast_of_a_step():
    """From the aux CAM at image size to the loss and its gradient in the tokens."""
    base = case("ptc")
    label, tokens = base["in/label"].long(), base["in/tokens"].requires_grad_()
    classes = int(label[label != IGNORE].max())
    batch, output = step_of(len(label), (7 * 16, 6 * 16), 16, classes, tokens.flatten(2).mT)
    large = maps_of(label, classes).repeat_interleave(16, 2).repeat_interleave(16, 3)
    found = method.token_labels(replace(output, aux_cam=large), batch, TOCO)
    torch.testing.assert_close(found, label)
    seen = torch.zeros(len(label), classes + 1, 112, 96).log_softmax(1)
    output = replace(output, token_labels=found, cam=large, aux_cam=large, log_probability=seen)
    loss = method.losses(output, batch, TOCO)["patch_contrast"]
    close(loss, base["out/loss"])
    close(torch.autograd.grad(loss, tokens)[0], base["grad/tokens"])


def test_class_token_contrast_of_a_step():
    """The released settings' temperature, signs and extra term."""
    base, temperature = case("ctc_T0.5"), TOCO.class_contrast.temperature
    assert temperature == 0.5
    flags, student = base["in/flags"].long(), base["in/student"].requires_grad_()
    _, output = step_of(len(flags), (32, 32), 16, 2)
    views = [x.unflatten(0, (-1, len(flags)))[:, :, None] for x in (student, base["in/teacher"])]
    output = replace(output, student=views[0], teacher=views[1], flags=flags)
    loss = method.subspace_terms(output, TOCO)["class_contrast"]
    close(loss, base["out/loss"])
    close(torch.autograd.grad(loss, student)[0], base["grad/student"])


def test_segmentation_of_a_step():
    """From the CAM's labels, unrefined, to the loss and its gradient in the decoder's logits."""
    base = case("seg")
    label, logits = base["in/label"].long(), base["in/logits"].requires_grad_()
    classes = logits.shape[1] - 1
    batch, output = step_of(len(label), tuple(label.shape[1:]), 1, classes)
    maps = maps_of(label, classes)
    sure = log_probability(logits, label.shape[1:])
    output = replace(output, cam=maps, aux_cam=maps, token_labels=label, log_probability=sure)
    loss = method.losses(output, batch, override(TOCO, {"segmentation.refinements": 0}))["segmentation"]
    close(loss, base["out/loss"])
    close(torch.autograd.grad(loss, logits)[0], base["grad/logits"])


@pytest.mark.parametrize("aux", [False, True])
def test_pseudo_labels_of_a_step(aux):
    """Refined by the colours of view 1, from the last or the aux CAM; at most one pixel in a thousand differs."""
    base = case("refine")
    maps, label = base["in/valid_cam"], base["in/image_label"].float()
    batch, output = step_of(len(maps), tuple(maps.shape[2:]), 16, maps.shape[1])
    batch = replace(batch, image=base["in/image"], label=label, box=base["in/box"].long())
    wrong = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0)) * label[:, :, None, None]
    output = replace(output, cam=wrong if aux else maps, aux_cam=maps if aux else wrong)
    labels = method.segmentation_labels(output, batch, TOCO, aux)
    assert (labels != base["out/label"].long()).float().mean() <= 1e-3
