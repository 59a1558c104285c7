"""Segmentation scores of photographs at several scales, with mirror images, as the final protocols combine them."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from wsss import transforms
from wsss.protocols import Protocol, Size, limited, scaled_size

_COMBINE: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "max": torch.maximum}


def limit(photograph: Image.Image, longest: int | None) -> Image.Image:
    """Shrink a photograph bilinearly, with antialiasing, so that its longer side is at most `longest` (None: any)."""
    size = limited(photograph.size, longest)
    return photograph if size == photograph.size else photograph.resize(size, Image.Resampling.BILINEAR)


def pixels(photograph: Image.Image, protocol: Protocol) -> UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"]:
    """Return the photograph's pixels at scale 1, not normalised: at its own size, or squashed by `protocol`."""
    if not protocol.size:
        return pil_to_tensor(photograph)
    return transforms.resize_square(photograph, protocol.size, protocol.plain_squash)


@torch.inference_mode()
def scores(
    network: Callable[[Tensor], Tensor],
    image: Float[Tensor, "b 3 h w"],
    sizes: Sequence[Size],
    protocol: Protocol,
    patch: int,
) -> list[Float[Tensor, "c p q"]]:
    """Return the combined float32 logits of images of one size, each at the size (p, q) of its own photograph.

    `network` gives logits on the token grid. A side that is no multiple of the patch loses its remainder there, but
    keeps at least one patch. The logits are then stretched over the whole photograph. The logits of every pass are
    resized, bilinearly, *before* they are combined: the maximum of resized maps is not the resized maximum.
    voc: at each scale the sum of logits and mirrored logits, then the maximum over scales. coco: the maximum of the
    mirror pair, then the sum over scales. Source: the base's evaluation (page 'Data and evaluation').
    """
    combined: list[Tensor | None] = [None] * len(sizes)
    over_flip, over_scales = _COMBINE[protocol.over_flip], _COMBINE[protocol.over_scales]
    for scale in protocol.scales:
        scaled = resize(image, scaled_size(tuple(image.shape[2:]), scale, patch))
        logits = network(torch.cat([scaled, scaled.flip(3)]) if protocol.flip else scaled).float()
        for row, size in enumerate(sizes):
            maps = resize(logits[row :: len(sizes)], size)  # of the image and, with flip, of its mirror image
            single = over_flip(maps[0], maps[1].flip(2)) if protocol.flip else maps[0]
            before = combined[row]
            combined[row] = single if before is None else over_scales(before, single)
    return combined


def resize(maps: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c p q"]:
    """Resize maps bilinearly (align_corners=False), without antialiasing; maps of that size stay as they are."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
