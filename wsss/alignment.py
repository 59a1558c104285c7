"""Module B, cross-layer CAM structural alignment (CSA): student and teacher CAM, intensity, structure, direction.

Source: the page Module B. The equations are this project's reconstruction; each choice stands where it is made.
Everything lives on the token grid; n = i * j tokens, CAMs are in [0, 1].
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wsss.cam import scores
from wsss.losses import upcast
from wsss.paths import UserError

EPSILON = 1e-6
DIRECTIONS = ("aux_to_last", "last_to_aux", "both", "scheduled")


def student_cam(
    tokens: Float[Tensor, "b n d"],
    weight: Float[Tensor, "k d"],
    grid: tuple[int, int],
    valid: Bool[Tensor, "b i j"] | None,
    floor: float = 1e-3,
    through_classifier: bool = False,
) -> Float[Tensor, "b k i j"]:
    """S: the single-scale CAM of one layer, ReLU, per image and class (x - min) / max(max - min, floor) (Module B).

    The gradient runs into `tokens` alone (and `weight` with `through_classifier`): classifier, minimum and maximum are
    detached, or the loss could be met by scaling. `floor` keeps a flat CAM's gradient bounded. Minimum and maximum are
    taken over `valid` tokens (None: all); the others are clipped to [0, 1].
    """
    held = weight if through_classifier else weight.detach()
    raw = scores(upcast(tokens), upcast(held), grid).relu()
    outside = torch.zeros_like(raw, dtype=torch.bool) if valid is None else ~valid[:, None]
    seen = raw.detach()
    high = seen.masked_fill(outside, 0.0).amax((2, 3), keepdim=True)
    low = seen.masked_fill(outside, torch.inf).amin((2, 3), keepdim=True).minimum(high)
    cam = (raw - low) / (high - low).clamp(min=floor)
    return torch.where(outside, cam.clamp(0, 1), cam)  # clamp has no gradient at 0 and at 1, where valid tokens lie


def teacher_cam(
    cam: Float[Tensor, "b k h w"], grid: tuple[int, int], sampling: str = "bilinear"
) -> Float[Tensor, "b k i j"]:
    """T: the normalised multi-scale CAM, bilinear (no antialiasing) to the token grid as L_ptc samples it, detached
    (Module B). `sampling` "area" averages over each token, which flattens the peaks."""
    corners = False if sampling == "bilinear" else None
    return F.interpolate(upcast(cam.detach()), grid, mode=sampling, align_corners=corners)


def intensity_loss(
    student: Float[Tensor, "b k i j"],
    teacher: Float[Tensor, "b k i j"],
    label: Float[Tensor, "b k"],
    valid: Bool[Tensor, "b i j"],
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    """Smooth L1 of S - sg T, mean over present classes and valid tokens of the whole local batch (Module B).

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
    background: bool = True,
    balance: bool = True,
    similar: float = 0.5,
) -> Float[Tensor, ""]:
    """(A^s - sg A^t)^2 over pairs of different valid tokens of an image, A their cosine affinity (Module B).

    Pairs are pooled over the whole local batch; images without a present class have none. With `balance` half the mean
    over pairs with A^t >= `similar` plus half that over the others, an empty group counting 0, because most pairs are
    alike; else the plain mean over all. `background`: see `affinity`. No pair: 0 with a zero gradient. Outside
    autocast.
    """
    with torch.no_grad():
        target = affinity(teacher, label, background)
        tokens = valid.flatten(1) & (label > 0).any(1, keepdim=True)
        pairs = tokens[:, :, None] & tokens[:, None, :]
        pairs.diagonal(dim1=1, dim2=2).fill_(False)
        groups = [pairs & (target >= similar), pairs & (target < similar)] if balance else [pairs]
    error = (affinity(student, label, background) - target).square()
    means = [(error * group).sum() / group.sum().clamp(min=1) for group in groups]
    return torch.stack(means).mean()


def affinity(
    cam: Float[Tensor, "b k i j"], label: Float[Tensor, "b k"], background: bool = True
) -> Float[Tensor, "b n n"]:
    """A_ij = cos(v_i, v_j), v_i = [1 - max_{c in y} M_ci ; M_ci, c in y] (Module B); without `background` its first
    channel is left out. In float32, outside autocast.

    Absent classes are zeros in v. A token of norm <= 1e-6 has no direction: affinity 0 and no gradient, which would be
    of the order 1e6 (without the background channel only; with it no norm is below 0.7).
    """
    vectors = upcast(cam).flatten(2) * (label > 0)[:, :, None]
    if background:
        vectors = torch.cat([1 - vectors.amax(1, keepdim=True), vectors], 1)
    norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    unit = torch.where(norm > EPSILON, vectors / norm.clamp(min=EPSILON), 0.0)
    with torch.autocast(cam.device.type, enabled=False):
        return unit.mT @ unit


def direction_weights(progress: float, direction: str, crossing: float, ramp: float = 0.1) -> tuple[float, float]:
    """Weights of the ordered pairs (12 <- l, l <- 12): the last layer learns from the aux teacher, and the reverse
    (Module B). They sum to 1.

    `progress` is step / steps. `scheduled` goes from (1, 0) to (0, 1), linear over `ramp` of the run centred at
    `crossing`, where the last layer's CAM overtakes the aux layer's; `crossing` 0 means that it leads from the start,
    hence (0, 1) throughout. Raises UserError for a direction that is not one of the four.
    """
    fixed = {"aux_to_last": 0.0, "last_to_aux": 1.0, "both": 0.5}
    if direction not in DIRECTIONS:
        raise UserError(f"the direction of CAM alignment is {direction!r}, but must be one of {', '.join(DIRECTIONS)}")
    if direction in fixed:
        later = fixed[direction]
    elif crossing == 0:
        later = 1.0
    elif ramp == 0:
        later = float(progress >= crossing)
    else:
        later = min(max((progress - crossing) / ramp + 0.5, 0.0), 1.0)
    return 1 - later, later
