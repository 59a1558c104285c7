"""The bodies and patterns of the pretraining images: none of them is in the mini set."""
# fmt: off
# points of one outline read best in rows

import numpy as np
from numpy.random import RandomState

from wsss.data.drawn.raster import Pose, between, ellipse, line, rectangle, smooth
from wsss.data.drawn.shapes import Body, Glyph, Parts


def car(random: RandomState) -> Parts:
    """A car."""
    roof = between(random, -0.30, -0.22)
    shell = smooth([(-0.5, 0.2), (-0.5, -0.02), (-0.3, -0.06), (-0.2, roof), (0.22, roof), (0.34, -0.06), (0.5, 0.0),
                    (0.5, 0.2)], 1)
    glass = smooth([(-0.2, -0.05), (-0.14, roof + 0.05), (0.18, roof + 0.05), (0.27, -0.05)], 0)
    wheels = [(-0.28, 0.2), (0.28, 0.2)]
    layers = [("main", [shell]), ("tint", [glass]), ("dark", [ellipse(*w, 0.11) for w in wheels]),
              ("second", [ellipse(*w, 0.055) for w in wheels])]
    return layers, (0.0, 0.02, 0.17)


def house(random: RandomState) -> Parts:
    """A house."""
    eaves = between(random, -0.18, -0.08)
    layers = [("shade", [rectangle(0.14, -0.45, 0.24, -0.15)]), ("main", [rectangle(-0.34, eaves, 0.34, 0.48)]),
              ("second", [np.array([(-0.46, eaves), (0, -0.5), (0.46, eaves)])]),
              ("dark", [rectangle(-0.28, 0.2, -0.12, 0.48)])]
    return layers, (0.12, 0.13, 0.18)


def rocket(random: RandomState) -> Parts:
    """A rocket."""
    w = between(random, 0.2, 0.24)
    hull = smooth([(0, -0.54), (-w, -0.2), (-w, 0.25), (-0.12, 0.38), (0.12, 0.38), (w, 0.25), (w, -0.2)], 2)
    fins = [np.array([(s * w * 0.8, 0.05), (s * 0.38, 0.34), (s * 0.36, 0.46), (s * 0.1, 0.34)]) for s in (-1, 1)]
    flame = smooth([(-0.1, 0.35), (0.1, 0.35), (0, 0.58)], 1)
    return [("light", [flame]), ("second", fins), ("main", [hull])], (0, -0.03, 0.17)


def mushroom(random: RandomState) -> Parts:
    """A mushroom."""
    w = between(random, 0.42, 0.5)
    stem = smooth([(-0.13, 0), (0.13, 0), (0.18, 0.5), (-0.18, 0.5)], 1)
    cap = smooth([(-w, 0.08), (-0.9 * w, -0.34), (-0.2, -0.52), (0.2, -0.52), (0.9 * w, -0.34), (w, 0.08)], 2)
    return [("second", [stem]), ("main", [cap])], (0, -0.2, 0.18)


def butterfly(random: RandomState) -> Parts:
    """A butterfly."""
    reach = between(random, 0.44, 0.52)
    upper = [smooth([(0, 0), (s * 0.15, -0.36), (s * reach, -0.42), (s * 0.48, -0.04), (s * 0.1, 0.1)], 2)
             for s in (-1, 1)]
    lower = [smooth([(0, 0), (s * 0.4, 0.06), (s * 0.36, 0.4), (s * 0.12, 0.36)], 2) for s in (-1, 1)]
    feelers = [line(0, -0.2, s * 0.12, -0.48, 0.02) for s in (-1, 1)]
    return [("dark", feelers), ("second", lower), ("main", upper)], (0, 0.0, 0.18)


def tree(random: RandomState) -> Parts:
    """A tree."""
    spread = between(random, 0.26, 0.32)
    crown = [ellipse(-0.2, -0.08, spread * 0.8), ellipse(0.2, -0.08, spread * 0.8), ellipse(0, -0.22, spread)]
    trunk = smooth([(-0.07, 0.1), (0.07, 0.1), (0.12, 0.5), (-0.12, 0.5)], 1)
    return [("second", [trunk]), ("main", crown)], (0, -0.14, 0.18)


def cup(random: RandomState) -> Parts:
    """A cup."""
    foot = between(random, 0.2, 0.28)
    bowl = smooth([(-0.38, -0.34), (0.3, -0.34), (foot, 0.4), (-foot - 0.08, 0.4)], 1)
    handle = [line(0.22, -0.2, 0.46, -0.16, 0.07), line(0.45, -0.19, 0.43, 0.12, 0.07), line(0.46, 0.1, 0.2, 0.2, 0.07)]
    return [("second", handle), ("main", [bowl]), ("dark", [ellipse(-0.04, -0.28, 0.28, 0.05)])], (-0.04, 0.06, 0.18)


def umbrella(random: RandomState) -> Parts:
    """An umbrella."""
    rise = between(random, 0.44, 0.52)
    shade = np.array([(-0.5, 0.08), (-0.42, -0.2), (-0.22, -rise + 0.06), (0, -rise), (0.22, -rise + 0.06),
                      (0.42, -0.2), (0.5, 0.08), (0.33, 0.02), (0.17, 0.09), (0, 0.03), (-0.17, 0.09), (-0.33, 0.02)])
    hook = [line(0, -0.1, 0, 0.48, 0.04), line(0, 0.46, 0.12, 0.46, 0.05)]
    return [("dark", hook), ("main", [shade])], (0, -0.18, 0.17)


OTHER_BODIES: dict[str, Body] = {f.__name__: f for f in (car, house, rocket, mushroom, butterfly, tree, cup, umbrella)}
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
