"""Mean and standard deviation by which images are normalised. They belong to a network's weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm

from wsss.config import Model
from wsss.paths import UserError

_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of red, green and blue in 0..1, with their source."""

    mean: _Triple
    deviation: _Triple
    source: str = ""

    def text(self) -> str:
        """Return it as a text that `parse` reads: a name, or six numbers."""
        names = [name for name, known in _NAMED.items() if (known.mean, known.deviation) == (self.mean, self.deviation)]
        return names[0] if names else "; ".join(" ".join(map(str, x)) for x in (self.mean, self.deviation))

    def record(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return {"mean": list(self.mean), "deviation": list(self.deviation), "source": self.source}


_NAMED: Mapping[str, Normalisation] = {
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet's"),
    "clip": Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
IMAGENET = _NAMED["imagenet"]
"""ImageNet's mean and deviation."""


def parse(text: str, source: str) -> Normalisation:
    """Read a normalisation: imagenet, clip, half, or six numbers, the three of the mean first.

    Raises UserError, which names the source. Numbers for pixels in 0..255 are an error too.
    """
    known = _NAMED.get(text.strip().lower())
    if known:
        return Normalisation(known.mean, known.deviation, source)
    try:
        numbers = [float(part) for part in re.split(r"[\s,;]+", text.strip())]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(0 <= number <= 1 for number in numbers) or min(numbers[3:]) == 0:
        raise UserError(
            f"{source} gives the normalisation {text[:60]!r}; it must be {', '.join(_NAMED)} or six numbers for "
            "pixels in 0..1: three means, then three deviations above 0"
        )
    return Normalisation(tuple(numbers[:3]), tuple(numbers[3:]), source)


def start_normalisation(model: Model, named: str | None, whole: bool) -> Normalisation:
    """Choose the normalisation of the start weights: `named`, the one in their file, else `model.normalisation`.

    The setting `tag` means timm's numbers for the backbone if weights of its tag are used: fetched, or on disk while
    the backbone names the tag. Otherwise it means ImageNet's. A `whole` model whose file names none is the base's or of
    an older version, and gets ImageNet's. Raises UserError.
    """
    if named is not None:
        return parse(named, f"the metadata of {model.checkpoint or model.backbone}")
    if model.normalisation != "tag":
        return parse(model.normalisation, "--model.normalisation")
    known = timm.get_pretrained_cfg(model.backbone)
    tagged = "." in model.backbone if model.checkpoint else model.pretrained
    if known and tagged and not whole:
        return Normalisation(tuple(known.mean), tuple(known.std), f"timm's configuration of {model.backbone}")
    return parse("imagenet", "ImageNet's, for nothing says another")
