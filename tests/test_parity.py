"""A step of training by way of `method`, against the base's own numbers: the settings, labels and terms that `method`
puts together give what its functions gave on the same inputs (tests/golden/README.md). The package's functions one by
one are compared by `wsss verify` (test_verify)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsss import method
from wsss.batch import Output, Targets
from wsss.config import IGNORE, Config
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


def step_of(tokens: Tensor, grid: tuple[int, int], maps: Tensor) -> tuple[Output, Targets]:
    """An output with nothing in it but tokens, and targets of whole photographs that show every class of `maps`."""
    label = torch.ones(maps.shape[:2])
    output = Output(tokens, tokens, (), tokens[:, 0], None, grid, label, label)
    output.log_probability = torch.zeros(len(maps), maps.shape[1] + 1, *maps.shape[2:]).log_softmax(1)
    valid = torch.ones(len(maps), *maps.shape[2:], dtype=torch.bool)
    targets = Targets(label, valid, torch.ones(len(maps), *grid, dtype=torch.bool), cams=(maps, maps))
    targets.pseudo_label = torch.zeros(valid.shape, dtype=torch.long)
    targets.token_labels = method.token_labels(targets, grid, TOCO)
    return output, targets


def close(value: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the largest."""
    torch.testing.assert_close(value, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_patch_token_contrast_of_a_step():
    """From the aux CAM at image size to the loss and its gradient in the tokens."""
    base = case("ptc")
    label, tokens = base["in/label"].long(), base["in/tokens"].requires_grad_()
    classes = int(label[label != IGNORE].max())
    large = maps_of(label, classes).repeat_interleave(16, 2).repeat_interleave(16, 3)
    output, targets = step_of(tokens.flatten(2).mT, (7, 6), large)
    torch.testing.assert_close(targets.token_labels, label)
    loss = method.losses(output, targets, TOCO)["patch_contrast"]
    close(loss, base["out/loss"])
    close(torch.autograd.grad(loss, tokens)[0], base["grad/tokens"])


def test_class_token_contrast_of_a_step():
    """The released settings' temperature, signs and extra term."""
    base, temperature = case("ctc_T0.5"), TOCO.class_contrast.temperature
    assert temperature == 0.5
    flags, student = base["in/flags"].long(), base["in/student"].requires_grad_()
    output, targets = step_of(torch.zeros(len(flags), 4, 2), (2, 2), torch.zeros(len(flags), 2, 32, 32))
    views = [x.unflatten(0, (-1, len(flags)))[:, :, None] for x in (student, base["in/teacher"])]
    output.student, targets.teacher, targets.flags = *views, flags
    loss = method.subspace_terms(output, targets, TOCO)["class_contrast"]
    close(loss, base["out/loss"])
    close(torch.autograd.grad(loss, student)[0], base["grad/student"])


def test_segmentation_of_a_step():
    """From the CAM's labels, unrefined, to the loss and its gradient in the decoder's logits."""
    base = case("seg")
    label, logits = base["in/label"].long(), base["in/logits"].requires_grad_()
    classes = logits.shape[1] - 1
    maps, config = maps_of(label, classes), override(TOCO, {"segmentation.refinements": 0})
    output, targets = step_of(torch.zeros(len(label), label[0].numel(), 2), tuple(label.shape[1:]), maps)
    output.log_probability = method.log_probability(logits, tuple(label.shape[1:]))
    box = torch.tensor([[0, label.shape[1], 0, label.shape[2]]]).expand(len(label), 4)
    targets.pseudo_label = method.pseudo_label(
        torch.zeros(len(label), 3, *label.shape[1:]), maps, targets.label, box, config
    )
    loss = method.losses(output, targets, config)["segmentation"]
    close(loss, base["out/loss"])
    close(torch.autograd.grad(loss, logits)[0], base["grad/logits"])


def test_pseudo_labels_of_a_step():
    """Refined by the colours of view 1; at most one pixel in a thousand differs."""
    base = case("refine")
    maps, label = base["in/valid_cam"], base["in/image_label"].float()
    labels = method.pseudo_label(base["in/image"], maps, label, base["in/box"].long(), TOCO)
    assert (labels != base["out/label"].long()).float().mean() <= 1e-3
