"""Photographs are upright and of 8 bits, masks hold the numbers that their files store, everything else is refused."""

import re
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from pngs import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, write_png
from running import Photo, own_set, run, tiny

from wsss import datasets
from wsss.data import check, pictures
from wsss.explore import sources
from wsss.inference import predictions
from wsss.paths import UserError

CORNERS = np.zeros((24, 40, 3), np.uint8)
CORNERS[:12, :20], CORNERS[:12, 20:], CORNERS[12:, :20] = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def stored(path: Path, upright: np.ndarray, orientation: int) -> Path:
    """A picture whose pixels lie as a camera with this EXIF orientation stores them (EXIF 2.32, by hand)."""
    flip = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 2, 7: 3, 8: 1}[orientation]  # bit 0: left and right, bit 1: up and down
    lying = upright.swapaxes(0, 1) if orientation > 4 else upright
    if orientation in (6, 8):  # turned, not mirrored
        lying = lying[::-1] if orientation == 6 else lying[:, ::-1]
    else:
        lying = lying[::-1] if flip & 2 else lying
        lying = lying[:, ::-1] if flip & 1 else lying
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(lying)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("orientation", "suffix"), [*((number, ".jpg") for number in range(1, 9)), (6, ".png"), (5, ".tiff"), (8, ".webp")]
)
def test_every_orientation_is_upright(tmp_path, orientation, suffix):
    """As viewers show it: also against Pillow's own way."""
    path = stored(tmp_path / f"photo{suffix}", CORNERS, orientation)
    image = pictures.read_image(path)
    assert image.size == pictures.upright_size(path) == (40, 24)
    assert np.abs(np.asarray(image).astype(int) - CORNERS)[2:-2:4, 2:-2:4].mean() < 12
    with Image.open(path) as raw:
        assert np.array_equal(np.asarray(image), np.asarray(ImageOps.exif_transpose(raw).convert("RGB")))


BROKEN = (
    b"Exif\0\0",
    b"Exif\0\0MM\0*\0\0\0\x08",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"nonsense",
    b"Exif\0\0MM\0*" + b"\xff" * 40,
)


def test_broken_exif_and_an_orientation_that_is_none_leave_the_picture(tmp_path):
    for number in (0, 9, 300, *BROKEN):
        exif = Image.Exif() if isinstance(number, int) else number
        if isinstance(number, int):
            exif[0x0112] = number
        Image.fromarray(CORNERS).save(tmp_path / "a.jpg", exif=exif)
        assert pictures.read_image(tmp_path / "a.jpg").size == (40, 24)


DEPTHS = {
    "12 bits in 16": (lambda grey: grey.astype(int) * 16, 16),
    "16 bits": (lambda grey: grey.astype(int) * 257, 16),
    "a band": (lambda grey: grey.astype(int) + 29000, 16),
}


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind, channels", [(GREY, 1), (GREY_ALPHA, 2), (RGB, 3), (RGBA, 4)])
@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_photographs_are_scaled_by_their_own_range(tmp_path, capsys, depth, kind, channels, interlaced):
    """The same picture with 8 bits, from 0 to 255, is what comes out; transparency is not a part of the range."""
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    colours = np.stack([grey, grey[::-1], grey[:, ::-1]], 2) if channels > 2 else grey[..., None].repeat(3, 2)
    change, bits = DEPTHS[depth]
    pixels = change(colours[..., : max(channels - (channels in (2, 4)), 1)])
    if channels in (2, 4):
        pixels = np.concatenate([pixels, np.full((8, 32, 1), 65535)], 2)
    path = write_png(tmp_path / "a.png", pixels, bits, kind, interlaced)
    pictures._say_once.cache_clear()
    assert np.array_equal(np.asarray(pictures.read_image(path)), colours)
    pictures.read_image(path)
    assert capsys.readouterr().err.count("more than 8 bits") == 1, "said once"


def test_a_deep_photograph_of_one_value_and_one_that_is_turned(tmp_path):
    write_png(tmp_path / "flat.png", np.full((4, 6), 700), 16)
    assert not np.asarray(pictures.read_image(tmp_path / "flat.png")).any()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(CORNERS[..., 0].astype(np.uint16) * 4).save(tmp_path / "turned.png", exif=exif)
    assert pictures.read_image(tmp_path / "turned.png").size == (24, 40)


def deep_tiff(path: Path) -> None:
    """Two pixels of three times 16 bits: the header and its table of contents, by hand."""
    rows = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140)]
    rows += [(277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 12), (284, 3, 1, 1)]
    table = struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)
    path.write_bytes(b"II*\0\x08\0\0\0" + table + struct.pack("<HHH", 16, 16, 16) + bytes(range(12)))


@pytest.mark.parametrize(
    ("save", "says"),
    [
        (lambda path: Image.fromarray(np.ones((4, 6), np.float32)).save(path, "TIFF"), "32 bits .mode F"),
        (lambda path: Image.fromarray(np.ones((4, 6), np.int32)).save(path, "TIFF"), "32 bits .mode I"),
        (deep_tiff, "is a TIFF of 16 bits a channel"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0"), "cannot be decoded"),
    ],
)
def test_photographs_that_are_refused(tmp_path, save, says):
    save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=f"a.tif .*{says}"):
        pictures.read_image(tmp_path / "a.tif")


ODD = {
    "CMYK": lambda grey, path: grey.convert("CMYK").save(path, "JPEG", quality=100),
    "transparent palette": lambda grey, path: grey.convert("P").save(path, "PNG", transparency=bytes([0, 128])),
    "transparent grey": lambda grey, path: grey.save(path, "PNG", transparency=3),
    "LA": lambda grey, path: grey.convert("LA").save(path, "PNG"),
    "GIF": lambda grey, path: grey.save(path, "GIF", save_all=True, append_images=[grey.point(lambda x: 0)]),
    "APNG": lambda grey, path: grey.save(path, "PNG", save_all=True, append_images=[grey.point(lambda x: 0)]),
    "MPO": lambda grey, path: grey.convert("RGB").save(
        path, "MPO", quality=100, save_all=True, append_images=[grey.convert("RGB").point(lambda x: 0)]
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_other_modes_and_the_first_picture_of_several(tmp_path, kind):
    grey = np.arange(0, 250, 5, dtype=np.uint8)[None].repeat(8, 0)
    ODD[kind](Image.fromarray(grey), tmp_path / "a.png")
    mine = np.asarray(pictures.read_image(tmp_path / "a.png")).astype(int)
    assert mine.shape == (8, 50, 3) and np.abs(mine - grey[..., None]).max() <= 2


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A set whose photographs lie on their side and whose masks are upright: the red corner is class 1."""
    root = own_set(tmp_path / "turned", [Photo(), Photo()], names=["corner"])
    for path in sorted((root / "JPEGImages").iterdir()):
        upright = CORNERS.copy()
        upright[20:, 30:] = len(path.stem) * 9 + int(path.stem[-1])  # no two alike
        stored(path, upright, 6)
        mask = np.zeros((24, 40), np.uint8)
        mask[:12, :20] = 1
        pictures.write_mask(root / f"SegmentationClass/{path.stem}.png", mask)
    return root


def test_photograph_and_mask_lie_alike_wherever_they_are_read(turned, tmp_path):
    sample = datasets.sample(datasets.Split(turned, "val"), 0, 32)
    assert sample.pixels[sample.mask == 1].mean(0)[0] > 230 and sample.mask.shape == (24, 40)
    shown = sources.of_set(turned, "val", ("corner",), 1)[0]
    assert np.asarray(shown.image)[shown.truth == 1].mean(0)[0] > 230
    alone = sources.of_folder(turned / "JPEGImages", 1)[0]
    assert alone.image.size == (40, 24)
    assert run("data", "check", turned) == 0
    assert run(*tiny(turned, tmp_path / "out")) == 0
    assert run("evaluate", tmp_path / "out/turned/tiny/0", "--protocol", "voc", "--scales", "1", "--workers", 1) == 0
    made = tmp_path / "out/turned/tiny/0/predictions"
    assert {pictures.read_image(path).size for path in made.rglob("*.png")} == {(40, 24)}


def test_a_mask_that_fits_the_picture_as_stored_is_named(turned, tmp_path, refused):
    path = turned / "SegmentationClass/val_1.png"
    pictures.write_mask(path, np.ascontiguousarray(np.asarray(Image.open(path)).T))
    says = "is 24x40 and fits .*val_1.jpg as stored, but the photograph's EXIF orientation .6. turns it to 40x24"
    assert re.search(f"val_1.png {says}", refused(*tiny(turned, tmp_path / "out")))
    assert [bool(re.search(says, fault)) for fault in check.check(turned)[1]] == [True]


VALUES = np.array([[0, 1, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1, 1]])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "kind"), [*product((1, 2, 4, 8), (GREY, PALETTE)), (16, GREY)])
def test_masks_hold_the_values_that_their_files_store(tmp_path, bits, kind, interlaced):
    top = min(2**bits - 1, 254)
    mask = np.where(VALUES, np.arange(21).reshape(3, 7) % top + 1, 0)
    mask[0, 0] = top
    palette = bytes(pictures.VOC_PALETTE[: 3 * 2 ** min(bits, 8)]) if kind == PALETTE else b""
    path = write_png(tmp_path / "a.png", mask, bits, kind, interlaced, palette)
    assert np.array_equal(pictures.read_mask(path, (7, 3), 254), mask)
    assert not predictions.fault(path, (7, 3), top + 1) or kind == GREY


REFUSED_MASKS = {
    "grey with alpha": (lambda p: Image.new("LA", (7, 3)).save(p), "is of mode LA, a colour picture"),
    "colours": (lambda p: Image.new("RGB", (7, 3)).save(p), "is of mode RGB, a colour picture"),
    "large values": (lambda p: write_png(p, VALUES * 257, 16), "holds the value 257"),
    "JPEG": (lambda p: Image.new("L", (7, 3)).save(p, "JPEG"), "is a JPEG, whatever its name"),
    "turned": (lambda p: stored(p, VALUES.astype(np.uint8), 3), "has an EXIF orientation"),
    "values": (lambda p: write_png(p, VALUES * 9, 4), "holds the value 9, but only 0..2 and 255"),
}


@pytest.mark.parametrize("kind", REFUSED_MASKS)
def test_masks_that_are_refused(tmp_path, kind):
    spoil, says = REFUSED_MASKS[kind]
    spoil(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"a.png {says}"):
        pictures.read_mask(tmp_path / "a.png", (7, 3), 2)


def packed(path: Path, mask: np.ndarray, order: list[int]) -> None:
    """The mask as an optimiser leaves it: palette entries in `order` of VOC's, values moved with them."""
    colours, moved = pictures.VOC_PALETTE, np.zeros_like(mask)
    for place, value in enumerate(order):
        moved[mask == value] = place
    image = Image.fromarray(moved.astype(np.uint8))
    image.putpalette([channel for value in order for channel in colours[3 * value : 3 * value + 3]])
    image.save(path)


@pytest.mark.parametrize("order", [[0, 15], [15, 0], [0, 255, 15], [15]])
def test_a_packed_palette_of_voc_is_refused_by_every_reader(tmp_path, refused, order):
    root = own_set(tmp_path / "voc", [Photo(), Photo()])
    (root / "classes.txt").unlink()
    mask = np.full((40, 48), order[-1] if 0 not in order else 0)
    mask[:, 20:30] = 15
    for path in (root / "SegmentationClass").iterdir():
        pictures.write_mask(path, mask.astype(np.uint8))
    (tmp_path / "same").mkdir()
    packed(root / "SegmentationClass/val_0.png", mask, order)
    packed(tmp_path / "same/val_1.png", mask, order)
    assert any("val_0.png shows VOC's colour of" in fault for fault in check.check(root)[1])
    assert "val_0.png shows VOC's colour of" in refused(*tiny(root, tmp_path / "out"))
    (tmp_path / "ids.txt").write_text("val_1\n")
    words = ("score", tmp_path / "same", root / "SegmentationClass", "--ids", tmp_path / "ids.txt", "--num-classes", 21)
    assert "val_1.png shows VOC's colour of" in refused(*words)


def test_white_beside_a_packed_palette_hides_nothing(tmp_path):
    """Many draw what is ignored in white; a mask of white alone tells nothing."""
    person, white = pictures.VOC_PALETTE[45:48], [255, 255, 255]
    write_png(tmp_path / "a.png", np.array([[0, 1, 2]]), 8, PALETTE, palette=bytes([0, 0, 0, *person, *white]))
    with pytest.raises(UserError, match="shows VOC's colour of 15 at the value 1"):
        pictures.read_mask(tmp_path / "a.png", None, 20)
    write_png(tmp_path / "b.png", np.array([[0, 1]]), 8, PALETTE, palette=bytes([0, 0, 0, *white]))
    assert pictures.read_mask(tmp_path / "b.png", None, 20).tolist() == [[0, 1]]


OTHERS = (
    [(value, value, value) for value in range(256)],
    [(0, 0, 0)] * 256,
    [(255, 255, 255), (255, 0, 0), (0, 0, 255)],
    [(0, 0, 0), tuple(pictures.VOC_PALETTE[24:27]), tuple(pictures.VOC_PALETTE[36:39])],
    [(0, 0, 0)],
)
"""Grey, one black, red and white, VOC's of a chosen class, short."""


@pytest.mark.parametrize("palette", OTHERS, ids=len)
def test_palettes_of_other_sets_are_fine(tmp_path, palette):
    colours = bytes(channel for colour in palette for channel in colour)
    write_png(tmp_path / "a.png", np.array([[0, 1, 2, 255]]), 8, PALETTE, palette=colours)
    assert pictures.read_mask(tmp_path / "a.png", None, 2).tolist() == [[0, 1, 2, 255]]
