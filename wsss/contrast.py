"""Token contrast of the base: patch tokens (L_ptc), class tokens (L_ctc), and the choice of local crops."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Generator, Tensor

from wsss import host
from wsss.cam import upcast
from wsss.config import IGNORE


def affinity_labels(labels: Int[Tensor, "b i j"]) -> Int[Tensor, "b n n"]:
    """Return pair targets (eq. 6): 1 same label (background too), 0 different, IGNORE if either is ignored or i = j."""
    flat = labels.flatten(1)
    pairs = (flat[:, :, None] == flat[:, None, :]).long()
    ignored = flat == IGNORE
    # A token with itself is no pair: that cosine is always 1.
    itself = torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
    return pairs.masked_fill(ignored[:, :, None] | ignored[:, None, :] | itself, IGNORE)


def patch_contrast_loss(tokens: Float[Tensor, "b n d"], affinity: Int[Tensor, "b n n"]) -> Float[Tensor, ""]:
    """Return the patch contrast L_ptc (eq. 7): 0.5 (1 - sum_pos c / (n_pos + 1)) + 0.5 sum_neg c / (n_neg + 1).

    c = |cos(F_i, F_j)|. Pairs are counted over the local batch. If all are ignored, the loss is 0.5 with a zero
    gradient.
    """
    unit = F.normalize(upcast(tokens), dim=2)
    with torch.autocast(tokens.device.type, enabled=False):  # it would round the cosines to bfloat16
        cosine = (unit @ unit.mT).abs()  # tokens of opposite directions count as alike, as in the base
    positive, negative = affinity == 1, affinity == 0
    # + 1, as in the base, avoids a division by 0 where there are no such pairs. It also shrinks small means a little.
    same = (cosine * positive).sum() / (positive.sum() + 1)
    different = (cosine * negative).sum() / (negative.sum() + 1)
    return 0.5 * (1 - same) + 0.5 * different


def class_contrast_loss(
    student: Float[Tensor, "v b p"],
    teacher: Float[Tensor, "t b p"],
    flags: Int[Tensor, "b v"],
    temperature: float,
    *,
    raw_exponentials: bool = False,
    extra_term: bool = False,
) -> Float[Tensor, ""]:
    """Return the class token contrast L_ctc (eq. 8): InfoNCE from the teacher's global views to the student's views.

    For one image, P are its views of flag 1 (the same view too) and the negatives its views of flag 0. P is never
    empty. The image's loss is 1 / (2 (|P| + eps)) times the sum over teacher views q and positives j of
    -log(e_j / (e_j + N + eps)). Here e = exp(q.s / T), and N is the sum of e over the negatives. The result is the mean
    over images. eps is 0, or 1e-4 with `raw_exponentials` (Deviations D7). `extra_term` adds -log(1 / (1 + N + eps))
    for each image and teacher view (D6).
    """
    with torch.autocast(student.device.type, enabled=False):  # it would round the products to bfloat16
        similarity = torch.einsum("tbp,vbp->tbv", upcast(teacher.detach()), upcast(student)) / temperature
    positive = flags.bool()[None]
    epsilon = 1e-4 if raw_exponentials else 0.0
    if raw_exponentials:
        exponential = similarity.exp()
        negatives = exponential.masked_fill(positive, 0.0).sum(2, keepdim=True)
        terms = -(exponential / (exponential + negatives + epsilon)).log()
        extra = (1 + negatives + epsilon).log()
    else:
        # In logarithms: -log(e / (e + N)) = softplus(log N - log e), which neither overflows nor needs an epsilon.
        negatives = similarity.masked_fill(positive, -torch.inf).logsumexp(2, keepdim=True)
        terms = F.softplus(negatives - similarity)
        extra = F.softplus(negatives)
    total = terms.masked_fill(~positive, 0.0).sum((0, 2))
    if extra_term:
        total = total + extra.sum((0, 2))
    return (total / (teacher.shape[0] * (flags.sum(1) + epsilon))).mean()


def choose_crops(
    certainty: Int[Tensor, "b h w"],
    valid: Bool[Tensor, "b h w"],
    size: int,
    count: int,
    generator: Generator,
    *,
    padding_in_crops: bool = False,
) -> tuple[Int[Tensor, "b m 2"], Int[Tensor, "b m"]]:
    """Draw `count` local crops of `size` pixels per image; return their top left corners and flags.

    `certainty` comes from `cam.foreground_certainty`. Centres are drawn without replacement where it is <= 1, half a
    crop away from the border. If there are too few such places, they are drawn anywhere inside that margin. If the
    photograph is too small for that, crops are drawn with replacement from those that show most of it. A flag is 0
    (negative) if the crop's mean certainty is <= 0.2, else 1. Sure foreground counts double in that mean (Deviations
    D14). Crops that are mostly padding are not drawn, and the mean leaves padding out, unless `padding_in_crops` (D4).
    """
    height, width = (side - size + 1 for side in certainty.shape[1:])
    half = size // 2
    # All maps below are indexed by a crop's top left corner; its centre lies half a crop further down and right.
    uncertain = certainty[:, half : half + height, half : half + width] <= 1
    counted = torch.ones_like(valid) if padding_in_crops else valid
    pixels = window_sums(counted.long(), size)
    mean = window_sums(certainty * counted, size) / pixels.clamp(min=1)
    usable = 2 * pixels >= size**2  # at least half of the crop shows the photograph
    fullest = pixels == pixels.amax((1, 2), keepdim=True)
    choices = zip(uncertain & usable, usable, fullest, strict=True)
    picks = torch.stack([_draw(places, count, generator) for places in choices])
    flags = (mean.flatten(1).gather(1, picks) > 0.2).long()
    return torch.stack([picks // width, picks % width], 2), flags


def window_sums(values: Int[Tensor, "b h w"], size: int) -> Int[Tensor, "b i j"]:
    """Return the sum over every window of `size` pixels a side."""
    # Differences of running sums: pooling would add each window's pixels anew, 96 x 96 at the paper's size.
    sums = F.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))
    strips = sums[:, size:] - sums[:, :-size]
    return strips[:, :, size:] - strips[:, :, :-size]


def _draw(choices: tuple[Bool[Tensor, "h w"], ...], count: int, generator: Generator) -> Int[Tensor, " m"]:
    """Draw `count` different places of the first choice that has as many; else from the last one, with replacement.

    With fewer than `count` places an accelerator repeats them in turn, because the host would have to wait to draw.
    """
    *others, places = (choice.flatten() for choice in choices)
    for choice in reversed(others):
        places = torch.where(choice.sum() >= count, choice, places)
    weights, number = places.float(), places.sum()
    if host.may_ask(places) and number < count:
        return torch.multinomial(weights, count, True, generator=generator)
    # The `count` largest of weight / Exp(1) are a draw by weight, without replacement. torch.multinomial does the same,
    # but first waits for the device to check the weights.
    order = (weights / torch.empty_like(weights).exponential_(generator=generator)).topk(count).indices
    return order[torch.arange(count, device=order.device) % number]


def cut(image: UInt8[Tensor, "b 3 h w"], corners: Int[Tensor, "b m 2"], size: int) -> UInt8[Tensor, "m b 3 q q"]:
    """Cut square crops at the given top left corners; the crop's number is the first axis, the image's the second."""
    side = torch.arange(size, device=image.device)
    top, left = corners.transpose(0, 1)[..., None, None, None].unbind(2)  # m b 1 1 1
    images, colours = (torch.arange(count, device=image.device) for count in image.shape[:2])
    # One look-up for all crops: the indices broadcast to (m, b, 3, q, q).
    return image[images[:, None, None, None], colours[:, None, None], top + side[:, None], left + side]
