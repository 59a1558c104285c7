"""The only way to open a photograph (upright, 8 bits per channel) or a mask (the class numbers that its file
stores)."""

import functools
import multiprocessing
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from wsss.config import IGNORE
from wsss.paths import UserError, note

UNDECODABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""Pillow's exceptions for a file that is no picture, or that claims to have more than 89 million pixels."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> turn that makes the stored picture upright (EXIF 2.32, tag 0x0112)."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""
DEEP = "photographs of more than 8 bits a channel are scaled, each by its own smallest and largest value"
_SCALED = {"L;2": 85, "L;4": 17}
"""Factor by which Pillow multiplies grey values of 2 and 4 bits."""
VOC_PALETTE = [sum((k >> (3 * bit + c) & 1) << (7 - bit) for bit in range(8)) for k in range(256) for c in range(3)]
"""The 256 colours of VOC's masks: the lowest bits of index k are the highest bits of red, green and blue."""
_VOC_INDEX = {tuple(VOC_PALETTE[3 * index : 3 * index + 3]): index for index in range(256)}
"""Colour of VOC's masks -> its class number."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings of broken EXIF, and make that of a huge picture an error.

    Threads share the filters of warnings, so code that reads pictures in several threads holds this around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # for 89 to 179 million pixels it only warns
        yield


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture with Pillow. Raises one of UNDECODABLE."""
    with quiet(), Image.open(path) as image:
        yield image


# Photographs.


def read_image(path: Path) -> Image.Image:
    """Read a photograph as RGB, upright by its EXIF orientation.

    An animation gives its first picture; transparency is dropped. More than 8 bits per channel are scaled by the file's
    own range, and a line on stderr says so once. Raises UserError if it cannot be decoded or holds numbers of 32 bits.
    """
    image, deep = open_photograph(path)
    if deep and multiprocessing.parent_process() is None:  # worker processes stay silent
        _say_once(f"note: {DEEP}")
    return image


def open_photograph(path: Path) -> tuple[Image.Image, bool]:
    """Read a photograph as `read_image` does, without a note; return it and whether it has more than 8 bits per
    channel."""
    try:
        with opened(path) as image:
            deep = ";16" in image.mode + _stored_as(image)
            if image.mode in ("F", "I") and not deep:
                raise UserError(f"{path} holds numbers of 32 bits (mode {image.mode}); save it with 8 or 16 bits")
            turn = _TURNS.get(orientation(image))
            pixels = _scaled(path, image) if deep else None
            # Pillow warns of a palette whose transparency is a list unless it becomes RGBA first
            plain = image.convert("RGBA") if "transparency" in image.info else image
            upright = plain.convert("RGB") if pixels is None else Image.fromarray(pixels).convert("RGB")
            return upright.transpose(turn) if turn is not None else upright, deep
    except UNDECODABLE as error:
        raise UserError(f"{path} cannot be decoded ({error}); replace the file") from error


def upright_size(path: Path) -> tuple[int, int]:
    """Return width and height of a photograph as `read_image` gives it, without reading its pixels. Raises
    UserError."""
    try:
        with opened(path) as image:
            size = image.size
            return size[::-1] if orientation(image) in SIDEWAYS else size
    except UNDECODABLE as error:
        raise UserError(f"{path} cannot be decoded ({error}); replace the file") from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened picture, 1 (upright) to 8; 1 if none can be read."""
    if image.format == "TIFF":
        image.load()  # Pillow turns a TIFF while it loads it
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises half a dozen kinds for EXIF that is cut short
        return 1
    return value if value in _TURNS else 1


def _stored_as(image: Image.Image) -> str:
    """Return Pillow's name for the storage of a PNG's or TIFF's pixels ("RGB;16B"); empty for other formats."""
    if image.format not in ("PNG", "TIFF") or not image.tile:
        return ""
    layout = image.tile[0][3]
    return layout if isinstance(layout, str) else str(layout[0])


def _scaled(path: Path, image: Image.Image) -> UInt8[np.ndarray, "*shape"]:
    """Return pixels (h, w) or (h, w, 3), scaled from their smallest and largest value to 0 and 255."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.float64)
    elif image.format == "PNG":
        from torchvision.io import decode_png, read_file  # Pillow reads the upper 8 of 16 bits alone

        colours = decode_png(read_file(str(path))).numpy().astype(np.float64).transpose(1, 2, 0)
        pixels = colours[..., :3] if colours.shape[2] > 2 else colours[..., 0]  # without transparency
    else:
        raise UserError(f"{path} is a {image.format} of 16 bits a channel; save it as PNG, or with 8 bits")
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) * (255 / max(high - low, 1))).round().astype(np.uint8)


_say_once = functools.cache(note)


# Masks.


def write_mask(path: Path, mask: UInt8[np.ndarray, "h w"]) -> None:
    """Write class numbers as an index PNG with VOC's palette."""
    picture = Image.fromarray(mask)
    picture.putpalette(VOC_PALETTE)
    picture.save(path)


def read_mask(
    path: Path, size: tuple[int, int] | None, classes: int, photograph: Path | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Read an index mask with values 0..classes and 255. Raises UserError.

    If `size` is given (width, height of the upright photograph), the mask must have it. VOC's colours at other indices
    are refused. `photograph`, a file, makes the error clearer.
    """
    mask, palette = read_index(path)
    sentence = size_fault(path, mask, size, photograph) if size else ""
    sentence = sentence or value_fault(path, mask, classes) or palette_fault(path, mask, palette, classes)
    if sentence:
        raise UserError(sentence)
    return mask


def read_index(path: Path) -> tuple[UInt8[np.ndarray, "h w"], Integer[np.ndarray, "n 3"]]:
    """Return the class numbers that a PNG stores, at any bit depth, and its palette (empty for grey). Raises
    UserError."""
    try:
        with opened(path) as image:
            kind, mode, stored, turn = image.format, image.mode, _stored_as(image), orientation(image)
            array, colours = np.array(image), image.getpalette() or []
    except UNDECODABLE as error:
        raise UserError(f"the mask {path} cannot be decoded ({error}); replace the file") from error
    if kind != "PNG":
        raise UserError(f"the mask {path} is a {kind}, whatever its name; save it as PNG, which keeps class numbers")
    if mode not in ("P", "L", "1", "I") and not mode.startswith("I;16"):
        raise UserError(
            f"the mask {path} is of mode {mode}, a colour picture; it must be an index image (palette or grey), so "
            "convert its colours to class numbers"
        )
    if turn != 1:
        raise UserError(f"the mask {path} has an EXIF orientation, so it is unclear which side is up; save it without")
    array = array // _SCALED.get(stored, 1) if stored in _SCALED else array
    if array.max(initial=0) > IGNORE:
        raise UserError(f"the mask {path} holds the value {array.max()}; class numbers end at 254, and 255 is ignored")
    return array.astype(np.uint8), np.array(colours, int).reshape(-1, 3)


def size_fault(path: Path, mask: UInt8[np.ndarray, "h w"], size: tuple[int, int], photograph: Path | None) -> str:
    """Return a sentence if the mask does not have the photograph's upright `size` (width, height), else nothing."""
    height, width = mask.shape
    if (width, height) == tuple(size):
        return ""
    turn = 1
    if photograph and (height, width) == tuple(size):
        with opened(photograph) as image:
            turn = orientation(image)
    if turn in SIDEWAYS:
        return (
            f"the mask {path} is {width}x{height} and fits {photograph} as stored, but the photograph's EXIF "
            f"orientation ({turn}) turns it to {size[0]}x{size[1]}; turn the mask, too, or remove the orientation"
        )
    return f"the mask {path} is {width}x{height}, but its image is {size[0]}x{size[1]}; replace it"


def value_fault(path: Path, mask: UInt8[np.ndarray, "h w"], classes: int) -> str:
    """Return a sentence if there are values other than 0..classes and 255, else nothing."""
    wrong = [value for value in _values(mask) if classes < value != IGNORE]
    if not wrong:
        return ""
    values = f"the value{'s' * (len(wrong) > 1)} {', '.join(map(str, wrong))}"
    return f"the mask {path} holds {values}, but only 0..{classes} and {IGNORE} have a meaning; replace it"


def palette_fault(path: Path, mask: UInt8[np.ndarray, "h w"], palette: Integer[np.ndarray, "n 3"], classes: int) -> str:
    """Return a sentence if a tool has packed VOC's palette, so that the mask's values lost their meaning; else nothing.

    Then all colours in use are VOC's of 0..classes and 255, but not all at their own numbers. Other palettes are no
    fault. 255 may have any colour. White tells nothing, since many draw 255 in it.
    """
    used = [value for value in _values(mask) if value != IGNORE]
    if not used or used[-1] >= len(palette):
        return ""
    used = [value for value in used if palette[value].min() < 255]
    places = [_VOC_INDEX.get(tuple(map(int, palette[value]))) for value in used]
    known = all(place is not None and (place <= classes or place == IGNORE) for place in places)
    if not known or places == used or len(set(places)) < len(places):
        return ""
    value, place = next(pair for pair in zip(used, places, strict=True) if pair[0] != pair[1])
    return (
        f"the mask {path} shows VOC's colour of {place} at the value {value}: a tool has packed its palette; write the "
        "class numbers themselves, as grey or with VOC's palette"
    )


def _values(mask: UInt8[np.ndarray, "h w"]) -> list[int]:
    """List the values that occur, ascending."""
    return np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
