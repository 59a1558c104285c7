"""Module B, cross-layer CAM structural alignment (CSA): student and teacher CAM, intensity, structure.

The equations B1 to B7 are this project's reconstruction (book, page Module B). `schedule.direction_weights` has the
schedule of directions (B6), `method.alignment_terms` the sum over layers (B7). All CAMs here lie on the token grid, in
[0, 1]; n = i * j counts the tokens.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wsss.cam import class_scores, upcast

_EPSILON = 1e-6
"""A token's CAM vector with a norm up to this has no direction (B4)."""


def student_cam(
    tokens: Float[Tensor, "b n d"],
    weight: Float[Tensor, "k d"],
    grid: tuple[int, int],
    valid: Bool[Tensor, "b i j"] | None,
    *,
    floor: float = 1e-3,
    through_classifier: bool = False,
) -> Float[Tensor, "b k i j"]:
    """Return the student CAM S of one layer (B1): single-scale, ReLU, then (x - min) / max(max - min, floor).

    Minimum and maximum are those of an image and class over `valid` tokens (None: all); other tokens are clipped to
    [0, 1]. The gradient reaches `tokens` only (and `weight` with `through_classifier`). Classifier, minimum and maximum
    are detached, because scaling alone could otherwise satisfy the loss. `floor` bounds the gradient of a flat CAM.
    """
    # Detached: otherwise the classifier could satisfy the loss while the tokens stay as they are.
    held = weight if through_classifier else weight.detach()
    raw = class_scores(upcast(tokens), upcast(held), grid).relu()
    outside = torch.zeros_like(raw, dtype=torch.bool) if valid is None else ~valid[:, None]
    seen = raw.detach()  # otherwise scaling a CAM through its extremes could satisfy the loss
    high = seen.masked_fill(outside, 0.0).amax((2, 3), keepdim=True)
    low = seen.masked_fill(outside, torch.inf).amin((2, 3), keepdim=True).minimum(high)  # 0 if no token is valid
    cam = (raw - low) / (high - low).clamp(min=floor)
    return torch.where(outside, cam.clamp(0, 1), cam)  # clamp has no gradient at 0 and at 1, where valid tokens lie


def teacher_cam(
    cam: Float[Tensor, "b k h w"], grid: tuple[int, int], sampling: str = "bilinear"
) -> Float[Tensor, "b k i j"]:
    """Return the teacher CAM T (B2): the normalised multi-scale CAM, detached and resized to the token grid.

    Resized bilinearly without antialiasing, as for the labels of tokens. `sampling` "area" averages over each token
    instead, which flattens the peaks.
    """
    # torch rejects any align_corners but None for area.
    corners = False if sampling == "bilinear" else None
    return F.interpolate(upcast(cam.detach()), grid, mode=sampling, align_corners=corners)


def intensity_loss(
    student: Float[Tensor, "b k i j"],
    teacher: Float[Tensor, "b k i j"],
    label: Float[Tensor, "b k"],
    valid: Bool[Tensor, "b i j"],
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    """Return the response intensity loss (B3): smooth L1 of S - sg T, averaged over present classes and valid tokens.

    The mean is over the local batch. The loss is quadratic below `beta` (a CAM difference). Without a present class or
    a valid token it is 0 with a zero gradient.
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
    """Return the spatial structure loss (B5): mean of (A^s - sg A^t)^2 over pairs of different valid tokens.

    A is the cosine affinity of tokens (B4). Both tokens of a pair are of one image. Pairs are pooled over the whole
    local batch; an image without a present class has none. Most pairs are similar, so with `balance` the loss is half
    the mean over pairs with A^t >= `similar` plus half the mean over the others. An empty group counts 0. Without
    `balance` it is the plain mean over all pairs. `background`: see `cam_affinity`. Without any pair it is 0 with a
    zero gradient. Runs outside autocast.
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
    """Return affinities of CAM vectors (B4): A_ij = cos(v_i, v_j), v_i = [1 - max_{c in y} M_ci ; M_ci, c in y].

    Without `background` the first channel is left out. Absent classes are zeros in v. A token of norm <= 1e-6 has no
    direction: its affinity is 0, and so is its gradient, which would be of the order 1e6. Only without the background
    channel can that happen; with it no norm is below 0.7. Runs in float32, outside autocast.
    """
    vectors = upcast(cam).flatten(2) * (label > 0)[:, :, None]
    if background:
        vectors = torch.cat([1 - vectors.amax(1, keepdim=True), vectors], 1)
    norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # The clamp is needed inside where(), which alone would pass on the NaN gradient of 0 / 0.
    unit = torch.where(norm > _EPSILON, vectors / norm.clamp(min=_EPSILON), 0.0)
    with torch.autocast(cam.device.type, enabled=False):
        return unit.mT @ unit
