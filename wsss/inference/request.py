"""What is asked of a final evaluation: flags that the commands which make one share. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wsss import protocols
from wsss.protocols import Protocol


@dataclass(frozen=True)
class Request:
    """Whose predictions are wanted, of which images, and how they are computed."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    weights: str = "last"
    """last or best; records of the best say so in their names (SEED.best.json)."""
    data_root: str = ""
    """Folder of the data set, if it has moved; or of another one with the same classes, whose record stands apart."""
    split: str = "val"
    """List of the images."""
    bfloat16: bool = False
    """Compute in bfloat16 where the device does; records are made in float32."""
    longest: int | None = None
    """Photographs with a longer side above this are scaled down for network and CRF, their labels scaled back; the
    record says so in its name. None: at their own size, where 12 megapixels take hours and gigabytes: both are said
    before."""
    save: Path | None = None
    """Folder of the PNGs; None: RUN/predictions/PROTOCOL-SPLIT."""
    batch: int = 1
    """Images of one size that go through the network at once; 1 is the same to the last bit anywhere."""
    workers: int | None = None
    """Processes for the CRF; None: one a core, or fewer where memory is small; 0: none beside this one, which hears a
    stop only between two steps of a CRF."""

    def stem(self, protocol: Protocol, val: str) -> str:
        """Name files: PROTOCOL[-crf][-what departs from it][-SPLIT]; `val` is what the split val is called there."""
        split = val if self.split == "val" else self.split
        return "-".join([protocol.stem(*self._departures()), *[split] * bool(split)])

    def name(self, protocol: Protocol, usual: str) -> str:
        """Name the protocol in records: final, and what departs from a final evaluation by the `usual` protocol."""
        return "-".join([protocol.name(*self._departures(), usual=usual), *[self.split] * (self.split != "val")])

    def _departures(self) -> list[str]:
        """Name what departs beside the protocol: other weights, half precision."""
        return [self.weights] * (self.weights != "last") + ["bfloat16"] * self.bfloat16


@dataclass(frozen=True)
class Choice:
    """A final protocol, and what takes the place of its own."""

    protocol: str = "voc"
    """voc (native size) or coco (squashed)."""
    scales: tuple[float, ...] = ()
    """Scales of the image; empty: the protocol's, 1 1.25 1.5."""
    flip: bool | None = None
    """Score the mirror image, too; None: as the protocol does (True)."""
    crf: bool | None = None
    """Refine by the dense CRF; None: as the protocol does (True)."""
    crf_merge: float | None = None
    """Classes whose probability is below this everywhere in the image take part in the CRF as one, which saves time
    (0.05, say); the record says so in its name. None: the whole CRF."""

    def chosen(self, longest: int | None = None) -> Protocol:
        """Return the protocol, of photographs whose longer side is at most `longest`. Raises UserError."""
        changes = {"flip": self.flip, "crf": self.crf, "merge": self.crf_merge, "longest": longest}
        return protocols.get(self.protocol, self.scales, **changes)
