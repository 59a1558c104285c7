"""Predictions of a split as a stream: network -> CRF workers -> index PNGs and counts. Memory does not grow with the
split, and only PNGs are written to disk."""

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from wsss import distributed, process
from wsss.data import pool
from wsss.data.pictures import read_image
from wsss.data.voc import Split
from wsss.inference import multi_scale, predictions
from wsss.inference.predictions import Finished, Job
from wsss.model import SegmentationModel
from wsss.paths import UserError
from wsss.process import Interrupted, stop_signals, within_seconds
from wsss.protocols import Protocol, Size, limited


@dataclass(frozen=True)
class Shard:
    """One process's part of the work: the images at `places`, with the network and the settings to predict them."""

    model: SegmentationModel
    images: Split
    places: Sequence[int]
    protocol: Protocol
    folder: Path
    """Folder of the PNGs."""
    device: torch.device
    bfloat16: bool
    batch: int
    """Number of consecutive images of one size that go through the network at once; `places` are sorted for it."""
    plain: Path | None = None
    """Folder of further PNGs, without the CRF; None: none are made."""

    def jobs(self, stop: threading.Event) -> Iterator[Job]:
        """Yield the work that is left for each image, in order: all of it, or only counting if its PNGs are whole."""
        for shape, group in groupby(self._photographs(stop), key=lambda item: self._group(*item)):
            waiting: list[tuple[int, Image.Image]] = []
            for place, photograph in group:
                if shape is None:
                    yield self._job(place, photograph.size, None)
                    continue
                waiting.append((place, photograph))
                if len(waiting) == self.batch:
                    yield from self._scored(waiting, stop)
                    waiting = []
            if waiting:
                yield from self._scored(waiting, stop)

    def _photographs(self, stop: threading.Event) -> Iterator[tuple[int, Image.Image]]:
        for place in self.places:
            if stop.is_set():
                return
            yield place, read_image(self.images.files[place])

    def _group(self, place: int, photograph: Image.Image) -> tuple[int, int] | None:
        """Return the size that the network sees, or None if the PNGs are whole."""
        paths, classes = [self._path(place, folder) for folder in self.folders], len(self.images.kit.classes) + 1
        if all(path.is_file() and not predictions.fault(path, photograph.size, classes) for path in paths):
            return None
        return (
            (self.protocol.size, self.protocol.size)
            if self.protocol.size
            else limited(photograph.size, self.protocol.longest)
        )

    @property
    def folders(self) -> list[Path]:
        """Folders of the PNGs."""
        return [folder for folder in (self.folder, self.plain) if folder]

    def _path(self, place: int, folder: Path) -> Path:
        return folder / f"{self.images.ids[place]}.png"

    def _scored(self, waiting: list[tuple[int, Image.Image]], stop: threading.Event) -> Iterator[Job]:
        """Yield the jobs of a batch: probabilities for the CRF, or labels. Can stop between two passes."""

        def network(image: Tensor) -> Tensor:
            if stop.is_set():
                raise Interrupted("stopped between two passes of the network")
            return self.network(image)

        smaller = [multi_scale.limit(photograph, self.protocol.longest) for _, photograph in waiting]
        image = torch.stack([multi_scale.pixels(photograph, self.protocol) for photograph in smaller]).to(self.device)
        sizes = [photograph.size[::-1] for photograph in smaller]
        combined = multi_scale.scores(network, self.model.normalise(image), sizes, self.protocol, self.model.patch)
        for (place, photograph), seen in zip(waiting, smaller, strict=True):
            logits = combined.pop(0)  # out of the list, so that its memory is freed with the job
            if self.protocol.crf:
                probability, pixels = logits.softmax(0).cpu().numpy(), np.asarray(seen)
                yield self._job(place, photograph.size, probability, pixels)
            else:
                yield self._job(place, photograph.size, logits.argmax(0).byte().cpu().numpy())

    def network(self, image: Tensor) -> Tensor:
        """Return the segmentation logits of one pass."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model(image).segmentation

    def _job(self, place: int, size: Size, scores: np.ndarray | None, pixels: np.ndarray | None = None) -> Job:
        crf = asdict(self.protocol.crf) if pixels is not None and self.protocol.crf else None
        mask = self.images.masks[place] if self.images.masks else None
        classes, file = len(self.images.kit.classes) + 1, self.images.files[place]
        path, plain = (self._path(place, folder) if folder else None for folder in (self.folder, self.plain))
        return Job(self.images.ids[place], path, classes, scores, pixels, crf, mask, file, size, plain)


def finish(shard: Shard, workers: int) -> list[Finished]:
    """Predict and count the images of a shard; `workers` processes beside this one finish them (0: this one does).

    After Ctrl-C or SIGTERM, images under way are finished, then Interrupted is raised. What takes more than
    `process.GRACE` seconds, such as one large photograph, is given up. Only whole PNGs are on disk.
    """
    process.keep_freed()
    stopped = f"stopped; the PNGs in {shard.folder} are complete; run the command again to continue"

    def leave() -> str:
        for child in multiprocessing.active_children():  # in the CRF's C code they cannot react to SIGTERM
            child.kill()
            child.join()
        for folder in shard.folders:
            predictions.clear(folder)
        return stopped

    done: list[Finished] = []
    options = {"total": len(shard.places), "desc": f"predict {shard.images.name}", "unit": "image"}
    bar = tqdm(**options, disable=distributed.rank() > 0)
    with stop_signals() as stop, within_seconds(leave), bar:
        try:
            for image in pool.stream(predictions.finish, shard.jobs(stop), workers):
                done.append(image)
                bar.update()
        except (SystemExit, UserError, Interrupted):  # the workers, too, may have been told to stop
            if not stop.is_set():
                raise
    if len(done) < len(shard.places):
        raise Interrupted(stopped)
    return done
