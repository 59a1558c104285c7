"""Flags of a final evaluation, shared by the commands that run one. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wsss import protocols
from wsss.protocols import Protocol


@dataclass(frozen=True)
class Request:
    """Flags that choose the run, the images, and how predictions are computed."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    weights: str = "last"
    """last or best; the record of the best weights says so in its name (SEED.best.json)."""
    data_root: str = ""
    """Folder of the data set, if it has moved; or of another one with the same classes, which gets its own record."""
    split: str = "val"
    """List of the images."""
    bfloat16: bool = False
    """Compute in bfloat16 if the device supports it; the usual records are made in float32."""
    longest: int | None = None
    """Photographs with a longer side above this are scaled down for network and CRF, and their labels scaled back; the
    record says so in its name. None: their own size. 12 megapixels then take hours and gigabytes; an estimate of both
    is printed before."""
    save: Path | None = None
    """Folder of the PNGs; None: RUN/predictions/PROTOCOL-SPLIT."""
    batch: int = 1
    """Images of one size that go through the network at once. Only with 1 do the last bits of an image's result not
    depend on the images beside it."""
    workers: int | None = None
    """Processes for the CRF. None: one for each core, or fewer if memory is small. 0: this process does it, and
    notices a request to stop only between two steps of the CRF."""

    def stem(self, protocol: Protocol, val: str) -> str:
        """Return the stem of file names: PROTOCOL[-crf][-DEPARTURES][-SPLIT]; `val` stands there for the split val."""
        split = val if self.split == "val" else self.split
        return "-".join([protocol.stem(*self._departures()), *[split] * bool(split)])

    def name(self, protocol: Protocol, usual: str) -> str:
        """Return the protocol's name for records: final, and what departs from the `usual` final protocol."""
        return "-".join([protocol.name(*self._departures(), usual=usual), *[self.split] * (self.split != "val")])

    def _departures(self) -> list[str]:
        """List the departures outside the protocol: other weights, half precision."""
        return [self.weights] * (self.weights != "last") + ["bfloat16"] * self.bfloat16


@dataclass(frozen=True)
class Choice:
    """Flags that choose a final protocol and replace some of its values."""

    protocol: str = "voc"
    """voc (native size) or coco (squashed)."""
    scales: tuple[float, ...] = ()
    """Scales of the image; empty: the protocol's, 1 1.25 1.5."""
    flip: bool | None = None
    """Score the mirror image, too; None: as the protocol does (True)."""
    crf: bool | None = None
    """Refine by the dense CRF; None: as the protocol does (True)."""
    crf_merge: float | None = None
    """Let classes whose probability is below this everywhere in the image take part in the CRF as one. This saves time
    (try 0.05); the record says so in its name. None: the whole CRF."""

    def chosen(self, longest: int | None = None) -> Protocol:
        """Return the protocol, for photographs whose longer side is at most `longest`. Raises UserError."""
        changes = {"flip": self.flip, "crf": self.crf, "merge": self.crf_merge, "longest": longest}
        return protocols.get(self.protocol, self.scales, **changes)
