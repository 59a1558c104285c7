"""Module A, multi-subspace token contrast (MSC): projections, class and patch token terms, decoupling.

The equations A to A3b are this project's reconstruction (book, page Module A).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from wsss import host
from wsss.cam import upcast
from wsss.config import IGNORE
from wsss.contrast import class_contrast_loss

_EPSILON = 1e-5
"""Added to a standard deviation before the division by it (A3b)."""


def project(
    bottleneck: Float[Tensor, "*n m"], projection: Float[Tensor, "s d m"], normalise: bool
) -> Float[Tensor, "*n s d"]:
    """Return the embeddings z_k = P_k g in each of s subspaces (A), divided by their norm with `normalise`.

    `bottleneck` g is the trunk's output of norm 1; the rows of `projection` have norm 1. The product runs in autocast's
    type, as the base's last layer does; the norms are in float32. With s = 1 and without `normalise` the result is that
    layer's, bit by bit.
    """
    # One product for all subspaces, whose rows are stacked.
    z = F.linear(bottleneck, projection.flatten(0, 1)).unflatten(-1, projection.shape[:2])
    return F.normalize(upcast(z), dim=-1) if normalise else z


def subspace_contrast_loss(
    student: Float[Tensor, "v b s d"],
    teacher: Float[Tensor, "t b s d"],
    flags: Int[Tensor, "b v"],
    temperature: float,
    *,
    raw_exponentials: bool = False,
    extra_term: bool = False,
) -> Float[Tensor, ""]:
    """Return the class token contrast in subspaces (A1): the base's L_ctc in every subspace, averaged over subspaces.

    Every subspace of an image counts as an image of its own, so L_ctc's mean runs over both; s = 1 is L_ctc. The
    teacher gets no gradient. The switches are those of `class_contrast_loss` (Deviations D6, D7).
    """
    # In the order of flatten(1, 2): all subspaces of the first image, then those of the next.
    folded = flags.repeat_interleave(student.shape[2], 0)
    return class_contrast_loss(
        student.flatten(1, 2),
        teacher.flatten(1, 2),
        folded,
        temperature,
        raw_exponentials=raw_exponentials,
        extra_term=extra_term,
    )


def choose_anchors(
    labels: Int[Tensor, "b n"], generator: Generator, per_class: int = 64, total: int = 512
) -> Int[Tensor, "a 3"]:
    """Draw a class-balanced sample of labelled tokens: rows (image, token, label), ascending; none gives shape (0, 3).

    `labels` are 0 (background), class + 1 or IGNORE. The tokens of one label in one image form a group, which gives at
    most `per_class` of them. If that is more than `total` over the batch, all groups share one smaller quota. They give
    in rounds, one random token each, until `total` are drawn, so groups that could give more differ by at most one.
    `labels` and `generator` are on one device. A batch takes as many random numbers as it has tokens, so later draws do
    not depend on the labels. On an accelerator the host would have to wait for a count. There the rows are always
    min(total, tokens); missing anchors have the label IGNORE, which the losses leave out.
    """
    flat, width = labels.flatten(), labels.shape[1]
    shuffle = torch.randperm(len(flat), generator=generator, device=flat.device)
    image = torch.arange(len(flat), device=flat.device) // width
    # The round in which a token is drawn: how many of its group (image and label) come before it in the shuffle.
    turn = _occurrence((image * (IGNORE + 1) + flat)[shuffle])
    turn = turn.masked_fill((flat[shuffle] == IGNORE) | (turn >= per_class), len(flat))  # sorts behind all others
    in_rounds = turn.argsort(stable=True)[:total]  # stable: within a round in the order of the shuffle
    chosen, order = shuffle[in_rounds].sort()
    drawn = (turn[in_rounds] < len(flat))[order]
    anchors = torch.stack([chosen // width, chosen % width, flat[chosen].where(drawn, IGNORE)], 1)
    return anchors[drawn] if host.may_ask(labels) else anchors


def _occurrence(groups: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Count for each entry the earlier entries with the same number: 5 5 3 5 -> 0 1 0 2."""
    ordered, order = groups.sort(stable=True)
    # An entry's place in the sorted list, minus the place where its group begins; cummax carries the latter along.
    # roll compares the first entry with the last one, but its place is 0 either way.
    place = torch.arange(len(order), device=order.device)
    first = place.masked_fill(ordered == ordered.roll(1), 0).cummax(0).values
    return torch.empty_like(order).scatter(0, order, place - first)


def patch_subspace_loss(
    z: Float[Tensor, "a s d"],
    labels: Int[Tensor, " a"],
    images: Int[Tensor, " a"],
    temperature: float,
    *,
    across_images: bool = True,
    across_backgrounds: bool = False,
) -> Float[Tensor, ""]:
    """Return the supervised contrast of patch tokens (A2), averaged over the local batch, then over subspaces.

    l_i = -1/|P(i)| sum_{p in P(i)} log [ exp(z_i.z_p / T) / sum_{a in P(i) u N(i)} exp(z_i.z_a / T) ]. Positives P(i)
    are the other anchors of its label, in other images too. Negatives N(i) are the anchors of other labels. Two
    photographs' backgrounds need not look alike, so they are neither positives nor negatives of each other. Without
    `across_images` the same holds for every class. With `across_backgrounds` background is one label among others.
    Anchors without positives are left out of the mean; if none is left, the loss is 0 with a zero gradient. Anchors of
    label IGNORE take no part at all. `z` is normalised. logsumexp runs in float32, outside autocast.
    """
    positive, negative = _relations(labels, images, across_images, across_backgrounds)
    count = positive.sum(1)
    kept = count > 0
    # Rows left out of the mean still run through logsumexp, whose gradient is NaN for a row without entries.
    entries = positive | negative | ~kept[:, None]
    with torch.autocast(z.device.type, enabled=False):
        unit = upcast(z).movedim(1, 0)
        similarity = unit @ unit.mT / temperature
        attraction = (similarity * positive).sum(2) / count.clamp(min=1)
        terms = similarity.masked_fill(~entries, -torch.inf).logsumexp(2) - attraction
        return ((terms * kept).sum(1) / kept.sum().clamp(min=1)).mean()


def _relations(
    labels: Int[Tensor, " a"], images: Int[Tensor, " a"], across_images: bool, across_backgrounds: bool
) -> tuple[Bool[Tensor, "a a"], Bool[Tensor, "a a"]]:
    """Return the positives P and the negatives N of every anchor; row i is anchor i."""
    same = labels[:, None] == labels
    across = torch.where(labels == 0, across_backgrounds, across_images)
    comparable = across | (images[:, None] == images)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    used = (labels != IGNORE) & (labels[:, None] != IGNORE)
    return same & comparable & ~itself & used, ~same & used


def orthogonality_loss(projection: Float[Tensor, "s d m"]) -> Float[Tensor, ""]:
    """Return the orthogonality penalty of the subspaces (A3a): L_orth = mean_{k != l} ||P_k P_l^T||_F^2 / d.

    It is 0 if they are orthogonal, 1 if all have the same orthonormal basis. A single subspace gives 0 with a zero
    gradient. Runs outside autocast.
    """
    rows = upcast(projection).flatten(0, 1)
    with torch.autocast(rows.device.type, enabled=False):
        return _mean_between(rows @ rows.mT, projection.shape[0]) / projection.shape[1]


def decorrelation_loss(
    z: Float[Tensor, "a s d"], labels: Int[Tensor, " a"], by_label: bool = True
) -> Float[Tensor, ""]:
    """Return the decorrelation penalty (A3b): L_dec = mean_{k != l} mean_ab (C^kl_ab)^2, C^kl = z_k^T z_l / n.

    n counts the anchors. Each z is first centred by the mean of its label's anchors in the whole local batch. Without
    that, classes alone would correlate the subspaces, and the penalty would fight the contrast. (Without `by_label` the
    mean is that of all anchors.) Then each dimension is divided by its population deviation over all anchors + 1e-5,
    which makes C a correlation. Gradients run through mean and deviation. Anchors of label IGNORE take no part. A
    single subspace or no anchors give 0 with a zero gradient. Runs outside autocast.
    """
    with torch.autocast(z.device.type, enabled=False):
        embeddings = upcast(z).flatten(1)
        used = labels != IGNORE
        groups = labels if by_label else labels * ~used  # else all used anchors get label 0: one group
        same = (groups[:, None] == groups).to(embeddings.dtype)
        centred = (embeddings - same @ embeddings / same.sum(1, keepdim=True)) * used[:, None]
        count = used.sum().clamp(min=1).double()  # a scalar tensor acts like a Python number, without a wait
        # Where a dimension does not vary, the gradient of vector_norm is 0; that of a square root would be NaN.
        scaled = centred / (torch.linalg.vector_norm(centred, dim=0) / count.sqrt() + _EPSILON)
        return _mean_between(scaled.mT @ scaled / count, z.shape[1]) / z.shape[2] ** 2


def _mean_between(gram: Float[Tensor, "q q"], subspaces: int) -> Float[Tensor, ""]:
    """Return the squared Frobenius norm of a block, averaged over ordered pairs of different subspaces."""
    width = len(gram) // subspaces
    blocks = gram.square().reshape(subspaces, width, subspaces, width).sum((1, 3))
    different = ~torch.eye(subspaces, dtype=torch.bool, device=gram.device)
    return (blocks * different).sum() / max(subspaces * (subspaces - 1), 1)  # a single subspace has no pair
