"""What is drawn: bodies made of several shapes, and the patterns that tell classes with one body apart.

A body is a function of a random state that returns its layers from back to front, in units of its length around
(0, 0), and the place of its part. A pattern is drawn in the unit disc.
"""
# fmt: off
# points of one outline read best in rows

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState

from wsss.data.drawn.raster import Number, Polygon, Pose, between, ellipse, line, rectangle, smooth

Layer = tuple[str, list[Polygon]]
"""Role: main, shade (main, darker), tint (main, lighter), second (the other body colour), dark, light."""
Parts = tuple[list[Layer], tuple[Number, Number, Number]]
"""Layers from back to front; x, y and radius of the distinctive part."""
Body = Callable[[RandomState], Parts]


def fish(random: RandomState) -> Parts:
    """A fish."""
    h = between(random, 0.27, 0.33)
    tail = between(random, 0.21, 0.29)
    fin = between(random, 0.11, 0.18)
    body = smooth([(-0.50, 0.02), (-0.36, -0.8 * h), (-0.06, -1.12 * h), (0.20, -0.7 * h), (0.34, -0.16 * h),
                   (0.34, 0.2 * h), (0.2, 0.75 * h), (-0.06, 1.12 * h), (-0.36, 0.85 * h)], 3)
    tails = smooth([(0.22, -0.09), (0.34, -0.09), (0.45, -tail), (0.53, -tail), (0.53, -tail + 0.1), (0.45, 0.0),
                    (0.53, tail - 0.1), (0.53, tail), (0.45, tail), (0.34, 0.09), (0.22, 0.09)], 2)
    back = smooth([(-0.22, -0.7 * h), (-0.1, -h - fin), (0.14, -h - 0.8 * fin), (0.24, -0.5 * h), (0, -0.4 * h)], 2)
    belly = smooth([(-0.1, 0.7 * h), (0.02, h + 0.8 * fin), (0.14, h + 0.6 * fin), (0.16, 0.5 * h)], 2)
    eye = (-0.345, -0.28 * h)
    layers = [
        ("second", [tails, back, belly]),
        ("main", [body]),
        ("tint", [smooth([(-0.42, 0.3 * h), (-0.1, 0.62 * h), (0.24, 0.42 * h), (-0.06, 0.98 * h),
                          (-0.34, 0.75 * h)], 2)]),
        ("light", [ellipse(*eye, 0.052)]),
        ("dark", [ellipse(eye[0] - 0.008, eye[1], 0.028), smooth([(-0.47, 0.07), (-0.38, 0.1), (-0.38, 0.115)], 1)]),
    ]
    return layers, (0.01, -0.02 * h, 0.19)


def balloon(random: RandomState) -> Parts:
    """A balloon."""
    w = between(random, 0.37, 0.42)
    neck = between(random, 0.20, 0.26)
    envelope = smooth([(0, -0.53), (-0.72 * w, -0.50), (-1.1 * w, -0.28), (-0.98 * w, -0.02), (-0.09, neck),
                       (0.09, neck), (0.98 * w, -0.02), (1.1 * w, -0.28), (0.72 * w, -0.50)], 3)
    gores = [smooth([(-s * w, -0.46), (-s * w * 1.55, -0.2), (-0.045, neck), (0.045, neck), (s * w * 1.55, -0.2),
                     (s * w, -0.46), (0, -0.52)], 2) for s in (0.48, 0.16)]
    ropes = [line(s * 0.075, neck - 0.02, s * 0.06, 0.40, 0.014) for s in (-1, 1)]
    layers = [
        ("dark", ropes),
        ("main", [envelope]),
        ("second", [gores[0]]),
        ("main", [gores[1]]),
        ("dark", [rectangle(-0.085, neck - 0.025, 0.085, neck + 0.005)]),
        ("second", [smooth([(-0.095, 0.37), (0.095, 0.37), (0.08, 0.5), (-0.08, 0.5)], 1)]),
        ("dark", [rectangle(-0.09, 0.37, 0.09, 0.40)]),
    ]
    return layers, (0.0, -0.19, 0.18)


def boat(random: RandomState) -> Parts:
    """A boat."""
    lean = between(random, -0.04, 0.04)
    bow = between(random, 0.42, 0.48)
    hull = smooth([(-bow, 0.25), (-0.1, 0.27), (0.46, 0.23), (0.34, 0.46), (-0.30, 0.47)], 1)
    main = smooth([(-0.10, -0.44 + lean), (0.05, -0.50), (0.22, -0.46 + lean), (0.42, 0.10), (0.42, 0.19),
                   (0.2, 0.185), (-0.08, 0.2), (-0.10, 0.16)], 1)
    jib = smooth([(-0.17, -0.40), (-0.15, -0.36), (-0.16, 0.18), (-0.45, 0.19), (-0.46, 0.17)], 1)
    layers = [
        ("dark", [line(-0.13, -0.52, -0.13, 0.3, 0.026)]),
        ("second", [jib]),
        ("main", [main]),
        ("shade", [hull]),
        ("light", [np.array([(-bow + 0.015, 0.275), (0.44, 0.26), (0.42, 0.305), (-bow + 0.06, 0.32)])]),
        ("second", [smooth([(-0.13, -0.52), (-0.13, -0.45), (-0.29, -0.47)], 0)]),
    ]
    return layers, (0.125, -0.115, 0.175)


def star(corners: int, inner: Number, radius: Number) -> Polygon:
    """A star with its first tip up."""
    outer, inner = ellipse(0, 0, radius, corners=corners), ellipse(0, 0, inner * radius, corners=corners)
    return Pose(1, -90)(np.stack([outer, Pose(1, 180 // corners)(inner)], 1).reshape(-1, 2))


Glyph = list[tuple[str, list[Polygon]]]
"""Layers in the unit disc; roles: ink, paper (the colour under it)."""

_CHECKER = [rectangle(x, y, x + 0.5, y + 0.5) for i, y in enumerate((-1, -0.5, 0, 0.5))
            for x in ((-1, 0) if i % 2 else (-0.5, 0.5))]
PATTERNS: dict[str, Glyph] = {
    "ring": [("ink", [ellipse(0, 0, 0.78)]), ("paper", [ellipse(0, 0, 0.5)]), ("ink", [ellipse(0, 0, 0.24)])],
    "stripe": [("ink", [rectangle(-1, y, 1, y + 0.34) for y in (-0.87, -0.17, 0.53)])],
    "zigzag": [("ink", [np.array([(-1, y), (-0.5, y - 0.4), (0, y), (0.5, y - 0.4), (1, y), (1, y + 0.3),
                                  (0.5, y - 0.1), (0, y + 0.3), (-0.5, y - 0.1), (-1, y + 0.3)])
                        for y in (-0.3, 0.45)])],
    "heart": [("ink", [smooth([(0, 0.75), (-0.85, -0.05), (-0.75, -0.65), (-0.2, -0.75), (0, -0.3), (0.2, -0.75),
                               (0.75, -0.65), (0.85, -0.05)], 2)])],
    "star": [("ink", [star(5, 0.42, 0.86)])],
    "checker": [("ink", _CHECKER)],
    "cross": [("ink", [rectangle(-0.24, -0.8, 0.24, 0.8), rectangle(-0.8, -0.24, 0.8, 0.24)])],
    "moon": [("ink", [ellipse(0, 0, 0.78)]), ("paper", [ellipse(0.34, -0.12, 0.62)])],
    "dot": [("ink", [ellipse(0.42 * x, 0.42 * y, 0.25) for x, y in ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1))])],
}
BODIES: dict[str, Body] = {"fish": fish, "balloon": balloon, "boat": boat}
