"""Class activation maps and the labels made of them (eq. 2 to 5)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsss.config import IGNORE

_EPSILON = 1e-5
"""Added to a CAM's range before the division (eq. 3), so that a flat CAM becomes 0."""


def upcast(x: Tensor) -> Tensor:
    """Return `x` in float32 if it has a half type; float64 stays, so that gradients can be checked in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def box_mask(box: Int[Tensor, "b 4"], size: tuple[int, int]) -> Bool[Tensor, "b h w"]:
    """Return the mask of the pixels inside a box (top, bottom, left, right; half open)."""
    rows = torch.arange(size[0], device=box.device)[None, :, None]
    columns = torch.arange(size[1], device=box.device)[None, None, :]
    top, bottom, left, right = (side[:, None, None] for side in box.unbind(1))
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def whole_box(batch: int, size: tuple[int, int], device: torch.device) -> Int[Tensor, "b 4"]:
    """Return boxes that cover whole images, for images without padding."""
    return torch.stack([torch.full((batch,), side, device=device) for side in (0, size[0], 0, size[1])], 1)


def token_mask(box: Int[Tensor, "b 4"], patch: int, grid: tuple[int, int]) -> Bool[Tensor, "b i j"]:
    """Return V: tokens whose patch of `patch` pixels lies wholly inside the photograph (`box` in pixels)."""
    top, bottom, left, right = box.unbind(1)
    # Starts are rounded up and stops down, so a patch that shows any padding is out.
    inside = [(top + patch - 1) // patch, bottom // patch, (left + patch - 1) // patch, right // patch]
    return box_mask(torch.stack(inside, 1), grid)


def class_scores(
    tokens: Float[Tensor, "b n d"], weight: Float[Tensor, "k d"], grid: tuple[int, int]
) -> Float[Tensor, "b k i j"]:
    """Return the raw CAM W F (eq. 2): the classifier, which has no bias, applied to every token."""
    # Labels compare these values with thresholds, and bfloat16 is too coarse for that. The tokens are float32 even
    # under autocast, because the last norm and the blocks' residual sums give float32.
    with torch.autocast(tokens.device.type, enabled=False):
        return torch.einsum("bnd,kd->bkn", tokens, weight).unflatten(2, grid)


def mirrored_scores(
    plain: Float[Tensor, "b k i j"], mirrored: Float[Tensor, "b k i j"], size: tuple[int, int]
) -> Float[Tensor, "b k h w"]:
    """Return the ReLU of the larger score of an image and its mirror image, resized bilinearly to `size`.

    `mirrored` comes as the network saw it and is turned back here.
    """
    resized = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (plain, mirrored.flip(-1))]
    return torch.maximum(*resized).relu()  # the same as ReLU before the maximum


def to_unit_range(
    raw: Float[Tensor, "b k h w"], valid: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b k h w"]:
    """Return the CAM in 0..1: ReLU, then (x - min) / (max(x - min) + 1e-5) per image and class (eq. 3).

    With `valid`, minimum and maximum are taken over valid pixels, and other pixels are clipped to [0, 1] (Deviations
    D15). For an image without a valid pixel, minimum and maximum count as 0.
    """
    raw = raw.relu()
    if valid is None:
        low = raw.amin((2, 3), keepdim=True)
        high = raw.amax((2, 3), keepdim=True)
        return (raw - low) / (high - low + _EPSILON)
    outside = ~valid[:, None]
    # Padding becomes inf for the minimum and -inf for the maximum, so it is never either.
    low = raw.masked_fill(outside, torch.inf).amin((2, 3), keepdim=True)
    high = raw.masked_fill(outside, -torch.inf).amax((2, 3), keepdim=True)
    # Without a valid pixel both are infinite, and the quotient below would be NaN.
    empty = ~valid.any(2).any(1)[:, None, None, None]
    low, high = low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0)
    return ((raw - low) / (high - low + _EPSILON)).clamp(0, 1)


def masked(cam: Float[Tensor, "b k h w"], label: Float[Tensor, "b k"]) -> Float[Tensor, "b k h w"]:
    """Return the CAM with absent classes set to 0."""
    return cam * label[:, :, None, None]


def training_labels(
    cam: Float[Tensor, "b k h w"],
    label: Float[Tensor, "b k"],
    valid: Bool[Tensor, "b h w"],
    low: float,
    high: float,
) -> Int[Tensor, "b h w"]:
    """Return labels for training (eq. 4): class + 1 where its CAM is > `high`, 0 where <= `low`, IGNORE between the two
    and where not `valid`."""
    value, index = masked(cam, label).max(1)  # absent classes are 0, which is never above a threshold
    labels = torch.where(value <= low, 0, torch.where(value <= high, IGNORE, index + 1))
    return torch.where(valid, labels, IGNORE)


def evaluation_labels(
    cam: Float[Tensor, "b k h w"], label: Float[Tensor, "b k"], background: float
) -> Int[Tensor, "b h w"]:
    """Return labels for evaluation (eq. 5): class + 1 where its CAM is > `background`, else 0."""
    value, index = masked(cam, label).max(1)
    return torch.where(value <= background, 0, index + 1)


def foreground_certainty(
    cam: Float[Tensor, "b k h w"], label: Float[Tensor, "b k"], low: float, high: float
) -> Int[Tensor, "b h w"]:
    """Return how surely a pixel is foreground: 0 where the CAM is <= `low`, 2 where it is >= `high`, else 1."""
    value = masked(cam, label).amax(1)
    # >= for `high`, although eq. 4 has >: the base has the same difference.
    return (value > low).long() + (value >= high).long()
