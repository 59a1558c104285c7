"""Losses on the two heads and on the decoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wsss.config import IGNORE


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 where it is of a half type; float64 stays, so that gradients can be checked in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def classification_loss(logits: Float[Tensor, "b k"], label: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Multilabel soft margin (eq. 1): mean over images and classes of the logistic loss."""
    return F.multilabel_soft_margin_loss(upcast(logits), label)


def log_probability(logits: Float[Tensor, "b c i j"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Logarithm of the softmax of the logits, resized bilinearly to `size` before: what segmentation and energy both
    start from. float32 for half types, under autocast too; differentiable."""
    return F.interpolate(upcast(logits), size, mode="bilinear", align_corners=False).log_softmax(1)


def segmentation_loss(
    log_probability: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"], undefined: bool = False
) -> Float[Tensor, ""]:
    """L_seg (eq. 9): half the mean cross-entropy over background pixels plus half that over foreground pixels.

    A group without a pixel in the local batch counts 0; with `undefined` it is not a number, as in the base
    (Deviations D5).
    """
    entropy = F.nll_loss(log_probability, labels, ignore_index=IGNORE, reduction="none")
    background = labels == 0
    foreground = (labels != 0) & (labels != IGNORE)
    means = [_masked_mean(entropy, group, undefined) for group in (background, foreground)]
    return 0.5 * (means[0] + means[1])


def _masked_mean(values: Float[Tensor, "b h w"], group: torch.Tensor, undefined: bool) -> Float[Tensor, ""]:
    count = group.sum()
    return (values * group).sum() / (count if undefined else count.clamp(min=1))
