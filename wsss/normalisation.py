"""Mean and deviation that a network's images are normalised with. They belong to its weights."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsss.paths import UserError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of red, green and blue in 0..1, and who says so."""

    mean: Triple
    deviation: Triple
    source: str = ""

    def text(self) -> str:
        """As `parse` reads it: a name, or six numbers."""
        names = [name for name, known in NAMED.items() if (known.mean, known.deviation) == (self.mean, self.deviation)]
        return names[0] if names else "; ".join(" ".join(map(str, x)) for x in (self.mean, self.deviation))

    def record(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {"mean": list(self.mean), "deviation": list(self.deviation), "source": self.source}


NAMED: Mapping[str, Normalisation] = {
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
IMAGENET = NAMED["imagenet"]


def parse(text: str, source: str) -> Normalisation:
    """The normalisation that `text` names: imagenet, clip, half, or six numbers, the three of the mean first.

    Raises UserError, which names the source.
    """
    known = NAMED.get(text.strip().lower())
    if known:
        return Normalisation(known.mean, known.deviation, source)
    try:
        numbers = [float(part) for part in re.split(r"[\s,;]+", text.strip())]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)) or min(numbers[3:]) <= 0:
        raise UserError(
            f"{source} gives the normalisation {text[:60]!r}; it must be {', '.join(NAMED)} or six numbers, three of "
            "the mean and three of the deviation, which are above 0"
        )
    return Normalisation(tuple(numbers[:3]), tuple(numbers[3:]), source)
