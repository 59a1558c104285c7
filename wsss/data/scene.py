"""From shapes to pictures: objects with texture and light, backgrounds, shadows."""

from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from wsss.data.drawing import between, blur, ellipse, fill, line, move, noise, oklch, rectangle
from wsss.data.shapes import Body, Glyph

PART_SCALE = 1.0
"""Size of the distinctive part; 1 is 15 to 25 % of the object."""
TEXTURE = 0.07
"""Strength of the texture of bodies and backgrounds."""
LIGHT = 0.12
"""Strength of the light: shading of bodies, slope and brightness over the image."""


@dataclass(frozen=True)
class Sprite:
    """One object in its own window. `colour` (h, w, 3) is premultiplied by `alpha` (h, w); `mask`, `part` are bool."""

    colour: np.ndarray
    alpha: np.ndarray
    part: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return self.alpha >= np.float32(0.5)


def body_palette(random: RandomState) -> dict[str, np.ndarray]:
    """Colours of a body: any hue, a second hue that goes with it, a dark, a light."""
    hue = between(random, 0, 360)
    lightness, chroma = between(random, 0.60, 0.80), between(random, 0.06, 0.13)
    other = hue + (40, -40, 150, -150, 180)[random.randint(5)]
    return {
        "main": oklch(lightness, chroma, hue),
        "shade": oklch(lightness - 0.18, chroma, hue + 10),
        "tint": oklch(lightness + 0.11, chroma * 0.6, hue),
        "second": oklch(between(random, 0.55, 0.85), between(random, 0.05, 0.12), other),
        "dark": oklch(0.32, 0.04, hue),
        "light": oklch(0.95, 0.02, 90),
    }


def draw_object(random: RandomState, body: Body, glyph: Glyph, hue: float, length: float, degrees: int,
                fine: bool = True) -> Sprite:  # fmt: skip
    """Draw a body of `length` pixels, turned and perhaps mirrored, with its pattern in a hue on the part."""
    flip = bool(random.randint(2))
    palette = body_palette(random)
    layers, (x, y, radius) = body(random)
    points = np.concatenate([move(p, length, degrees, flip=flip) for _, polygons in layers for p in polygons])
    low = np.floor(points.min(0)) - 2
    width, height = (np.ceil(points.max(0)) + 2 - low).astype(int)
    colour, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)

    def paint(coverage: np.ndarray, shade: np.ndarray) -> None:
        colour[:] += coverage[..., None] * (shade - colour)
        alpha[:] += coverage * (1 - alpha)

    def place(polygon: np.ndarray) -> np.ndarray:
        return move(polygon, length, degrees, -low[0], -low[1], flip)

    texture = _texture(random, height, width, length, fine)
    for role, polygons in layers:
        paint(fill([place(p) for p in polygons], height, width), palette[role] * texture)
    radius *= PART_SCALE
    paper, ink = oklch(0.50, 0.16, hue), oklch(0.95, 0.03, hue)
    badge = fill([place(ellipse(x, y, radius))], height, width)
    paint(badge, palette["dark"])
    inner = fill([place(ellipse(x, y, radius * 0.92))], height, width)
    paint(inner, paper)
    tilt = random.randint(-12, 13)
    for role, polygons in glyph:
        # mirrored bodies keep their pattern unmirrored, as a painted sign would be
        marks = [place(move(p, radius * 0.92, tilt, x, y, flip)) for p in polygons]
        paint(np.minimum(fill(marks, height, width), inner), ink if role == "ink" else paper)
    return Sprite(colour, alpha, badge >= np.float32(0.5))


def _texture(random: RandomState, height: int, width: int, length: float, fine: bool) -> np.ndarray:
    """Factor on a body's colour, (height, width, 1): light from above, mottles, perhaps spots or bands."""
    rows = np.linspace(1, -1, height, dtype=np.float32)[:, None]
    factor = (
        1 + np.float32(LIGHT) * rows + np.float32(TEXTURE) * noise(random, height, width, length / 4, 2 if fine else 1)
    )
    kind, strength = random.randint(4), np.float32((-1, 1)[random.randint(2)] * TEXTURE * 1.4)
    if kind == 0:
        spots = [ellipse(width * random.random_sample(), height * random.random_sample(), length * between(random, 0.02, 0.05),
                         corners=12) for _ in range(24)]  # fmt: skip
        factor += strength * fill(spots, height, width)
    if kind == 1:
        angle, gap, reach = random.randint(180), between(random, 0.10, 0.18) * length, length * 1.5
        bands = [move(rectangle(-reach, g * gap, reach, (g + 0.5) * gap), 1, angle, width / 2, height / 2)
                 for g in range(-9, 9)]  # fmt: skip
        factor += strength * fill(bands, height, width)
    return np.clip(factor, 0.5, 1.4)[..., None]


def background(random: RandomState, size: int, octaves: int = 4) -> np.ndarray:
    """A textured ground, (size, size, 3) float32: two muted colours mixed by noise; hatch, soft discs or neither."""
    hue = between(random, 0, 360)
    near = oklch(between(random, 0.55, 0.88), between(random, 0.02, 0.07), hue)
    far = oklch(between(random, 0.50, 0.85), between(random, 0.02, 0.07), hue + between(random, -60, 60))
    field = noise(random, size, size, size / between(random, 1.5, 4), octaves)
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    a, b = np.float32(between(random, -0.5, 0.5)), np.float32(between(random, -0.7, 0.7))
    mix = np.clip(np.float32(0.5) + np.float32(0.6) * field + a * slope + b * slope[:, None], 0, 1)[..., None]
    ground = near + mix * (far - near)
    kind = random.randint(3)
    if kind == 0:
        angle, gap = random.randint(180), size * between(random, 0.04, 0.09)
        strokes = [move(line(-size, g * gap, size, g * gap, gap * 0.35), 1, angle, size / 2, size / 2)
                   for g in range(-int(0.75 * size / gap), int(0.75 * size / gap))]  # fmt: skip
        ground = ground + fill(strokes, size, size)[..., None] * np.float32(TEXTURE * (-1, 1)[random.randint(2)])
    if kind == 1:
        discs = [ellipse(size * random.random_sample(), size * random.random_sample(), size * between(random, 0.04, 0.13))
                 for _ in range(10)]  # fmt: skip
        soft = blur(fill(discs, size, size), size / 64)
        ground = ground + soft[..., None] * np.float32(1.5 * TEXTURE * (-1, 1)[random.randint(2)])
    return ground


def water(random: RandomState, image: np.ndarray, level: float) -> None:
    """Paint water with waves below row `level`."""
    size = len(image)
    deep = oklch(between(random, 0.48, 0.58), 0.09, between(random, 215, 250))
    level = min(level, size * 0.86)
    xs = np.arange(0, size + 9, 4)

    def crest(y: float, tall: float, period: int, thick: float) -> np.ndarray:
        phase = random.randint(period)
        wave = tall * np.abs((xs + phase) % period - period / 2) / (period / 2)
        return np.concatenate([np.stack([xs, y + wave], 1), np.stack([xs, y + wave + thick], 1)[::-1]])

    sea = fill([crest(level, 3, 16, size)], size, size)[..., None]
    depth = np.linspace(1.15, 0.85, size, dtype=np.float32)[:, None, None]
    image += sea * (deep * depth - image)
    rows = np.arange(level + 5, size, 7)
    foam = fill([crest(y, 2.5, 16, 1.2) for y in rows], size, size)[..., None]
    image += np.float32(0.45) * foam * sea * (oklch(0.93, 0.03, 220) - image)


def ridge(random: RandomState, image: np.ndarray, level: float) -> None:
    """Paint two mountain ridges with snow caps; the higher peaks reach up to row `level`."""
    size = len(image)
    for far in (True, False):
        hue = between(random, 250, 290)
        rock = oklch(0.62 if far else 0.46, 0.05, hue)
        top = level + (0 if far else size * 0.14)
        xs = np.linspace(-0.1, 1.1, 8) * size
        ys = top + size * 0.22 * np.array([(i % 2) * 0.9 + between(random, -0.3, 0.4) for i in range(8)])
        outline = np.concatenate([np.stack([xs, ys], 1), [(1.1 * size, 2 * size), (-0.1 * size, 2 * size)]])
        land = fill([outline], size, size)[..., None]
        image += land * (rock - image)
        if far:
            caps = [
                np.array(
                    [
                        (x, y),
                        (x + 0.2 * size / 6, y + 0.045 * size),
                        (x, y + 0.035 * size),
                        (x - 0.2 * size / 6, y + 0.045 * size),
                    ]
                )
                for x, y in zip(xs[::2], ys[::2], strict=True)
            ]
            image += fill(caps, size, size)[..., None] * land * (oklch(0.95, 0.01, 250) - image)


def paste(image: np.ndarray, sprite: Sprite, left: int, top: int, shadow: float = 0.3) -> None:
    """Lay a sprite and its soft shadow onto an image, in place; what lies outside is cut off."""
    size = len(image)
    if shadow:
        dark = np.zeros((size, size), np.float32)
        into(dark, sprite.alpha, left + round(size * 0.018), top + round(size * 0.03))
        image *= 1 - np.float32(shadow) * blur(dark, size * 0.022)[..., None]
    y, x, v, u = _overlap(image, sprite.alpha, left, top)
    image[y, x] = image[y, x] * (1 - sprite.alpha[v, u, None]) + sprite.colour[v, u]


def into(canvas: np.ndarray, window: np.ndarray, left: int, top: int) -> np.ndarray:
    """Copy a window onto a canvas at (left, top), cut off outside; returns the canvas."""
    y, x, v, u = _overlap(canvas, window, left, top)
    canvas[y, x] = window[v, u]
    return canvas


def _overlap(canvas: np.ndarray, window: np.ndarray, left: int, top: int) -> tuple[slice, slice, slice, slice]:
    y0, y1 = max(top, 0), max(min(top + window.shape[0], canvas.shape[0]), 0)
    x0, x1 = max(left, 0), max(min(left + window.shape[1], canvas.shape[1]), 0)
    return slice(y0, y1), slice(x0, x1), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)


def expose(random: RandomState, image: np.ndarray) -> np.ndarray:
    """Light, contrast and grain over the whole picture; returns uint8."""
    size = len(image)
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    a, b, c = (np.float32(between(random, -LIGHT, LIGHT)) for _ in range(3))
    image = np.clip(image * (1 + a + b * slope[:, None, None] + c * slope[:, None]), 0, 1)
    image = image + np.float32(between(random, -0.3, 0.3)) * image * (1 - image)
    grain = random.randint(-4, 5, (size, size, 1)).astype(np.float32)
    return np.clip(image * 255 + grain, 0, 255).astype(np.uint8)
