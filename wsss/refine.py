"""Pixel-adaptive refinement (PAR) of masks by the colours around each pixel, and the pseudo labels of segmentation made
with it. Written from the description of the base (ToCo, Ru et al., CVPR 2023)."""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from wsss.cam import box_mask, upcast, whole_box
from wsss.config import IGNORE

_DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances in pixels of the rings of eight neighbours."""
_WIDTH = 0.3
"""Width of the colour kernel and of the distance kernel, in standard deviations over the neighbours."""
_DISTANCE_WEIGHT = 0.01
"""Weight of the distance kernel; the colour kernel has weight 1."""
_EPSILON = 1e-8
"""Added to a standard deviation before the division by it (R1)."""


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    """List the offsets (rows down, columns right) of the neighbours, eight at each dilation."""
    ring = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    return [(d * down, d * right) for d in dilations for down, right in ring]


@cache  # copied to a device once only, because the host waits for each copy of a list
def _around(dilations: tuple[int, ...], device: torch.device) -> Int[Tensor, "n 2"]:
    return torch.tensor(_offsets(dilations), device=device)


def _clamped(
    box: Int[Tensor, "b 4"], size: tuple[int, int], margin: int = 0
) -> tuple[Int[Tensor, "b i"], Int[Tensor, "b j"]]:
    """Map each of the rows -margin ... h + margin - 1 to the nearest row inside the box; the columns likewise."""
    sides = []
    for length, start, stop in zip(size, (box[:, 0], box[:, 2]), (box[:, 1], box[:, 3]), strict=True):
        places = torch.arange(-margin, length + margin, device=box.device)
        inside = torch.minimum(places[None], stop[:, None] - 1)
        # The start wins over the stop: a box without a pixel counts as its top left corner.
        sides.append(torch.maximum(inside, start[:, None]).clamp(0, length - 1))
    return sides[0], sides[1]


def repeat_edge(x: Float[Tensor, "b c h w"], box: Int[Tensor, "b 4"], margin: int = 0) -> Float[Tensor, "b c i j"]:
    """Replace all values outside the box by the nearest one inside, and enlarge the image by `margin` on each side."""
    rows, columns = _clamped(box, (x.shape[2], x.shape[3]), margin)
    each = zip(x, rows, columns, strict=True)
    return torch.stack([image.index_select(1, row).index_select(2, column) for image, row, column in each])


def neighbour_weights(
    image: Float[Tensor, "b 3 h w"], box: Int[Tensor, "b 4"], dilations: tuple[int, ...] = _DILATIONS
) -> Float[Tensor, "b h w n"]:
    """Return the weights of the n = 8 x dilations neighbours of every pixel (R1, R2); they sum to 1.01.

    Both parts are a softmax over the neighbours: the colour part of -(|dI| / (sd + 1e-8) / 0.3)^2, averaged over the
    three colours; the distance part, times 0.01, of -(distance / sd / 0.3)^2. Each sd is the unbiased deviation over
    the neighbours. Neighbours beyond the box are the nearest pixels inside it.
    """
    around, (height, width) = _offsets(dilations), image.shape[2:]
    margin = max(dilations)
    padded = repeat_edge(image, box, margin)

    def shifted(down: int, right: int) -> Tensor:
        top, left = margin + down, margin + right
        return padded[:, :, top : top + height, left : left + width]

    views = [shifted(*offset) for offset in around]
    # The mean first: a running sum of squares would lose the deviation of a nearly even neighbourhood to rounding.
    mean = sum(views) / len(views)
    deviation = (sum((view - mean).square_() for view in views) / (len(views) - 1)).sqrt()
    scale = 1 / ((deviation + _EPSILON) * _WIDTH)
    centre = shifted(0, 0)
    colour = torch.stack([((view - centre) * scale).square_().mean(1).neg_() for view in views], 1).softmax(1)
    distance = _around(dilations, image.device).to(image.dtype).norm(dim=1)
    nearness = torch.softmax(-(distance / distance.std() / _WIDTH).square(), 0)
    # Planes are faster up to here, but the look-ups of `refine` need the weights of a pixel side by side.
    return colour.add_(nearness[:, None, None], alpha=_DISTANCE_WEIGHT).movedim(1, 3).contiguous()


def neighbours(
    box: Int[Tensor, "b 4"], size: tuple[int, int], dilations: tuple[int, ...] = _DILATIONS
) -> Int[Tensor, "m n"]:
    """Return the numbers of every pixel's n neighbours; the batch's pixels count row by row, image by image."""
    margin = max(dilations)
    rows, columns = (x.int() for x in _clamped(box, size, margin))
    around = _around(dilations, box.device) + margin
    down = rows[:, torch.arange(size[0], device=box.device)[:, None] + around[:, 0]]
    right = columns[:, torch.arange(size[1], device=box.device)[:, None] + around[:, 1]]
    first = torch.arange(len(box), dtype=torch.int32, device=box.device)[:, None, None] * (size[0] * size[1])
    return ((first + down * size[1])[:, :, None] + right[:, None]).flatten(0, 2)


@torch.no_grad()
def refine(
    image: Float[Tensor, "b 3 h w"],
    masks: Float[Tensor, "b c i j"],
    box: Int[Tensor, "b 4"] | None = None,
    iterations: int = 10,
    dilations: tuple[int, ...] = _DILATIONS,
) -> Float[Tensor, "b c h w"]:
    """Refine masks by the image (R3): `iterations` times, every pixel becomes the weighted sum of its neighbours.

    The weights sum to 1.01. `image` is in 0..255. Masks of another size are first resized to the image's, bilinearly
    with aligned corners. `box` (top, bottom, left, right in pixels of `image`; half open) is the photograph: neighbours
    beyond it are the nearest pixels inside, and the result outside it repeats the nearest result inside. Without a box,
    the image's border takes its place, and padding takes part, as in the base (Deviations D16). Runs outside autocast,
    without gradient.
    """
    batch, size = len(image), (image.shape[2], image.shape[3])
    with torch.autocast(image.device.type, enabled=False):
        image = upcast(image)
        masks = masks.to(image.dtype)
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=True)  # aligned only here, as in the base
        edges = whole_box(batch, size, image.device) if box is None else box
        if iterations > 0:
            # embedding_bag looks up whole pixels and sums them, so no tensor of the size of 48 masks is made.
            weights = neighbour_weights(image, edges, dilations).flatten(0, 2)
            index = neighbours(edges, size, dilations)
            values = masks.movedim(1, 3).flatten(0, 2)
            for _ in range(iterations):
                values = F.embedding_bag(index, values, mode="sum", per_sample_weights=weights)
            masks = values.unflatten(0, (batch, *size)).movedim(3, 1)
        return masks if box is None else repeat_edge(masks, box)


@torch.no_grad()
def segmentation_labels(
    image: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"],
    cam: Float[Tensor, "b k h w"],
    label: Float[Tensor, "b k"],
    box: Int[Tensor, "b 4"],
    low: float,
    high: float,
    *,
    across_box: bool = False,
    iterations: int = 10,
    most: int | None = None,
) -> Int[Tensor, "b h w"]:
    """Return refined pseudo labels (R4, R5): class + 1, 0 background, IGNORE where unsure and outside the box.

    `image` is in 0..255, `cam` in 0..1. Scores are a softmax over a constant background and the CAMs of the image's own
    classes. They are refined at half the size and resized back, and the largest wins: once with background `high`, once
    with `low`. The label is the first result's class; background where both say background; else IGNORE. `across_box`
    refines across the box's edge, as the base does (Deviations D16); otherwise nothing outside the box has any
    influence. `iterations` 0 leaves the refinement out. `most` is the largest number of classes of one image; None: it
    is read from `label`. Runs outside autocast, without gradient.
    """
    height, width = image.shape[2:]
    half = (max(1, height // 2), max(1, width // 2))
    with torch.autocast(image.device.type, enabled=False):
        planes, classes = _present_planes(upcast(cam), label, most)
        pixels = upcast(image)
        if not across_box:
            planes, pixels = repeat_edge(planes, box), repeat_edge(pixels, box)
        planes, pixels = (F.interpolate(x, half, mode="bilinear", align_corners=False) for x in (planes, pixels))
        # An image with fewer classes than another has empty slots; -inf gives them probability 0.
        planes = planes.masked_fill((classes == 0)[:, :, None, None], -torch.inf)
        levels = [F.pad(planes, (0, 0, 0, 0, 1, 0), value=level).softmax(1) for level in (high, low)]
        smaller = None if across_box else _shrunk(box, (height, width), half)
        refined = refine(pixels, torch.cat(levels, 1), smaller, iterations)
        refined = F.interpolate(refined.contiguous(), (height, width), mode="bilinear", align_corners=False)
    # `strict` had to beat the high background, so a pixel where it wins is surely foreground.
    (strict, slot), (loose, _) = (x[:, 1:].max(1) for x in refined.chunk(2, 1))
    strict_background, loose_background = (x[:, 0] for x in refined.chunk(2, 1))
    winner = classes.gather(1, slot.flatten(1)).view_as(slot)
    unsure = torch.where(loose_background >= loose, 0, IGNORE)
    labels = torch.where(strict > strict_background, winner, unsure)
    return labels.masked_fill(~box_mask(box, (height, width)), IGNORE)


def _present_planes(
    cam: Float[Tensor, "b k h w"], label: Float[Tensor, "b k"], most: int | None
) -> tuple[Float[Tensor, "b s h w"], Int[Tensor, "b s"]]:
    """Return the CAMs of each image's own classes and their numbers + 1; 0 where an image has fewer than another."""
    # A stable sort by presence brings the present classes to the front and keeps their order.
    present, classes = (label > 0).sort(dim=1, descending=True, stable=True)
    slots = max(1, int(present.sum(1).max()) if most is None else most)
    present, classes = present[:, :slots], classes[:, :slots]
    planes = torch.stack([maps.index_select(0, chosen) for maps, chosen in zip(cam, classes, strict=True)])
    return planes, (classes + 1) * present


def _shrunk(box: Int[Tensor, "b 4"], size: tuple[int, int], half: tuple[int, int]) -> Int[Tensor, "b 4"]:
    """Return the box at half the size: every pixel there that shows a part of it."""
    top, bottom, left, right = box.unbind(1)
    starts = [x * small // large for x, small, large in zip((top, left), half, size, strict=True)]
    # -(-a // b) rounds up.
    stops = [-(-x * small // large) for x, small, large in zip((bottom, right), half, size, strict=True)]
    return torch.stack([starts[0], stops[0], starts[1], stops[1]], 1)
