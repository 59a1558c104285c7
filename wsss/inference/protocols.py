"""The final protocols: segmentation scores of photographs at several scales, with their mirror images."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from wsss import transforms
from wsss.paths import UserError, did_you_mean

_COMBINE: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "max": torch.maximum}
SCALES = (1.0, 1.25, 1.5)
_LARGEST = 8.0
"""The largest scale that is taken for one that was meant."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Crf:
    """The dense CRF's numbers, as `crf.dense_crf` takes them."""

    iterations: int = 10
    gaussian: tuple[float, float] = (1.0, 1.0)
    """Sigma in pixels, weight."""
    bilateral: tuple[float, float, float] = (121.0, 5.0, 4.0)
    """Sigma in pixels, sigma in grey levels, weight."""
    merge: float | None = None
    """Classes whose probability is below it at every pixel take part as one; None: each by itself (the whole CRF)."""


@dataclass(frozen=True)
class Protocol:
    """Protocol of a final evaluation (page 'Data and evaluation')."""

    kind: str
    """voc or coco."""
    size: int | None
    """Side of the square that photographs are squashed to; None: their own size."""
    over_flip: str
    """Combination of the logits of an image and of its mirror image, at one scale: sum or max."""
    over_scales: str
    """Combination of the scales: sum or max."""
    scales: tuple[float, ...] = SCALES
    flip: bool = True
    crf: Crf | None = Crf()
    longest: int | None = None
    """Photographs whose longer side has more pixels are scaled down to it; None: their own size."""
    plain_squash: bool = False
    """Squash without antialiasing, as the run's compat says (Deviations D18)."""

    def changes(self) -> list[str]:
        """Name what departs from the protocol, the CRF's absence aside, in a part of a file's name; empty: nothing."""
        merge = self.crf.merge if self.crf else None
        names = {
            f"merge{merge}": merge is not None,
            "s" + "+".join(f"{scale:g}" for scale in self.scales): self.scales != SCALES,
            "noflip": not self.flip,
            f"longest{self.longest}": self.longest is not None,
        }
        return [name for name, departs in names.items() if departs]

    def numbers(self) -> dict[str, Any]:
        """Return all of it as plain values, for records; without what older records do not have and this one does not
        use, so that equal protocols are equal."""
        plain = dataclasses.asdict(self) | {"size": self.size or "native", "scales": list(self.scales)}
        for name in ("plain_squash", "longest"):
            if not plain[name]:
                del plain[name]
        crf = {
            name: list(x) if isinstance(x, tuple) else x for name, x in (plain["crf"] or {}).items() if x is not None
        }
        return plain | {"crf": crf or None}


PROTOCOLS = {
    "voc": Protocol("voc", size=None, over_flip="sum", over_scales="max"),
    "coco": Protocol("coco", size=448, over_flip="max", over_scales="sum"),
}


def protocol(
    kind: str,
    size: int = 448,
    scales: Sequence[float] = (),
    *,
    flip: bool | None = None,
    crf: bool | None = None,
    merge: float | None = None,
    longest: int | None = None,
) -> Protocol:
    """Return the protocol of that name, with what is given in the place of its own; `size` is the side that coco
    squashes to.

    Raises UserError for an unknown name, a scale that is repeated or not between 0 and 8, `merge` outside 0..1 or
    without CRF, `longest` below 1.
    """
    if kind not in PROTOCOLS:
        known = " and ".join(PROTOCOLS)
        raise UserError(f"there is no final protocol named {kind}{did_you_mean(kind, PROTOCOLS)}; there are {known}")
    usual = PROTOCOLS[kind]
    chosen = tuple(float(scale) for scale in scales) or usual.scales
    wrong = [scale for scale in chosen if not (math.isfinite(scale) and 0 < scale <= _LARGEST)]
    if wrong or len(set(chosen)) < len(chosen):
        fault = f"{wrong[0]:g} is none" if wrong else "one of them is there twice"
        raise UserError(f"--scales must be different numbers above 0, up to {_LARGEST:g}; {fault}")
    if merge is not None and (crf is False or not 0 < merge < 1):
        fault = "--crf is False" if crf is False else f"--crf-merge is {merge:g}"
        raise UserError(f"--crf-merge is a probability between 0 and 1 for the CRF, but {fault}; leave it out")
    if longest is not None and longest < 1:
        raise UserError(
            f"--longest is {longest}; it is a number of pixels above 0, or None for the photographs' own size"
        )
    return dataclasses.replace(
        usual,
        longest=longest,
        size=size if usual.size else None,
        scales=chosen,
        flip=usual.flip if flip is None else flip,
        crf=None if crf is False else Crf(merge=merge),
    )


def limited(size: Size, longest: int | None) -> Size:
    """Shrink a size so that its longer side is at most `longest`, its shape kept to a pixel; None: as it is."""
    share = 1.0 if longest is None else min(1.0, longest / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def limit(photograph: Image.Image, longest: int | None) -> Image.Image:
    """Shrink a photograph to its limited size: bilinear, with antialiasing."""
    size = limited(photograph.size, longest)
    return photograph if size == photograph.size else photograph.resize(size, Image.Resampling.BILINEAR)


def pixels(photograph: Image.Image, protocol: Protocol) -> UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"]:
    """Read the photograph at scale 1, not normalised: its own size, or squashed."""
    if not protocol.size:
        return pil_to_tensor(photograph)
    return transforms.resize_square(photograph, protocol.size, protocol.plain_squash)


def scaled_size(size: Size, scale: float, patch: int) -> Size:
    """Height and width at a scale, rounded down, but never less than one patch."""
    height, width = (max(patch, int(side * scale)) for side in size)
    return height, width


@torch.inference_mode()
def scores(
    network: Callable[[Tensor], Tensor],
    image: Float[Tensor, "b 3 h w"],
    sizes: Sequence[Size],
    protocol: Protocol,
    patch: int,
) -> list[Float[Tensor, "c p q"]]:
    """Combined logits in float32 of images of one size, each at the size (p, q) of its own photograph.

    `network` gives logits on the token grid; sides that are no multiple of the patch lose their remainder there (and
    keep one patch at least), and the logits are stretched over the whole photograph. The logits of every pass are
    resized, bilinearly, *before* anything is combined, since the maximum of resized maps is not the resized maximum.
    voc: per scale logits + mirrored logits, then the maximum over scales; coco: the maximum over the mirror pair, then
    the sum over scales. Source: the base's evaluation (page 'Data and evaluation').
    """
    combined: list[Tensor | None] = [None] * len(sizes)
    over_flip, over_scales = _COMBINE[protocol.over_flip], _COMBINE[protocol.over_scales]
    for scale in protocol.scales:
        scaled = resize(image, scaled_size(tuple(image.shape[2:]), scale, patch))
        logits = network(torch.cat([scaled, scaled.flip(3)]) if protocol.flip else scaled).float()
        for row, size in enumerate(sizes):
            maps = resize(logits[row :: len(sizes)], size)
            single = over_flip(maps[0], maps[1].flip(2)) if protocol.flip else maps[0]
            before = combined[row]
            combined[row] = single if before is None else over_scales(before, single)
    return combined


def resize(maps: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c p q"]:
    """Bilinear, pixel centres aligned, without antialiasing; maps of that size already stay as they are."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
