"""Polygons, colours and noise: a small antialiased renderer in numpy.

Everything that decides a *label* uses integers and IEEE-exact operations (+ - * / and roots) alone. It uses no BLAS, no
libm and no rasteriser of an imaging library, so that masks are the same bytes on every platform. Pillow only scales
noise and blurs shadows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import RandomState
from PIL import Image, ImageFilter

Polygon = np.ndarray
"""(n, 2) float array of x, y; x to the right, y down; closed implicitly."""

Number = int | float

_SUBROWS = 4
"""Sample rows per pixel; along a row the coverage is exact to 1/64 pixel."""


def between(random: RandomState, low: Number, high: Number) -> float:
    """Draw a uniform number; it is spelled out because numpy's compiled `uniform` may fuse its multiply and add."""
    return low + (high - low) * random.random_sample()


@lru_cache(None)
def _turn(degrees: int) -> tuple[float, float]:
    """Return cosine and sine of whole degrees, rounded to six digits: the last bits of libm differ between
    platforms."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


@lru_cache(None)
def _circle(corners: int) -> Polygon:
    return np.array([_turn(round(360 * i / corners)) for i in range(corners)])


def ellipse(x: Number, y: Number, rx: Number, ry: Number | None = None, corners: int = 24) -> Polygon:
    """Make an ellipse around x, y (a circle if `ry` is left out; a regular polygon for few corners)."""
    return _circle(corners) * (rx, rx if ry is None else ry) + (x, y)


def rectangle(x0: Number, y0: Number, x1: Number, y1: Number) -> Polygon:
    """Make an upright rectangle from two opposite corners."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def line(x0: Number, y0: Number, x1: Number, y1: Number, width: Number) -> Polygon:
    """Make a straight stroke of a given width."""
    a, b = np.array((x0, y0), float), np.array((x1, y1), float)
    along = (b - a) * (width / 2 / max(np.sqrt(((b - a) ** 2).sum()), 1e-9))
    side = np.array((-along[1], along[0]))
    return np.stack([a + side, b + side, b - side, a - side])


def smooth(points: Sequence[tuple[Number, Number]] | Polygon, times: int = 2) -> Polygon:
    """Round the corners of a polygon by cutting them `times` times (Chaikin 1974)."""
    polygon = np.asarray(points, float)
    for _ in range(times):
        quarter = 0.25 * (polygon[_corners((len(polygon),))[0]] - polygon)
        polygon = np.concatenate([polygon + quarter, polygon + 3 * quarter], 1).reshape(-1, 2)
    return polygon


@dataclass(frozen=True)
class Pose:
    """Flip left-right, scale, turn clockwise by whole degrees, then shift to x, y."""

    scale: Number
    degrees: int = 0
    x: Number = 0.0
    y: Number = 0.0
    flip: bool = False

    def __call__(self, points: Polygon) -> Polygon:
        c, s = _turn(self.degrees % 360)
        px, py = points[:, 0] * (-self.scale if self.flip else self.scale), points[:, 1] * self.scale
        return np.array([px * c - py * s + self.x, px * s + py * c + self.y]).T


@lru_cache(1024)
def _corners(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index the corners of joined polygons: the corner after each, each polygon's first corner, and each corner's
    polygon."""
    starts = np.cumsum((0, *lengths))
    following = np.arange(starts[-1]) + 1
    following[starts[1:] - 1] = starts[:-1]
    return following, starts[:-1], np.repeat(np.arange(len(lengths)), lengths)


def fill(polygons: Sequence[Polygon], height: int, width: int, pose: Pose = Pose(1.0)) -> np.ndarray:
    """Return the coverage (height, width), float32 in [0, 1], of the union of simple polygons, in pixels once posed.

    It accumulates signed areas: on each sample row every edge adds a step where it crosses the row. A running sum along
    the row then gives the coverage. All numbers are integers of 1/64 pixel.
    """
    following, starts, polygon_of = _corners(tuple(len(p) for p in polygons))
    x0, y0 = np.floor(pose(np.concatenate(polygons)) * 64 + 0.5).astype(np.int64).T
    coverage = np.zeros((height, width), np.float32)
    left, top = max(int(x0.min()) >> 6, 0), max(int(y0.min()) >> 6, 0)
    right, bottom = min((int(x0.max()) >> 6) + 1, width), min((int(y0.max()) >> 6) + 1, height)
    if left >= right or top >= bottom:
        return coverage
    columns, rows, step = right - left, (bottom - top) * _SUBROWS, 64 // _SUBROWS
    x0, y0 = x0 - left * 64, y0 - top * 64
    x1, y1 = x0[following], y0[following]
    winding = np.sign(np.add.reduceat(x0 * y1 - y0 * x1, starts))[polygon_of]

    # the first sample row at or below each corner; an edge crosses the rows between those of its ends
    row0 = np.minimum(np.maximum((y0 + (step // 2 - 1)) // step, 0), rows)
    row1 = row0[following]
    count = np.abs(row1 - row0)
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) + (np.minimum(row0, row1) + count - np.cumsum(count))[edge]
    rise = y1 - y0
    x = x0[edge] + (row * step + step // 2 - y0[edge]) * (x1 - x0)[edge] // rise[edge]
    x = np.minimum(np.maximum(x, 0), columns * 64)
    sign = (np.where(rise < 0, winding, -winding))[edge]
    cell, late = row * (columns + 2) + (x >> 6), sign * (x & 63)
    steps = np.zeros(rows * (columns + 2) + 1, np.int16)
    np.add.at(steps, cell, (64 * sign - late).astype(np.int16))
    np.add.at(steps, cell + 1, late.astype(np.int16))
    # the steps of one row sum to zero, so a single running sum serves all rows
    total = np.minimum(steps.cumsum(dtype=np.int16)[:-1], 64).reshape(-1, _SUBROWS, columns + 2)
    total = sum(total[:, i, :columns] for i in range(_SUBROWS))
    coverage[top:bottom, left:right] = total * np.float32(1 / (64 * _SUBROWS))
    return coverage


def disc(x: Number, y: Number, radius: Number, height: int, width: int) -> np.ndarray:
    """Return the coverage (height, width), float32, of a disc; soft over one pixel around its rim."""
    across, down = np.arange(width) + (0.5 - x), np.arange(height) + (0.5 - y)
    reach = radius + 0.5 - np.sqrt(across * across + (down * down)[:, None])
    return np.minimum(np.maximum(reach, 0), 1).astype(np.float32)


def bands(height: int, width: int, degrees: int, gap: Number, share: Number) -> np.ndarray:
    """Return the coverage (height, width), float32, of parallel bands: one every `gap` pixels, `share` of the gap
    wide."""
    c, s = _turn(degrees % 360)
    across = (np.arange(width) * c + (np.arange(height) * s)[:, None]) / gap
    off = np.abs(across - np.floor(across) - 0.5) * 2
    return np.minimum(np.maximum((share - off) * (gap / 2) + 0.5, 0), 1).astype(np.float32)


@lru_cache(None)
def ramp(n: int) -> np.ndarray:
    """Return (n,) float32 from -1 to 1."""
    return np.linspace(-1, 1, n, dtype=np.float32)


def oklch(lightness: Number, chroma: Number, hue: Number) -> np.ndarray:
    """Convert a colour from OKLCH (Ottosson 2020), even in lightness over hues, to clipped sRGB, float32 in [0,
    1]^3."""
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


def noise(random: RandomState, height: int, width: int, cell: Number, octaves: int = 3) -> np.ndarray:
    """Return a smooth random field (height, width), float32, about within [-1, 1]; its coarsest cells are `cell` pixels
    wide."""
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, math.ceil(n * 2**octave / cell) + 1) for n in (height, width))
        grid = Image.frombytes("L", (columns, rows), random.bytes(rows * columns))
        fine = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        field += (fine - np.float32(127.5)) * np.float32(2**-octave / 127.5)
    return field * np.float32(0.6)


def blur(coverage: np.ndarray, radius: Number) -> np.ndarray:
    """Return a coverage map blurred by a Gaussian."""
    picture = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(picture, np.float32) / np.float32(255)
