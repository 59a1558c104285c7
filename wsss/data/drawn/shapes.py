"""Shapes to draw: bodies made of several shapes, and the patterns that tell classes with one body apart.

A body is a function of a random state. It returns its layers from back to front, in units of its length around (0, 0),
and the place of its part. A pattern is drawn in the unit disc. Shapes of the pretraining images come last; none of them
is in the mini set.
"""
# fmt: off
# points of one outline read best in rows

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState

from wsss.data.drawn.raster import Number, Polygon, Pose, between, ellipse, line, rectangle, smooth

_Layer = tuple[str, list[Polygon]]
"""Role: main, shade (main, darker), tint (main, lighter), second (the other body colour), dark, light."""
_Parts = tuple[list[_Layer], tuple[Number, Number, Number]]
"""Layers from back to front; x, y and radius of the distinctive part."""
Body = Callable[[RandomState], _Parts]


def _fish(random: RandomState) -> _Parts:
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


def _balloon(random: RandomState) -> _Parts:
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


def _boat(random: RandomState) -> _Parts:
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


def _star(corners: int, inner: Number, radius: Number) -> Polygon:
    """Make a star with its first tip up."""
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
    "star": [("ink", [_star(5, 0.42, 0.86)])],
    "checker": [("ink", _CHECKER)],
    "cross": [("ink", [rectangle(-0.24, -0.8, 0.24, 0.8), rectangle(-0.8, -0.24, 0.8, 0.24)])],
    "moon": [("ink", [ellipse(0, 0, 0.78)]), ("paper", [ellipse(0.34, -0.12, 0.62)])],
    "dot": [("ink", [ellipse(0.42 * x, 0.42 * y, 0.25) for x, y in ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1))])],
}
BODIES: dict[str, Body] = {"fish": _fish, "balloon": _balloon, "boat": _boat}


# Pretraining.


def _car(random: RandomState) -> _Parts:
    roof = between(random, -0.30, -0.22)
    shell = smooth([(-0.5, 0.2), (-0.5, -0.02), (-0.3, -0.06), (-0.2, roof), (0.22, roof), (0.34, -0.06), (0.5, 0.0),
                    (0.5, 0.2)], 1)
    glass = smooth([(-0.2, -0.05), (-0.14, roof + 0.05), (0.18, roof + 0.05), (0.27, -0.05)], 0)
    wheels = [(-0.28, 0.2), (0.28, 0.2)]
    layers = [("main", [shell]), ("tint", [glass]), ("dark", [ellipse(*w, 0.11) for w in wheels]),
              ("second", [ellipse(*w, 0.055) for w in wheels])]
    return layers, (0.0, 0.02, 0.17)


def _house(random: RandomState) -> _Parts:
    eaves = between(random, -0.18, -0.08)
    layers = [("shade", [rectangle(0.14, -0.45, 0.24, -0.15)]), ("main", [rectangle(-0.34, eaves, 0.34, 0.48)]),
              ("second", [np.array([(-0.46, eaves), (0, -0.5), (0.46, eaves)])]),
              ("dark", [rectangle(-0.28, 0.2, -0.12, 0.48)])]
    return layers, (0.12, 0.13, 0.18)


def _rocket(random: RandomState) -> _Parts:
    w = between(random, 0.2, 0.24)
    hull = smooth([(0, -0.54), (-w, -0.2), (-w, 0.25), (-0.12, 0.38), (0.12, 0.38), (w, 0.25), (w, -0.2)], 2)
    fins = [np.array([(s * w * 0.8, 0.05), (s * 0.38, 0.34), (s * 0.36, 0.46), (s * 0.1, 0.34)]) for s in (-1, 1)]
    flame = smooth([(-0.1, 0.35), (0.1, 0.35), (0, 0.58)], 1)
    return [("light", [flame]), ("second", fins), ("main", [hull])], (0, -0.03, 0.17)


def _mushroom(random: RandomState) -> _Parts:
    w = between(random, 0.42, 0.5)
    stem = smooth([(-0.13, 0), (0.13, 0), (0.18, 0.5), (-0.18, 0.5)], 1)
    cap = smooth([(-w, 0.08), (-0.9 * w, -0.34), (-0.2, -0.52), (0.2, -0.52), (0.9 * w, -0.34), (w, 0.08)], 2)
    return [("second", [stem]), ("main", [cap])], (0, -0.2, 0.18)


def _butterfly(random: RandomState) -> _Parts:
    reach = between(random, 0.44, 0.52)
    upper = [smooth([(0, 0), (s * 0.15, -0.36), (s * reach, -0.42), (s * 0.48, -0.04), (s * 0.1, 0.1)], 2)
             for s in (-1, 1)]
    lower = [smooth([(0, 0), (s * 0.4, 0.06), (s * 0.36, 0.4), (s * 0.12, 0.36)], 2) for s in (-1, 1)]
    feelers = [line(0, -0.2, s * 0.12, -0.48, 0.02) for s in (-1, 1)]
    return [("dark", feelers), ("second", lower), ("main", upper)], (0, 0.0, 0.18)


def _tree(random: RandomState) -> _Parts:
    spread = between(random, 0.26, 0.32)
    crown = [ellipse(-0.2, -0.08, spread * 0.8), ellipse(0.2, -0.08, spread * 0.8), ellipse(0, -0.22, spread)]
    trunk = smooth([(-0.07, 0.1), (0.07, 0.1), (0.12, 0.5), (-0.12, 0.5)], 1)
    return [("second", [trunk]), ("main", crown)], (0, -0.14, 0.18)


def _cup(random: RandomState) -> _Parts:
    foot = between(random, 0.2, 0.28)
    bowl = smooth([(-0.38, -0.34), (0.3, -0.34), (foot, 0.4), (-foot - 0.08, 0.4)], 1)
    handle = [line(0.22, -0.2, 0.46, -0.16, 0.07), line(0.45, -0.19, 0.43, 0.12, 0.07), line(0.46, 0.1, 0.2, 0.2, 0.07)]
    return [("second", handle), ("main", [bowl]), ("dark", [ellipse(-0.04, -0.28, 0.28, 0.05)])], (-0.04, 0.06, 0.18)


def _umbrella(random: RandomState) -> _Parts:
    rise = between(random, 0.44, 0.52)
    shade = np.array([(-0.5, 0.08), (-0.42, -0.2), (-0.22, -rise + 0.06), (0, -rise), (0.22, -rise + 0.06),
                      (0.42, -0.2), (0.5, 0.08), (0.33, 0.02), (0.17, 0.09), (0, 0.03), (-0.17, 0.09), (-0.33, 0.02)])
    hook = [line(0, -0.1, 0, 0.48, 0.04), line(0, 0.46, 0.12, 0.46, 0.05)]
    return [("dark", hook), ("main", [shade])], (0, -0.18, 0.17)


OTHER_BODIES: dict[str, Body] = {
    f.__name__[1:]: f for f in (_car, _house, _rocket, _mushroom, _butterfly, _tree, _cup, _umbrella)
}
OTHER_PATTERNS: dict[str, Glyph] = {
    "triangle": [("ink", [ellipse(0, 0, 0.85, corners=3)])],
    "flower": [("ink", [Pose(1, a)(ellipse(0.48, 0, 0.34, 0.22)) for a in range(0, 360, 60)])],
    "arrow": [("ink", [np.array([(-0.8, -0.2), (0, -0.2), (0, -0.65), (0.85, 0), (0, 0.65), (0, 0.2), (-0.8, 0.2)])])],
    "hourglass": [("ink", [np.array([(-0.62, -0.7), (0.62, -0.7), (0.08, 0), (0.62, 0.7), (-0.62, 0.7), (-0.08, 0)])])],
    "drop": [("ink", [smooth([(0, -1.0), (-0.2, -0.3), (-0.7, 0.3), (-0.3, 0.85), (0.3, 0.85), (0.7, 0.3),
                              (0.2, -0.3)], 2)])],
    "bolt": [("ink", [np.array([(0.2, -0.9), (-0.55, 0.12), (-0.08, 0.12), (-0.22, 0.9), (0.55, -0.18),
                                (0.06, -0.18)])])],
}
