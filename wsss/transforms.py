"""Training views of a photograph: image in, uint8 pixels out. Randomness comes from torch's generator at the call."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from wsss.config import IGNORE, Augment, Compat

_Box = tuple[int, int, int, int]
_PADDING = {"RGB": 0, "L": IGNORE, "I": -1}
"""By the mode of an image: of photographs, masks and numbers of pixels."""


def resize_square(
    image: Image.Image, size: int, plain: bool = False
) -> UInt8[Tensor, "3 q q"] | Float[Tensor, "3 q q"]:
    """Resize the whole photograph bilinearly to a square, for evaluation: with antialiasing, to whole grey levels.

    `plain` without either, as the base resizes the normalised image (Deviations D18); to normalise later is the same.
    """
    if not plain:
        return tv.pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR))
    pixels = tv.pil_to_tensor(image)[None].float()
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)[0]


def views(
    photograph: Image.Image, augment: Augment, compat: Compat, contrast: bool = True
) -> tuple[UInt8[Tensor, "3 h w"], _Box, UInt8[Tensor, "3 h w"] | None, UInt8[Tensor, "3 h w"] | None]:
    """View 1, its box (top, bottom, left, right), view 2 and the source of local crops.

    Without `contrast` the last two, which serve class token contrast alone, are None; view 1 is the same either way.
    """
    crop, main, box = _first(photograph, augment, compat)
    source = _flip(crop) if compat.local_flip else main  # D3: the source of crops may be mirrored against the CAM
    first = blur(_colour(main, augment), augment.blur, 1.0)
    if not contrast:
        return tv.pil_to_tensor(first), box, None, None
    local = blur(_colour(source, augment), augment.blur, 0.5)
    second = v2.RandomResizedCrop(
        augment.crop, augment.view_scale, interpolation=tv.InterpolationMode.BICUBIC, antialias=True
    )(photograph)
    second = v2.RandomSolarize(128, 0.2)(blur(_colour(_flip(second), augment), augment.blur, 0.1))
    return tv.pil_to_tensor(first), box, tv.pil_to_tensor(second), tv.pil_to_tensor(local)


def mask_view(mask: UInt8[np.ndarray, "h w"], augment: Augment, compat: Compat) -> UInt8[Tensor, "q q"]:
    """Make the true mask of view 1, 255 in its padding: called with the generator as `views` found it, it draws the
    same."""
    _, main, _ = _first(Image.fromarray(mask), augment, compat)
    return tv.pil_to_tensor(main)[0]


def sources(size: tuple[int, int], augment: Augment, compat: Compat) -> Int[Tensor, "q q"]:
    """Number, for every pixel of view 1, the pixel of a photograph of `size` (height, width) that it shows, row by row;
    -1 in the padding. Called with the generator as `views` found it, it draws the same."""
    height, width = size
    pixels = Image.fromarray(np.arange(height * width, dtype=np.int32).reshape(height, width))
    _, main, _ = _first(pixels, augment, compat)
    return torch.from_numpy(np.array(main)).long()


def _first(image: Image.Image, augment: Augment, compat: Compat) -> tuple[Image.Image, Image.Image, _Box]:
    """Make the crop, view 1 before its colours change (the base flips it once more), and the box, of a photograph; or
    of a mask or of pixel numbers, which are resized to the nearest."""
    crop, box = random_crop(_flip(_random_scale(image, augment.scale)), augment.crop)
    return crop, _flip(crop) if compat.second_flip else crop, box


def random_crop(image: Image.Image, size: int) -> tuple[Image.Image, _Box]:
    """Cut a square crop at a random place; a side shorter than `size` is padded, the image at a random offset in it:
    photographs with black, masks with 255, other numbers with -1. The box is where the crop shows the image."""
    top, bottom, source_top = _place(image.height, size)
    left, right, source_left = _place(image.width, size)
    canvas = Image.new(image.mode, (size, size), _PADDING[image.mode])
    region = (source_left, source_top, source_left + right - left, source_top + bottom - top)
    canvas.paste(image.crop(region), (left, top))
    return canvas, (top, bottom, left, right)


def _flip(image: Image.Image) -> Image.Image:
    """Return the image or its mirror image, with equal chance."""
    return tv.horizontal_flip(image) if _chance(0.5) else image


def blur(image: Image.Image, radius: tuple[float, float], probability: float) -> Image.Image:
    """Gaussian blur with a radius drawn from the range, with the given probability."""
    if not _chance(probability):
        return image
    return image.filter(ImageFilter.GaussianBlur(_uniform(*radius)))


def _chance(probability: float) -> bool:
    """True with the given probability."""
    return bool(torch.rand(()) < probability)


def _uniform(low: float, high: float) -> float:
    """Draw a number from [low, high)."""
    return low + (high - low) * float(torch.rand(()))


def _place(length: int, size: int) -> tuple[int, int, int]:
    """Start and end in the crop, and start in the image, along one side."""
    # One draw whether the image is longer or shorter than the crop.
    offset = int(torch.randint(abs(length - size) + 1, ()))
    return (0, size, offset) if length >= size else (offset, offset + length, 0)


def _random_scale(image: Image.Image, scale: tuple[float, float]) -> Image.Image:
    factor = _uniform(*scale)
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.resize(size, Image.Resampling.BILINEAR if image.mode == "RGB" else Image.Resampling.NEAREST)


def _colour(image: Image.Image, augment: Augment) -> Image.Image:
    """Jitter (.4, .4, .2) and of the hue with probability .8, grey with probability .2, by the set strengths."""
    if _chance(0.8):
        image = v2.ColorJitter(*(augment.colour * x for x in (0.4, 0.4, 0.2)), augment.hue)(image)
    return v2.RandomGrayscale(0.2 * augment.colour)(image)
