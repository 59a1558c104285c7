"""Predictions on disk: a folder of index PNGs, finished by worker processes, and protocol.json, which says by what
they were made. No torch, so that workers start fast and stay small."""

import hashlib
import json
import multiprocessing
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss import memory, metrics
from wsss.config import IGNORE
from wsss.data import names, pictures, voc
from wsss.inference.crf import dense_crf
from wsss.interrupt import obey_parent
from wsss.paths import UserError, atomic, read_json, write_json
from wsss.report import records

PROTOCOL = "protocol.json"
AHEAD = 2
"""Images a worker that wait for it: what bounds the memory."""


@dataclass(frozen=True)
class Job:
    """One image on its way from the network to its PNG and its counts."""

    name: str
    path: Path
    """Where the PNG goes, or is."""
    classes: int
    """Classes with background."""
    scores: np.ndarray | None
    """(c, h, w) float32 probabilities for the CRF, (h, w) uint8 labels, or None where the PNG is there already."""
    pixels: np.ndarray | None = None
    """(h, w, 3) uint8 photograph, for the CRF."""
    crf: Mapping[str, Any] | None = None
    """Numbers of the CRF."""
    mask: Path | None = None
    """The truth; None: nothing is counted."""
    photograph: Path | None = None
    """Of the mask, for sentences."""
    size: tuple[int, int] | None = None
    """Width and height of the PNG, where the photograph was scaled down for the scores; None: theirs."""
    plain: Path | None = None
    """Where the PNG without the CRF goes, or is, beside that with it; None: nowhere."""


@dataclass(frozen=True)
class Counted:
    """A finished image."""

    name: str
    counts: np.ndarray | None = None
    """(c, 3): true positives, false positives, false negatives."""
    boundary: np.ndarray | None = None
    """(c, 3) of the boundary bands: see `metrics.boundary_counts`."""
    digest: str = ""
    """Of the truth, see `records.mask_digest`."""
    crf_seconds: float = 0.0
    """Of one core, for the CRF; 0 where none was needed."""
    plain: "Counted | None" = None
    """The same image without the CRF, where that was asked for."""


def finish(job: Job) -> Counted:
    """CRF, PNG and counts of one image: the work of a worker. The counts are those of the PNG."""
    label, seconds = _label(job)
    counted = _counted(job, label, seconds)
    if job.plain is None:
        return counted
    return replace(counted, plain=_counted(job, _label(replace(job, path=job.plain, crf=None))[0], 0.0))


def _counted(job: Job, label: np.ndarray, seconds: float) -> Counted:
    if job.mask is None:
        return Counted(job.name, crf_seconds=seconds)
    mask = voc.read_mask(job.mask, label.shape[::-1], job.classes - 1, job.photograph)
    counts = metrics.counts(metrics.confusion(mask, label, job.classes)).astype(np.int32)
    boundary = metrics.boundary_counts(mask, label, job.classes).astype(np.int32)
    return Counted(job.name, counts, boundary, records.mask_digest(mask), seconds)


def _label(job: Job) -> tuple[np.ndarray, float]:
    """The labels of the job's PNG, written if need be, and the CPU seconds of the CRF."""
    if job.scores is None:
        return voc.read_mask(job.path, None, job.classes - 1), 0.0
    label, seconds = job.scores, 0.0
    if job.crf is not None:
        started = time.thread_time()
        label = dense_crf(job.pixels, job.scores, **job.crf)
        seconds = time.thread_time() - started
    label = label.argmax(0).astype(np.uint8) if label.ndim == 3 else label
    if job.size not in (None, label.shape[::-1]):
        label = np.asarray(Image.fromarray(label).resize(job.size, Image.Resampling.NEAREST))
    with atomic(job.path) as scratch:
        pictures.write_mask(scratch, label)
    return label, seconds


def scores(counted: Sequence[Counted], names: Sequence[str], headline: Sequence[str]) -> dict[str, Any]:
    """Measures of all images, as `tally.scores` gives them for the segmentation; `names` with background."""
    by_image = np.array([one.counts for one in counted])
    return {
        **metrics.segmentation_scores(by_image.sum(0), names, headline),
        **metrics.miou_intervals(by_image, names, headline),
        **metrics.activation_errors(by_image.sum(0)),
        "boundary_iou": metrics.boundary_iou(np.sum([one.boundary for one in counted], 0)),
    }


def stream(work: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """work(item) of each item, in order, by `workers` processes beside this one (0: by this one).

    An item is taken only when there is room for it: at most AHEAD a worker are anywhere between `items` and the result.
    Raises the first exception of a worker, and UserError if one dies.
    """
    if not workers:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)  # a fork would copy locks
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            del item  # the queue alone holds it now
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, for want of memory perhaps; ask for fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """A worker's manners: Ctrl-C is the parent's, SIGTERM removes what is half-written, the parent's end is its own."""
    obey_parent()
    memory.keep_freed()  # else a fifth of the CRF's time is page faults
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def fault(path: Path, size: tuple[int, int], classes: int) -> str:
    """What is wrong with a PNG of predictions, in words; empty where nothing is.

    It must be an index image with VOC's palette, of the photograph's `size` (width, height), its values classes.
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
    return f"{path} holds {IGNORE}, which is no class" if (label == IGNORE).any() else ""


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make `folder` the place for predictions by `settings` (plain values), and clear what a killed process left.

    PNGs that are there stay, where protocol.json says that they were made by the same settings. Raises UserError else.
    """
    plain, known = json.loads(json.dumps(settings)), folder / PROTOCOL
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    if known.is_file():
        before = read_json(known)
        if not isinstance(before, dict) or before.get("digest") != digest:
            old = before if isinstance(before, dict) else {}
            either = [name for name in {**plain, **old} if name != "digest"]
            changed = ", ".join(name for name in either if old.get(name) != plain.get(name)) or "digest"
            raise UserError(
                f"{folder} holds predictions made otherwise ({PROTOCOL} differs in {changed}); delete that folder or "
                "choose another by --save"
            )
    elif names.files(folder, names.MASKS):
        raise UserError(
            f"{folder} holds PNGs, but no {PROTOCOL} that says by what they were made; choose another by --save"
        )
    else:
        write_json(known, {"digest": digest, **plain})
    clear(folder)


def clear(folder: Path) -> None:
    """Remove what was not written to its end."""
    for scratch in folder.rglob(".*.*"):
        shutil.rmtree(scratch, ignore_errors=True)
