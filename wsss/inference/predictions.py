"""Predictions on disk: a folder of index PNGs, finished by worker processes, and protocol.json, which says how they
were made. No torch, so that workers start fast and stay small."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss import provenance
from wsss.config import IGNORE
from wsss.data import names, pictures
from wsss.data.pictures import read_mask
from wsss.inference.crf import dense_crf
from wsss.paths import UserError, atomic, read_json, write_json
from wsss.tally import Counts, count_labels

_PROTOCOL = "protocol.json"


@dataclass(frozen=True)
class Job:
    """One image on its way from the network to its PNG and its counts."""

    name: str
    path: Path
    """Path of the PNG."""
    classes: int
    """Number of classes, background included."""
    scores: np.ndarray | None
    """(c, h, w) float32 probabilities for the CRF, (h, w) uint8 labels, or None if the PNG exists already."""
    pixels: np.ndarray | None = None
    """(h, w, 3) uint8 photograph, for the CRF."""
    crf: Mapping[str, Any] | None = None
    """Numbers of the CRF."""
    mask: Path | None = None
    """File of the truth; None: nothing is counted."""
    photograph: Path | None = None
    """File of the photograph, for messages about its mask."""
    size: tuple[int, int] | None = None
    """Width and height of the PNG; None: those of the scores. They differ if the photograph was scaled down."""
    plain: Path | None = None
    """Path of a second PNG, without the CRF; None: none is made."""


@dataclass(frozen=True)
class Finished:
    """An image whose PNG is written."""

    counts: Counts | None
    """Counts of the PNG; None without truth."""
    plain: Counts | None
    """Counts of the PNG without the CRF; None if none was wanted."""
    crf_seconds: float
    """Seconds of one core in the CRF; 0 if none was needed."""


def finish(job: Job) -> Finished:
    """Apply the CRF to one image, write its PNG and count it against the truth: the task of a worker."""
    label, seconds = _label(job)
    plain = _label(replace(job, path=job.plain, crf=None))[0] if job.plain else None
    if job.mask is None:
        return Finished(None, None, seconds)
    mask = read_mask(job.mask, label.shape[::-1], job.classes - 1, job.photograph)
    counts, beside = (
        count_labels(job.name, mask, {"segmentation": labels}, job.classes) if labels is not None else None
        for labels in (label, plain)
    )
    return Finished(counts, beside, seconds)


def _label(job: Job) -> tuple[np.ndarray, float]:
    """Return the labels of the job's PNG, written if need be, and the CPU seconds of the CRF."""
    if job.scores is None:
        return read_mask(job.path, None, job.classes - 1), 0.0
    label, seconds = job.scores, 0.0
    if job.crf is not None:
        started = time.thread_time()
        label = dense_crf(job.pixels, job.scores, **job.crf)
        seconds = time.thread_time() - started
    label = _largest(label) if label.ndim == 3 else label
    if job.size not in (None, label.shape[::-1]):
        label = np.asarray(Image.fromarray(label).resize(job.size, Image.Resampling.NEAREST))
    with atomic(job.path) as scratch:
        pictures.write_mask(scratch, label)
    return label, seconds


def _largest(maps: np.ndarray) -> np.ndarray:
    """Return the (h, w) uint8 index of the largest of (c, h, w) maps, the first of equal ones. NumPy's argmax over the
    first axis copies all maps to turn their axes: with 81 classes that took a sixth of all time outside the network."""
    best, label = maps[0].copy(), np.zeros(maps.shape[1:], np.uint8)
    for number, values in enumerate(maps[1:], 1):
        label[values > best] = number
        np.maximum(best, values, out=best)
    return label


def fault(path: Path, size: tuple[int, int], classes: int, gaps: bool = False) -> str:
    """Describe what is wrong with a PNG of predictions; empty if nothing is.

    It must be an index image with VOC's palette and the photograph's `size` (width, height). Its values must be
    classes; with `gaps` they may be IGNORE, too.
    """
    if not path.is_file():
        return f"{path} does not exist"
    try:
        label, palette = pictures.read_index(path)
    except UserError as error:
        return str(error)
    if sentence := pictures.size_fault(path, label, size, None) or pictures.value_fault(path, label, classes - 1):
        return sentence
    if palette.ravel().tolist()[: 3 * classes] != pictures.VOC_PALETTE[: 3 * classes]:
        return f"{path} does not have VOC's palette"
    return f"{path} holds {IGNORE}, which is not a class" if not gaps and (label == IGNORE).any() else ""


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Claim `folder` for predictions with `settings` (plain values), and remove what a killed process left.

    PNGs that are there stay if protocol.json names the same settings and the same commit of this package; otherwise
    raises UserError.
    """
    # Through JSON, as in the file: tuples become lists, so that equal settings compare as equal.
    plain = json.loads(json.dumps({**settings, "commit": provenance.stamp()["commit"]}))
    known = folder / _PROTOCOL
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    if known.is_file():
        before = read_json(known)
        if not isinstance(before, dict) or before.get("digest") != digest:
            old = before if isinstance(before, dict) else {}
            either = [name for name in {**plain, **old} if name != "digest"]
            changed = ", ".join(name for name in either if old.get(name) != plain.get(name)) or "digest"
            raise UserError(
                f"{folder} holds predictions by another protocol ({_PROTOCOL} differs in {changed}); delete that "
                "folder or choose another with --save"
            )
    elif names.files(folder, names.MASKS):
        raise UserError(
            f"{folder} holds PNGs, but no {_PROTOCOL} that says how they were made; choose another with --save"
        )
    else:
        write_json(known, {"digest": digest, **plain})
    clear(folder)


def clear(folder: Path) -> None:
    """Remove the scratch folders of files that were not written to their end (`paths.atomic`)."""
    for scratch in folder.rglob(".*.*"):
        shutil.rmtree(scratch, ignore_errors=True)
