"""Training views of a photograph: image in, uint8 pixels out. All draws come from torch's default generator."""

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
"""Value of padding by the mode of an image: photographs, masks, numbers of pixels."""


def resize_square(
    image: Image.Image, size: int, plain: bool = False
) -> UInt8[Tensor, "3 q q"] | Float[Tensor, "3 q q"]:
    """Resize the whole photograph bilinearly to a square, for evaluation: with antialiasing, to whole grey levels.

    `plain` does neither, as the base does, which resizes the normalised image (Deviations D18). Normalising afterwards
    gives the same.
    """
    if not plain:
        return tv.pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR))
    pixels = tv.pil_to_tensor(image)[None].float()
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)[0]


def views(
    photograph: Image.Image, augment: Augment, compat: Compat, contrast: bool = True
) -> tuple[UInt8[Tensor, "3 h w"], _Box, UInt8[Tensor, "3 h w"] | None, UInt8[Tensor, "3 h w"] | None]:
    """Return view 1, its box (top, bottom, left, right), view 2 and the source of local crops.

    Only class token contrast needs the last two; without `contrast` they are None. View 1 is the same either way.
    """
    crop, main, box = _first(photograph, augment, compat)
    source = _flip(crop) if compat.local_flip else main  # D3: its own flip may mirror it against the CAM
    first = blur(_colour(main, augment), augment.blur, 1.0)
    if not contrast:
        return tv.pil_to_tensor(first), box, None, None  # the draws below come later, so view 1 does not depend on them
    local = blur(_colour(source, augment), augment.blur, 0.5)
    second = v2.RandomResizedCrop(
        augment.crop, augment.view_scale, interpolation=tv.InterpolationMode.BICUBIC, antialias=True
    )(photograph)
    second = v2.RandomSolarize(128, 0.2)(blur(_colour(_flip(second), augment), augment.blur, 0.1))
    return tv.pil_to_tensor(first), box, tv.pil_to_tensor(second), tv.pil_to_tensor(local)


def mask_view(mask: UInt8[np.ndarray, "h w"], augment: Augment, compat: Compat) -> UInt8[Tensor, "q q"]:
    """Return the true mask of view 1, 255 in its padding.

    Call it with the generator in the state that `views` started from, so that it makes the same draws.
    """
    _, main, _ = _first(Image.fromarray(mask), augment, compat)
    return tv.pil_to_tensor(main)[0]


def sources(size: tuple[int, int], augment: Augment, compat: Compat) -> Int[Tensor, "q q"]:
    """Return for every pixel of view 1 the number of the photograph's pixel that it shows; -1 in the padding.

    `size` is the photograph's (height, width); its pixels count row by row. For the generator see `mask_view`.
    """
    height, width = size
    pixels = Image.fromarray(np.arange(height * width, dtype=np.int32).reshape(height, width))
    _, main, _ = _first(pixels, augment, compat)
    return torch.from_numpy(np.array(main)).long()


def _first(image: Image.Image, augment: Augment, compat: Compat) -> tuple[Image.Image, Image.Image, _Box]:
    """Return a photograph's crop, its view 1 before colours change (the base flips it once more, D2), and its box.

    Masks and numbers of pixels are possible too; they are resized to the nearest pixel.
    """
    crop, box = random_crop(_flip(_random_scale(image, augment.scale)), augment.crop)
    return crop, _flip(crop) if compat.second_flip else crop, box


def random_crop(image: Image.Image, size: int) -> tuple[Image.Image, _Box]:
    """Cut a square crop at a random place; return it and its box, where it shows the image.

    A side shorter than `size` is padded, the image at a random offset: photographs with black, masks with 255, numbers
    of pixels with -1.
    """
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
    """Blur the image with the given probability, by a Gaussian whose radius is drawn from the range `radius`."""
    if not _chance(probability):
        return image
    return image.filter(ImageFilter.GaussianBlur(_uniform(*radius)))


def _chance(probability: float) -> bool:
    """Return True with the given probability."""
    return bool(torch.rand(()) < probability)


def _uniform(low: float, high: float) -> float:
    """Draw a number from [low, high)."""
    return low + (high - low) * float(torch.rand(()))


def _place(length: int, size: int) -> tuple[int, int, int]:
    """Draw the place of an image along one side: its start and end in the crop, and the crop's start in the image."""
    # One draw, whether the image is longer or shorter than the crop.
    offset = int(torch.randint(abs(length - size) + 1, ()))
    return (0, size, offset) if length >= size else (offset, offset + length, 0)


def _random_scale(image: Image.Image, scale: tuple[float, float]) -> Image.Image:
    factor = _uniform(*scale)
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    # Only colours may be averaged, not the labels of a mask or numbers of pixels.
    return image.resize(size, Image.Resampling.BILINEAR if image.mode == "RGB" else Image.Resampling.NEAREST)


def _colour(image: Image.Image, augment: Augment) -> Image.Image:
    """Jitter colours (.4, .4, .2, and the set hue) with probability .8; turn grey with probability .2.

    `augment.colour` is a factor on these three strengths and on the chance of grey.
    """
    if _chance(0.8):
        image = v2.ColorJitter(*(augment.colour * x for x in (0.4, 0.4, 0.2)), augment.hue)(image)
    return v2.RandomGrayscale(0.2 * augment.colour)(image)
