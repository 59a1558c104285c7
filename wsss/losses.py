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

    A group without a pixel in the local batch counts 0. With `undefined` the loss is then not a number, as in the base
    (Deviations D5), but its gradient is 0: the batch is left out of the term, where the base's weights would be lost.
    """
    entropy = F.nll_loss(log_probability, labels, ignore_index=IGNORE, reduction="none")
    background = labels == 0
    foreground = (labels != 0) & (labels != IGNORE)
    counts = torch.stack([background.sum(), foreground.sum()])
    sums = torch.stack([(entropy * background).sum(), (entropy * foreground).sum()])
    means = sums / counts.clamp(min=1)
    loss = 0.5 * (means[0] + means[1])
    return torch.where((counts == 0).any(), torch.nan, loss) if undefined else loss
