"""Segmentation scores of photographs at several scales, with their mirror images, as the final protocols have them."""

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
    """Shrink a photograph to its limited size: bilinear, with antialiasing."""
    size = limited(photograph.size, longest)
    return photograph if size == photograph.size else photograph.resize(size, Image.Resampling.BILINEAR)


def pixels(photograph: Image.Image, protocol: Protocol) -> UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"]:
    """Read the photograph at scale 1, not normalised: its own size, or squashed."""
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
