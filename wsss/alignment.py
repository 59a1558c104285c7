"""Module B, cross-layer CAM structural alignment (CSA): student and teacher CAM, intensity, structure.

The equations B1 to B7 are this project's reconstruction (book, page Module B). The schedule of directions (B6) is
`schedule.direction_weights`, the sum over layers (B7) is `method.alignment_terms`. Everything here lives on the token
grid; n = i * j tokens, CAMs are in [0, 1].
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wsss.cam import class_scores, upcast

_EPSILON = 1e-6
"""Norm up to which a token's CAM vector has no direction (B4)."""


def student_cam(
    tokens: Float[Tensor, "b n d"],
    weight: Float[Tensor, "k d"],
    grid: tuple[int, int],
    valid: Bool[Tensor, "b i j"] | None,
    *,
    floor: float = 1e-3,
    through_classifier: bool = False,
) -> Float[Tensor, "b k i j"]:
    """Student CAM S of one layer (B1): single-scale, ReLU, per image and class (x - min) / max(max - min, floor).

    The gradient runs into `tokens` alone (and `weight` with `through_classifier`): classifier, minimum and maximum are
    detached, or the loss could be met by scaling. `floor` keeps a flat CAM's gradient bounded. Minimum and maximum are
    taken over `valid` tokens (None: all); the others are clipped to [0, 1].
    """
    # By moving the classifier the loss could be met without a change of the tokens.
    held = weight if through_classifier else weight.detach()
    raw = class_scores(upcast(tokens), upcast(held), grid).relu()
    outside = torch.zeros_like(raw, dtype=torch.bool) if valid is None else ~valid[:, None]
    seen = raw.detach()  # nor may the loss be met by scaling a CAM through its extremes
    high = seen.masked_fill(outside, 0.0).amax((2, 3), keepdim=True)
    low = seen.masked_fill(outside, torch.inf).amin((2, 3), keepdim=True).minimum(high)  # 0 without a valid token
    cam = (raw - low) / (high - low).clamp(min=floor)
    return torch.where(outside, cam.clamp(0, 1), cam)  # clamp has no gradient at 0 and at 1, where valid tokens lie


def teacher_cam(
    cam: Float[Tensor, "b k h w"], grid: tuple[int, int], sampling: str = "bilinear"
) -> Float[Tensor, "b k i j"]:
    """Teacher CAM T (B2): the normalised multi-scale CAM, detached, bilinear (no antialiasing) to the token grid as
    the labels of tokens are. `sampling` "area" averages over each token instead, which flattens the peaks."""
    # torch refuses align_corners for area.
    corners = False if sampling == "bilinear" else None
    return F.interpolate(upcast(cam.detach()), grid, mode=sampling, align_corners=corners)


def intensity_loss(
    student: Float[Tensor, "b k i j"],
    teacher: Float[Tensor, "b k i j"],
    label: Float[Tensor, "b k"],
    valid: Bool[Tensor, "b i j"],
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    """Response intensity (B3): smooth L1 of S - sg T, mean over present classes and valid tokens of the local batch.

    Quadratic below `beta` (a CAM difference). Without a present class or valid token 0, with a zero gradient.
    """
    counted = (label > 0)[:, :, None, None] & valid[:, None]
    error = F.smooth_l1_loss(upcast(student), upcast(teacher.detach()), reduction="none", beta=beta)
    return (error * counted).sum() / counted.sum().clamp(min=1)


def structure_loss(
    student: Float[Tensor, "b k i j"],
    teacher: Float[Tensor, "b k i j"],
    label: Float[Tensor, "b k"],
    valid: Bool[Tensor, "b i j"],
    *,
    background: bool = True,
    balance: bool = True,
    similar: float = 0.5,
) -> Float[Tensor, ""]:
    """Spatial structure (B5): mean of (A^s - sg A^t)^2 over pairs of different valid tokens of an image.

    A is the cosine affinity of tokens (B4). Pairs are pooled over the whole local batch; images without a present class
    have none. With `balance` the loss is half the mean over pairs with A^t >= `similar` plus half the mean over the
    others, because most pairs are alike; an empty group counts 0. Without it, the plain mean over all pairs.
    `background`: see `cam_affinity`. No pair: 0 with a zero gradient. Outside autocast.
    """
    with torch.no_grad():
        target = cam_affinity(teacher, label, background)
        tokens = valid.flatten(1) & (label > 0).any(1, keepdim=True)
        pairs = tokens[:, :, None] & tokens[:, None, :]
        pairs.diagonal(dim1=1, dim2=2).fill_(False)  # a token has affinity 1 to itself in both CAMs
        groups = [pairs & (target >= similar), pairs & (target < similar)] if balance else [pairs]
    error = (cam_affinity(student, label, background) - target).square()
    means = [(error * group).sum() / group.sum().clamp(min=1) for group in groups]
    return torch.stack(means).mean()


def cam_affinity(
    cam: Float[Tensor, "b k i j"], label: Float[Tensor, "b k"], background: bool = True
) -> Float[Tensor, "b n n"]:
    """Cosine affinity of CAM vectors (B4): A_ij = cos(v_i, v_j), v_i = [1 - max_{c in y} M_ci ; M_ci, c in y].

    Without `background` the first channel is left out. In float32, outside autocast.

    Absent classes are zeros in v. A token of norm <= 1e-6 has no direction: affinity 0 and no gradient, which would be
    of the order 1e6 (without the background channel only; with it no norm is below 0.7).
    """
    vectors = upcast(cam).flatten(2) * (label > 0)[:, :, None]
    if background:
        vectors = torch.cat([1 - vectors.amax(1, keepdim=True), vectors], 1)
    norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # The clamp stands inside: where() alone would pass the NaN gradient of 0 / 0 on.
    unit = torch.where(norm > _EPSILON, vectors / norm.clamp(min=_EPSILON), 0.0)
    with torch.autocast(cam.device.type, enabled=False):
        return unit.mT @ unit
