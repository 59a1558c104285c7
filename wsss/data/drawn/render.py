"""Render shapes as pictures: objects with texture and light, backgrounds, shadows."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import RandomState

from wsss.data.drawn.raster import Number, Polygon, Pose, bands, between, blur, disc, ellipse, fill, noise, oklch, ramp
from wsss.data.drawn.shapes import Body, Glyph

_PART_SCALE = 1.0
"""Size of the distinctive part; at 1 it is 20 to 28 % of an object that is fully visible, and 19 to 32 pixels
across."""
_PAPER, _INK = (0.50, 0.16), (0.95, 0.03)
"""Lightness and chroma (OKLCH) of the part's ground and of the pattern on it."""
_TEXTURE = 0.07
"""Strength of the texture of bodies and backgrounds."""
_LIGHT = 0.12
"""Strength of the light: shading of bodies, slope and brightness over the image."""

_CAP = np.array([(0, -0.1), (1, 1), (0.45, 0.72), (0.1, 1.05), (-0.35, 0.7), (-1, 1)])
"""Snow on a peak at (0, 0)."""


@dataclass(frozen=True)
class Sprite:
    """One object in its own window: `canvas` (h, w, 4) float32, colour premultiplied by alpha; `part` (h, w) bool."""

    canvas: np.ndarray
    part: np.ndarray

    @property
    def alpha(self) -> np.ndarray:
        """Return the opacity (h, w), 0 to 1."""
        return self.canvas[..., 3]

    @property
    def mask(self) -> np.ndarray:
        """Return the mask (h, w) of the pixels where the object is at least half opaque."""
        return self.alpha >= np.float32(0.5)


def _palette(random: RandomState, part_hue: Number) -> dict[str, np.ndarray]:
    """Return opaque colours by role: a body of any hue, a second hue that goes with it, a dark, a light, and the
    part's."""
    hue = between(random, 0, 360)
    lightness, chroma = between(random, 0.60, 0.80), between(random, 0.06, 0.13)
    other = hue + (40, -40, 150, -150, 180)[random.randint(5)]
    colours = {
        "main": oklch(lightness, chroma, hue),
        "shade": oklch(lightness - 0.18, chroma, hue + 10),
        "tint": oklch(lightness + 0.11, chroma * 0.6, hue),
        "second": oklch(between(random, 0.55, 0.85), between(random, 0.05, 0.12), other),
        "dark": oklch(0.32, 0.04, hue),
        "light": oklch(0.95, 0.02, 90),
        "paper": oklch(*_PAPER, part_hue),
        "ink": oklch(*_INK, part_hue),
    }
    return {role: np.concatenate([colour, np.ones(1, np.float32)]) for role, colour in colours.items()}


def draw_object(random: RandomState, body: Body, glyph: Glyph, hue: Number, length: Number, degrees: int) -> Sprite:
    """Draw a body of `length` pixels, turned and perhaps mirrored, and on its part the pattern in the given hue."""
    turned = Pose(length, degrees, flip=bool(random.randint(2)))
    palette = _palette(random, hue)
    layers, (x, y, radius) = body(random)
    points = turned(np.concatenate([p for _, polygons in layers for p in polygons]))
    low = np.floor(points.min(0)) - 2
    width, height = (int(n) for n in np.ceil(points.max(0)) + 2 - low)
    pose = replace(turned, x=-low[0], y=-low[1])
    canvas = np.zeros((height, width, 4), np.float32)

    def paint(coverage: np.ndarray, colour: np.ndarray) -> None:
        canvas[:] += coverage[..., None] * (colour - canvas)

    texture = _texture(random, height, width, length)
    for role, polygons in layers:
        paint(fill(polygons, height, width, pose), palette[role] * texture)
    (x, y), radius = pose(np.array([[x, y]]))[0], radius * length * _PART_SCALE
    badge = disc(x, y, radius, height, width)
    paint(badge, palette["dark"])
    inside = disc(x, y, radius * 0.91, height, width)
    paint(inside, palette["paper"])
    # the pattern is not mirrored with the body: it is read like a painted sign
    sign = Pose(radius * 0.91, degrees + random.randint(-12, 13), x, y)
    for role, polygons in glyph:
        paint(np.minimum(fill(polygons, height, width, sign), inside), palette[role])
    return Sprite(canvas, badge >= np.float32(0.5))


def _texture(random: RandomState, height: int, width: int, length: Number) -> np.ndarray:
    """Return a factor (height, width, 4) on a body's colour and alpha: light from above, mottles, perhaps spots or
    bands."""
    factor = 1 - np.float32(_LIGHT) * ramp(height)[:, None]
    factor = factor + np.float32(_TEXTURE) * noise(random, height, width, length / 4, 2)
    kind, strength = random.randint(4), np.float32((-1, 1)[random.randint(2)] * _TEXTURE * 1.4)
    if kind == 0:
        factor += strength * fill(_discs(random, 20, (width, height), (0.02 * length, 0.05 * length)), height, width)
    if kind == 1:
        factor += strength * bands(height, width, random.randint(180), between(random, 0.10, 0.18) * length, 0.5)
    tinted = np.ones((height, width, 4), np.float32)
    tinted[..., :3] = factor[..., None]
    return tinted


def _discs(random: RandomState, count: int, extent: tuple[int, int], radius: tuple[Number, Number]) -> list[Polygon]:
    """Return discs anywhere in an extent (width, height), their radii between two numbers."""
    low, high = radius
    return [ellipse(x, y, low + r, corners=12) for x, y, r in random.random_sample((count, 3)) * (*extent, high - low)]


def background(random: RandomState, size: int, octaves: int = 4) -> np.ndarray:
    """Draw a textured ground, (size, size, 3) float32: two muted colours mixed by noise, perhaps hatch or soft
    discs."""
    hue = between(random, 0, 360)
    near = oklch(between(random, 0.55, 0.88), between(random, 0.02, 0.07), hue)
    far = oklch(between(random, 0.50, 0.85), between(random, 0.02, 0.07), hue + between(random, -60, 60))
    a, b = np.float32(between(random, -0.5, 0.5)), np.float32(between(random, -0.7, 0.7))
    mix = np.float32(0.6) * noise(random, size, size, size / between(random, 1.5, 4), octaves)
    mix = np.clip(mix + (np.float32(0.5) + a * ramp(size) + b * ramp(size)[:, None]), 0, 1)
    kind, strength = random.randint(3), np.float32(_TEXTURE * (-1, 1)[random.randint(2)])
    lift = np.zeros((), np.float32)
    if kind == 0:
        hatch = bands(size, size, random.randint(180), size * between(random, 0.04, 0.09), 0.35)
        lift = np.float32(0.7) * strength * hatch
    if kind == 1:
        discs = _discs(random, 10, (size, size), (0.04 * size, 0.13 * size))
        lift = np.float32(1.5) * strength * blur(fill(discs, size, size), size / 64)
    return near + mix[..., None] * (far - near) + lift[..., None]


def water(random: RandomState, image: np.ndarray, level: Number) -> None:
    """Paint water with scalloped waves from row `level` down, in place."""
    size = len(image)
    level = min(level, size * 0.86)
    deep, crest = oklch(between(random, 0.46, 0.60), 0.09, between(random, 205, 250)), oklch(0.93, 0.03, 215)
    period = size / 7.5
    xs = np.arange(0, size + 2, 1.5 * size / 128)

    def wave(y: Number, thick: Number) -> np.ndarray:
        phase = (xs / period + random.random_sample()) % 1 * 2 - 1
        top = y + size * 0.028 * (1 - phase * phase)
        return np.concatenate([np.stack([xs, top], 1), np.stack([xs, top + thick], 1)[::-1]])

    sea = fill([wave(level, 2 * size)], size, size)[..., None]
    image += sea * (deep * (1 - np.float32(0.12) * ramp(size)[:, None, None]) - image)
    foam = fill([wave(y, size * 0.011) for y in np.arange(level + 0.05 * size, size, 0.058 * size)], size, size)
    broken = np.clip(0.5 + 1.2 * noise(random, size, size, size / 8, 1), 0, 1)
    image += (np.float32(0.7) * foam * broken)[..., None] * sea * (crest - image)


def ridge(random: RandomState, image: np.ndarray, level: Number) -> None:
    """Paint a far ridge with snowy peaks from about row `level` down, and a near ridge in front of it, in place."""
    size = len(image)
    hue = between(random, 240, 300)
    snow = oklch(0.95, 0.015, 250)
    for rock, top, capped in (
        (oklch(0.62, 0.05, hue), level, True),
        (oklch(0.46, 0.055, hue), level + size * 0.17, False),
    ):
        xs = (np.arange(8) - 0.5 - random.random_sample()) * size / 5.5
        ys = top + size * np.array(
            [between(random, 0.12, 0.2) if i % 2 else between(random, -0.08, 0.04) for i in range(8)]
        )
        outline = np.concatenate([np.stack([xs, ys], 1), [(xs[-1], 3 * size), (xs[0], 3 * size)]])
        land = fill([outline], size, size)[..., None]
        image += land * (rock * (1 + np.float32(0.10) * ramp(size)[:, None, None]) - image)
        if capped:
            caps = [_CAP * (0.12 * size, 0.075 * size) + peak for peak in zip(xs[::2], ys[::2], strict=True)]
            image += fill(caps, size, size)[..., None] * land * (snow - image)


def paste(image: np.ndarray, sprite: Sprite, left: int, top: int, shadow: Number = 0.3) -> None:
    """Lay a sprite and its soft shadow onto an image, in place; what lies outside is cut off."""
    size = len(image)
    if shadow:
        dark = np.zeros((size, size), np.float32)
        into(dark, sprite.alpha, left + round(size * 0.018), top + round(size * 0.03))
        image *= 1 - np.float32(shadow) * blur(dark, size * 0.022)[..., None]
    y, x, v, u = _overlap(image, sprite.alpha, left, top)
    image[y, x] = image[y, x] * (1 - sprite.canvas[v, u, 3:]) + sprite.canvas[v, u, :3]


def into(canvas: np.ndarray, window: np.ndarray, left: int, top: int) -> np.ndarray:
    """Copy a window onto a canvas at (left, top), cut off outside, and return the canvas."""
    y, x, v, u = _overlap(canvas, window, left, top)
    canvas[y, x] = window[v, u]
    return canvas


def _overlap(canvas: np.ndarray, window: np.ndarray, left: int, top: int) -> tuple[slice, slice, slice, slice]:
    y0, y1 = max(top, 0), max(min(top + window.shape[0], canvas.shape[0]), 0)
    x0, x1 = max(left, 0), max(min(left + window.shape[1], canvas.shape[1]), 0)
    return slice(y0, y1), slice(x0, x1), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)


def expose(random: RandomState, image: np.ndarray) -> np.ndarray:
    """Apply light, contrast and grain to the whole picture; return uint8."""
    size = len(image)
    a, b, c = (np.float32(between(random, -_LIGHT, _LIGHT)) for _ in range(3))
    image = np.clip(image * (1 + a + b * ramp(size)[:, None] + c * ramp(size))[..., None], 0, 1)
    image += np.float32(between(random, -0.3, 0.3)) * image * (1 - image)
    grain = np.frombuffer(random.bytes(size * size), np.uint8).reshape(size, size, 1) & 7
    return np.clip(image * 255 + (grain - np.float32(3.5)), 0, 255).astype(np.uint8)
