"""The final protocols, and the names of their evaluations in files and records. No torch."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wsss.paths import UserError, did_you_mean

SCALES = (1.0, 1.25, 1.5)
"""Scales of the base's final protocol."""
_LARGEST = 8.0
"""Largest scale that is accepted; a larger one is taken for a mistake."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Crf:
    """Parameters of the dense CRF, as `crf.dense_crf` takes them."""

    iterations: int = 10
    gaussian: tuple[float, float] = (1.0, 1.0)
    """Sigma in pixels, weight."""
    bilateral: tuple[float, float, float] = (121.0, 5.0, 4.0)
    """Sigma in pixels, sigma in grey levels, weight."""
    merge: float | None = None
    """Classes whose probability is below this at every pixel take part as one class; None: each by itself (the whole
    CRF)."""


@dataclass(frozen=True)
class Protocol:
    """Protocol of a final evaluation (page 'Data and evaluation')."""

    kind: str
    """voc or coco."""
    size: int | None
    """Side of the square that photographs are squashed to (a run puts its own side here); None: their own size."""
    over_flip: str
    """Combination of the logits of an image and of its mirror image, at one scale: sum or max."""
    over_scales: str
    """Combination of the scales: sum or max."""
    scales: tuple[float, ...] = SCALES
    flip: bool = True
    crf: Crf | None = Crf()
    longest: int | None = None
    """Largest longer side in pixels; larger photographs are scaled down to it. None: their own size."""
    plain_squash: bool = False
    """Squash without antialiasing, as the run's compat says (Deviations D18)."""

    def _changes(self) -> list[str]:
        """List the departures from the published protocol, without a missing CRF."""
        merge = self.crf.merge if self.crf else None
        names = {
            f"merge{merge}": merge is not None,
            "s" + "+".join(f"{scale:g}" for scale in self.scales): self.scales != SCALES,
            "noflip": not self.flip,
            f"longest{self.longest}": self.longest is not None,
        }
        return [name for name, departs in names.items() if departs]

    def stem(self, *others: str) -> str:
        """Return the part of a file's name: KIND[-crf][-others][-departures]; `others` are further departures."""
        return "-".join([self.kind, *["crf"] * bool(self.crf), *others, *self._changes()])

    def name(self, *others: str, usual: str) -> str:
        """Return the name in records: final[-KIND][-without-crf][-others][-departures]; KIND only if it is not `usual`.

        A result named "final", with or without CRF, may stand in the tables beside the papers' numbers.
        """
        kind, crf = [self.kind] * (self.kind != usual), ["without-crf"] * (not self.crf)
        return "-".join(["final", *kind, *crf, *others, *self._changes()])

    def numbers(self) -> dict[str, Any]:
        """Return the protocol as plain values, for records.

        Unused values that older records do not have are left out, so that equal protocols have equal records.
        """
        plain = dataclasses.asdict(self) | {"size": self.size or "native", "scales": list(self.scales)}
        for name in ("plain_squash", "longest"):
            if not plain[name]:
                del plain[name]
        crf = {
            name: list(x) if isinstance(x, tuple) else x for name, x in (plain["crf"] or {}).items() if x is not None
        }
        return plain | {"crf": crf or None}


PROTOCOLS = {
    "voc": Protocol("voc", size=None, over_flip="sum", over_scales="max"),
    "coco": Protocol("coco", size=448, over_flip="max", over_scales="sum"),
}
"""Final protocols by name, as in the base's programs."""


def get(
    kind: str,
    scales: Sequence[float] = (),
    *,
    flip: bool | None = None,
    crf: bool | None = None,
    merge: float | None = None,
    longest: int | None = None,
) -> Protocol:
    """Return the protocol `kind`, with the given values in place of its own.

    Raises UserError for an unknown name, a scale that is repeated or not between 0 and 8, `merge` outside 0..1 or
    without CRF, `longest` below 1.
    """
    if kind not in PROTOCOLS:
        known = " and ".join(PROTOCOLS)
        raise UserError(f"there is no final protocol named {kind}{did_you_mean(kind, PROTOCOLS)}; there are {known}")
    usual = PROTOCOLS[kind]
    chosen = tuple(float(scale) for scale in scales) or usual.scales
    wrong = [scale for scale in chosen if not (math.isfinite(scale) and 0 < scale <= _LARGEST)]
    if wrong or len(set(chosen)) < len(chosen):
        fault = f"{wrong[0]:g} is not allowed" if wrong else "one is given twice"
        raise UserError(f"--scales must be different numbers above 0, up to {_LARGEST:g}; {fault}")
    if merge is not None and (crf is False or not 0 < merge < 1):
        fault = "--crf is False" if crf is False else f"--crf-merge is {merge:g}"
        raise UserError(f"--crf-merge is a probability between 0 and 1 for the CRF, but {fault}; leave it out")
    if longest is not None and longest < 1:
        raise UserError(
            f"--longest is {longest}; it must be a number of pixels above 0, or None for the photographs' own size"
        )
    return dataclasses.replace(
        usual,
        longest=longest,
        scales=chosen,
        flip=usual.flip if flip is None else flip,
        crf=None if crf is False else Crf(merge=merge),
    )


def limited(size: Size, longest: int | None) -> Size:
    """Return a size whose longer side is at most `longest`, its shape kept to a pixel; None: the size as it is."""
    share = 1.0 if longest is None else min(1.0, longest / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def scaled_size(size: Size, scale: float, patch: int) -> Size:
    """Return height and width at a scale, rounded down, but never less than one patch."""
    height, width = (max(patch, int(side * scale)) for side in size)
    return height, width
