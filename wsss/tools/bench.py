"""`wsss bench WHAT`: seconds, memory and use of the machine of one part at the paper's size, as one JSON line.

Every time is also given in units, the time of a float32 product of two 4096 x 4096 matrices in the same process, so
that machines can be compared. Run it on an idle machine.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wsss import cam, energy, evaluate, presets, refine
from wsss.command import parse
from wsss.inference import crf
from wsss.paths import UserError, did_you_mean
from wsss.tools.bench_infer import Infer, bench_infer, photograph
from wsss.tools.bench_memory import Memory, bench_memory
from wsss.tools.bench_merge import Merge, bench_merge
from wsss.tools.bench_step import Step, bench_step
from wsss.tools.machine import device, gemm_seconds, peak_memory_gb, random_batch, timed

USAGE = """\
usage: wsss bench WHAT ...

  step     one training step of a preset, by phases
  infer    a final evaluation of photographs, by phases, beside the best that could be had
  refine   pixel-adaptive refinement of a batch
  energy   the dense energy's filter of a batch
  crf      dense CRF of one photograph
  merge    CRF with merged classes beside the whole CRF, on photographs: equality and times
  memory   resident memory of a run's final evaluation, over its images

Prints one JSON line. `wsss bench WHAT --help` explains each."""


def run(words: Sequence[str]) -> int:
    """`wsss bench WHAT ...`; returns the exit code. Raises UserError."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] not in KINDS:
        raise UserError(f"wsss bench knows no {words[0]}{did_you_mean(words[0], KINDS)}; see wsss bench --help")
    kind, work = KINDS[words[0]]
    print(json.dumps(work(parse(kind, words[1:], f"bench {words[0]}"))))
    return 0


@dataclass(frozen=True)
class Part:
    """A part of a step at the paper's size, on smooth random images."""

    images: int = 2
    """Images of the batch."""
    size: int = 448
    """Side of the crop in pixels; refinement and energy work at half of it."""
    classes: int = 3
    """Classes that the images have."""
    repeats: int = 5
    """Calls that are timed, after one to warm up."""


@dataclass(frozen=True)
class Scored(Part):
    """A part that works on the scores of all classes."""

    classes: int = 21
    """Classes with background."""


def bench_refine(asked: Part) -> dict[str, Any]:
    """Pseudo labels of a batch with both background levels."""
    config = presets.get("voc", augment__crop=asked.size, augment__local_size=min(96, asked.size))
    batch = random_batch(config, asked.classes, asked.images)
    label, maps = torch.ones_like(batch.label), torch.rand(asked.images, asked.classes, asked.size, asked.size)
    maps = maps.to(device())
    return _part(asked, "refine", lambda: refine.segmentation_labels(batch.image, maps, label, batch.box, 0.25, 0.7))


def bench_energy(asked: Scored) -> dict[str, Any]:
    """The bilateral filter of a batch's probabilities."""
    config = presets.get("voc", augment__crop=asked.size, augment__local_size=min(96, asked.size))
    batch = random_batch(config, asked.classes, asked.images)
    valid = cam.box_mask(batch.box, (asked.size, asked.size))
    half = torch.randn(asked.images, asked.classes, asked.size // 2, asked.size // 2, device=device()).softmax(1)
    return _part(asked, "energy", lambda: energy.filtered(batch.image, half, valid))


def bench_crf(asked: Scored) -> dict[str, Any]:
    """Dense CRF, ten iterations, of `images` drawn photographs one after the other."""
    random = np.random.default_rng(0)
    image = photograph(random, (asked.size, asked.size))
    probability = random.dirichlet(np.ones(asked.classes), (asked.size, asked.size)).transpose(2, 0, 1)
    probability = np.ascontiguousarray(probability, np.float32)

    def work() -> None:
        for _ in range(asked.images):
            crf.dense_crf(image, probability)

    return _part(asked, "crf", work)


def _part(asked: Part, name: str, work: Callable[[], Any]) -> dict[str, Any]:
    seconds, unit = timed(work, asked.repeats), gemm_seconds()
    return {
        "bench": name,
        **vars(asked),
        "seconds": round(seconds, 4),
        "images_a_second": round(asked.images / seconds, 2),
        "gemm_seconds": round(unit, 6),
        "units": round(seconds / unit, 3),
        "peak_memory_gb": round(peak_memory_gb(), 2),
        "threads": torch.get_num_threads(),
        **evaluate.stamp(),
    }


KINDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
    "step": (Step, bench_step),
    "infer": (Infer, bench_infer),
    "refine": (Part, bench_refine),
    "energy": (Scored, bench_energy),
    "crf": (Scored, bench_crf),
    "merge": (Merge, bench_merge),
    "memory": (Memory, bench_memory),
}
