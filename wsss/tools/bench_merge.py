"""`wsss bench merge`: compare the CRF with merged classes with the whole CRF, on a network's outputs."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from tqdm import tqdm

from wsss import evaluate, process, protocols
from wsss.data.pictures import read_image
from wsss.data.voc import Split
from wsss.explore import sources
from wsss.inference import multi_scale
from wsss.inference.crf import dense_crf
from wsss.paths import UserError
from wsss.tools.machine import Bench


@dataclass(frozen=True)
class Merge(Bench):
    """Compare the CRF with merged classes with the whole CRF: labels and time. Photographs, evenly spaced in a list, go
    through a trained network by the protocol voc. Both CRFs then run over the network's classes, and over more."""

    data_root: Path
    """Folder of a data set in VOC format; its masks are not used."""
    split: str = "val"
    """List of its photographs."""
    images: int = 300
    """Largest number of photographs."""
    run: Path | None = None
    """Folder of a finished run; None: the shipped model."""
    scales: tuple[float, ...] = ()
    """Scales of the image; empty: the protocol's."""
    flip: bool = True
    """Score the mirror image, too."""
    classes: int = 81
    """Classes of the second comparison, with background. Classes that the network lacks get its foreground logits of
    the next photographs in the list, so that their objects compete as well. A network of so many classes would confuse
    fewer."""
    merge: tuple[float, ...] = (0.01, 0.05, 0.2)
    """Probabilities below which classes are merged."""

    def measure(self) -> dict[str, Any]:
        """Return the agreement and the times of both CRFs, by number of classes and by `merge`.

        Agreement is the percentage of pixels whose label is that of the whole CRF, over all images and in the worst
        one. Times are CPU seconds of one core per image, with softmax and argmax. Raises UserError if the
        photographs do not allow `classes`.
        """
        process.keep_freed()  # as the workers of an evaluation do
        seer, _ = sources.of_run(self.run) if self.run else sources.shipped()
        images = Split(self.data_root, self.split, labels=False)
        protocol = protocols.get("voc", scales=self.scales, flip=self.flip)
        places = np.unique(np.linspace(0, len(images.ids) - 1, min(self.images, len(images.ids))).astype(int))
        photographs, logits = [], []
        for place in tqdm(places, desc="network", unit="image"):
            photograph = read_image(images.files[place])
            image = seer.model.normalise(multi_scale.pixels(photograph, protocol)[None])
            size = [photograph.size[::-1]]
            logits += multi_scale.scores(lambda x: seer.model(x).segmentation, image, size, protocol, seer.model.patch)
            photographs.append(np.asarray(photograph))
        known = len(logits[0])
        if self.classes < known or len(places) * (known - 1) < self.classes - 1:
            most = len(places) * (known - 1) + 1
            raise UserError(f"--classes is {self.classes}; {len(places)} photographs allow {known} to {most} classes")
        rows: dict[int, list[dict[str, Any]]] = {known: [], self.classes: []}
        for number in tqdm(range(len(places)), desc="crf", unit="image"):
            for classes, compared in rows.items():
                compared.append(_compare(photographs[number], _widened(logits, number, classes), self.merge))
        return {
            "bench": "merge",
            "model": seer.name,
            "data": self.data_root.name,
            "split": self.split,
            "photographs": len(places),
            "scales": list(protocol.scales),
            "flip": self.flip,
            "classes": {str(classes): _summary(compared, self.merge) for classes, compared in rows.items()},
            "threads": torch.get_num_threads(),
            **evaluate.stamp(),
        }


def _widened(logits: list[Float[torch.Tensor, "c p q"]], number: int, classes: int) -> Float[np.ndarray, "k p q"]:
    """Append foreground logits of the next photographs to those of photograph `number` until there are `classes`."""
    first, step = logits[number], 1
    while len(first) < classes:
        other = logits[(number + step) % len(logits)][1:][None]
        more = F.interpolate(other, first.shape[1:], mode="bilinear", align_corners=False)[0]
        first, step = torch.cat([first, more[: classes - len(first)]]), step + 1
    return first.numpy()


def _compare(
    photograph: UInt8[np.ndarray, "p q 3"], logits: Float[np.ndarray, "c p q"], merge: tuple[float, ...]
) -> dict[str, Any]:
    """Run the whole CRF (key None) and each of `merge` on one image; return seconds, classes kept, and the pixels whose
    label differs."""
    labels, seconds, kept = {}, {}, {}
    for least in (None, *merge):
        started = time.thread_time()
        probability = torch.from_numpy(logits).softmax(0).numpy()
        labels[least] = dense_crf(photograph, probability, merge=least).argmax(0)
        seconds[least] = time.thread_time() - started
        kept[least] = int((probability.max((1, 2)) >= (least or 0)).sum())
    different = {least: int((labels[least] != labels[None]).sum()) for least in merge}
    return {"pixels": labels[None].size, "different": different, "seconds": seconds, "kept": kept}


def _summary(compared: list[dict[str, Any]], merge: tuple[float, ...]) -> dict[str, Any]:
    pixels = sum(row["pixels"] for row in compared)

    def mean(name: str, least: float | None) -> float:
        return round(float(np.mean([row[name][least] for row in compared])), 4)

    by_merge = {
        f"{least:g}": {
            "equal": 100 * (1 - sum(row["different"][least] for row in compared) / pixels),
            "equal_in_worst": 100 * (1 - max(row["different"][least] / row["pixels"] for row in compared)),
            "different_pixels": sum(row["different"][least] for row in compared),
            "core_seconds": mean("seconds", least),
            "classes_kept": mean("kept", least),
        }
        for least in merge
    }
    return {"pixels": pixels, "whole_core_seconds": mean("seconds", None), "merge": by_merge}
