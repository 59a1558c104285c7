"""Polygons, colours and noise: a small antialiased renderer in numpy.

Whatever decides a *label* uses integers and IEEE-exact operations (+ - * /) only: no BLAS, no libm, no rasteriser of
an imaging library, so that masks are the same bytes on every platform. Pillow only scales noise and blurs shadows.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.random import RandomState
from PIL import Image, ImageFilter

Polygon = np.ndarray
"""(n, 2) float array of x, y; x to the right, y down; closed implicitly."""

SUBROWS = 4
"""Sample rows in a pixel; along a row the coverage is exact to 1/64 pixel."""


def between(random: RandomState, low: float, high: float) -> float:
    """A uniform number; spelled out because the compiled `uniform` may fuse its multiply and add."""
    return low + (high - low) * random.random_sample()


@lru_cache(None)
def turn(degrees: int) -> tuple[float, float]:
    """Cosine and sine of whole degrees, rounded to six digits: the last bits of libm differ between platforms."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


@lru_cache(None)
def _circle(corners: int) -> Polygon:
    return np.array([turn(round(360 * i / corners)) for i in range(corners)])


def ellipse(x: float, y: float, rx: float, ry: float | None = None, corners: int = 24) -> Polygon:
    """An ellipse around x, y (a circle if `ry` is left out; a regular polygon for few corners)."""
    return _circle(corners) * (rx, rx if ry is None else ry) + (x, y)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """An upright rectangle from two opposite corners."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def line(x0: float, y0: float, x1: float, y1: float, width: float) -> Polygon:
    """A straight stroke of a given width."""
    a, b = np.array((x0, y0), float), np.array((x1, y1), float)
    along = (b - a) * (width / 2 / max(np.sqrt(((b - a) ** 2).sum()), 1e-9))
    side = np.array((-along[1], along[0]))
    return np.stack([a + side, b + side, b - side, a - side])


def smooth(points: Sequence[tuple[float, float]] | Polygon, times: int = 2) -> Polygon:
    """Round the corners of a polygon by cutting them `times` times (Chaikin 1974)."""
    polygon = np.asarray(points, float)
    for _ in range(times):
        following = np.roll(polygon, -1, axis=0)
        polygon = np.stack([0.75 * polygon + 0.25 * following, 0.25 * polygon + 0.75 * following], 1).reshape(-1, 2)
    return polygon


def move(polygon: Polygon, scale: float, degrees: int = 0, x: float = 0, y: float = 0, flip: bool = False) -> Polygon:
    """Flip left-right, scale, turn clockwise, then shift."""
    c, s = turn(degrees % 360)
    px, py = polygon[:, 0] * (-scale if flip else scale), polygon[:, 1] * scale
    return np.stack([px * c - py * s + x, px * s + py * c + y], 1)


def fill(polygons: Sequence[Polygon], height: int, width: int) -> np.ndarray:
    """Coverage, (height, width) float32 in [0, 1], of the union of simple polygons given in pixels.

    Signed-area accumulation: at each sample row every edge adds its step where it crosses the row, and a running sum
    along the row is the coverage. In integers of 1/64 pixel throughout.
    """
    edges = []
    for polygon in polygons:
        start = np.floor(polygon * 64 + 0.5).astype(np.int64)
        stop = np.roll(start, -1, axis=0)
        area = (start[:, 0] * stop[:, 1] - stop[:, 0] * start[:, 1]).sum()
        edges.append(np.hstack([start, stop] if area > 0 else [stop, start]))
    x0, y0, x1, y1 = np.concatenate(edges).T[:, :, None]
    step = 64 // SUBROWS
    y = np.arange(height * SUBROWS) * step + step // 2
    edge, row = np.nonzero((y0 <= y) != (y1 <= y))
    x0, y0, x1, y1 = x0[edge, 0], y0[edge, 0], x1[edge, 0], y1[edge, 0]
    x = np.clip(x0 + (y[row] - y0) * (x1 - x0) // (y1 - y0), 0, width * 64)
    sign = np.where(y1 < y0, 1, -1)
    cell = row * (width + 2) + (x >> 6)
    size = height * SUBROWS * (width + 2)
    total = np.bincount(cell, sign * (64 - (x & 63)), size) + np.bincount(cell + 1, sign * (x & 63), size)
    total = np.clip(total.reshape(-1, width + 2).cumsum(1)[:, :width], 0, 64)
    return (total.reshape(height, SUBROWS, width).sum(1) / (64 * SUBROWS)).astype(np.float32)


def oklch(lightness: float, chroma: float, hue: float) -> np.ndarray:
    """A colour in [0, 1]^3, float32, from OKLCH (Ottosson 2020): even in lightness over hues; clipped to sRGB."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    rgb = [round(255 * min(max(v, 0.0), 1.0) ** (1 / 2.2)) for v in linear]
    return np.array(rgb, np.float32) / np.float32(255)


def noise(random: RandomState, height: int, width: int, cell: float, octaves: int = 3) -> np.ndarray:
    """Smooth random field, (height, width) float32 around 0, about within [-1, 1]; `cell` pixels a coarse grid cell."""
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, math.ceil(n * 2**octave / cell) + 1) for n in (height, width))
        grid = Image.fromarray(random.randint(0, 256, (rows, columns)).astype(np.uint8))
        fine = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        field += (fine - np.float32(127.5)) * np.float32(2**-octave / 127.5)
    return field * np.float32(0.6)


def blur(coverage: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a coverage map."""
    picture = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(picture, np.float32) / np.float32(255)
