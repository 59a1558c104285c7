"""`wsss bench WHAT`: measure one part at the paper's size: seconds, memory, use of the machine, as one JSON line.

Times are also given in units, so that machines can be compared. One unit is the time of a float32 product of two
4096 x 4096 matrices in the same process. Run it on an idle machine.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from wsss import cam, datasets, distributed, energy, evaluate, method, presets, process, refine, train
from wsss.batch import Batch
from wsss.command import Group
from wsss.config import Config
from wsss.inference import crf
from wsss.model import SegmentationModel
from wsss.paths import UserError
from wsss.registry import DATASETS
from wsss.tools import machine
from wsss.tools.machine import Bench, Passes, device, gemm_seconds, peak_memory_gb, synchronise, timed

_USAGE = """\
usage: wsss bench WHAT ...

  step     one training step of a preset, by phases
  infer    a final evaluation of photographs, by phases, beside the best possible time
  refine   pixel-adaptive refinement of a batch
  energy   the dense energy's filter of a batch
  crf      dense CRF of one photograph
  merge    CRF with merged classes against the whole CRF, on photographs: equality and times
  memory   resident memory of a run's final evaluation, over its images

Prints one JSON line. `wsss bench WHAT --help` explains each."""

_WARM_UP = 3
"""Steps before the clock starts. The first three still get memory from the system page by page; the thousands that
follow in a training do not."""


# A training step.


@dataclass(frozen=True)
class Step(Bench):
    """One training step on random images with all terms on: forward, losses, backward, optimizer."""

    preset: str = "voc"
    """Preset whose terms and schedule are timed."""
    backbone: str = "deit_base_patch16_224"
    """timm name of the ViT; its weights are random."""
    crop: int = 448
    """Side of the crop in pixels."""
    batch: int = 2
    """Images per step."""
    accumulate: int = 1
    """Micro-batches that make up the step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs under autocast, as training does on a device that computes in bfloat16."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass."""
    compile: bool = False
    """torch.compile the encoder's blocks."""
    fused_from: int | None = None
    """Fewest tokens for fused attention on a CPU; None: the preset's."""
    repeats: int = 5
    """Timed steps, after three steps to warm up."""

    def config(self) -> Config:
        """Return the preset with these sizes. Raises UserError."""
        changes: dict[str, Any] = {
            "model.backbone": self.backbone,
            "model.pretrained": False,
            "model.checkpoint": "",
            "model.activation_checkpointing": self.activation_checkpointing,
            "model.compile": self.compile,
            "augment.crop": self.crop,
            "augment.local_size": min(96, self.crop),
            "optim.batch": self.batch,
            "optim.accumulate": self.accumulate,
            "optim.bfloat16": self.dtype == "bfloat16",
        }
        if self.fused_from is not None:
            changes["model.fused_from"] = self.fused_from
        return presets.get(self.preset, **changes)

    def measure(self) -> dict[str, Any]:
        """Return seconds, units, tokens, operations, utilisation and memory of the trainer's own step.

        `seconds` is the median of the timed steps, `spread` their fastest and slowest. `phases` come from one more step
        under PyTorch's profiler, which waits for the device after each phase. `busy` and `host` come from a profiled
        step without such waits: the share of it in which a GPU works, and the operations that take the host longest.
        `tflop` is counted by PyTorch. `recompiled` is the number of graphs that torch.compile made after the warm-up.
        Raises UserError.
        """
        if self.dtype == "bfloat16" and not distributed.computes_bfloat16(device()):
            raise UserError("this machine cannot compute in bfloat16, so training does not; leave --dtype out")
        process.keep_freed()
        passes: Passes = []
        with tempfile.TemporaryDirectory() as scratch:
            update, net = _trainer(self.config(), Path(scratch))
            for _ in range(_WARM_UP):
                update()
            graphs = _graphs()
            laps = [timed(update, 1) for _ in range(self.repeats)]
            seconds = median(laps)
            recompiled = _graphs() - graphs
            peak = peak_memory_gb()
            phases, busy, host = _profiled(update)
            hook = machine.record_passes(net, passes)
            # In eager mode, where the counter and the hook see every operation and every pass.
            with torch.compiler.set_stance("force_eager"), machine.counted_flops() as counter:
                update()
            hook.remove()
        flops, unit = counter.get_total_flops(), gemm_seconds()
        rate = 2 * machine.GEMM**3 / gemm_seconds(getattr(torch, self.dtype))
        return {
            "bench": "step",
            **vars(self),
            "seconds": round(seconds, 4),
            "spread": [round(min(laps), 4), round(max(laps), 4)],
            "phases": {name: round(value, 4) for name, value in phases.items()},
            "busy": busy,
            "host": host,
            "gemm_seconds": round(unit, 6),
            "units": round(seconds / unit, 2),
            "peak_memory_gb": round(peak, 2),
            "tokens": {
                "forward": sum(images * n for images, n, _ in passes),
                "backward": sum(images * n for images, n, gradient in passes if gradient),
            },
            "tflop": round(flops / 1e12, 3),
            "utilisation": round(flops / seconds / rate, 3),
            "recompiled": recompiled,
            "threads": torch.get_num_threads(),
            **evaluate.stamp(),
        }


_PHASES = {
    "main pass": (method, "forward"),
    "cam passes": (method, "multi_scale_cams"),
    "local crops": (method, "embed_views"),
    "patch codes": (method, "embed_anchors"),
    "refinement": (method, "pseudo_label"),
    "other losses": (method, "losses"),
    "backward": (torch.Tensor, "backward"),
    "optimizer": (torch.optim.AdamW, "step"),
}
"""Functions of a step that the profiler marks. The four of _INNER run within `forward`; their time is taken off it."""
_INNER = ("cam passes", "local crops", "patch codes", "refinement")


def _trainer(config: Config, scratch: Path) -> tuple[Callable[[], Any], SegmentationModel]:
    """Make a `train.Trainer` in the middle of its run; return a function that takes its step on random images, and its
    network."""
    classes = DATASETS[config.data.name].classes
    split = datasets.Split(machine.draw(scratch / "set", 2, classes=classes), "val", masks=True)
    trainer = train.Trainer(config, split, split, scratch / "run", device())
    trainer.step = config.optim.steps // 2  # by then every term of the schedule has joined
    batch = machine.random_batch(config, classes, config.optim.batch // config.optim.accumulate)
    wrapped, batches = method.Forward(trainer.model, config), itertools.repeat(batch)
    return lambda: trainer._update(wrapped, batches), trainer.model


def _graphs() -> int:
    """Return the number of graphs that torch.compile has made so far."""
    counters = sys.modules.get("torch._dynamo.utils")
    return counters.counters["stats"]["unique_graphs"] if counters else 0


def _profiled(update: Callable[[], Any]) -> tuple[dict[str, float], float | None, list[str]]:
    """Profile two steps: seconds by phase, the share in which a GPU works, and what takes the host longest."""

    def marked(work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with record_function(f"phase {name}"):
                result = work(*args, **options)
                synchronise()
                return result

        return call

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=kinds) as plain:  # without marks, which wait for the device
        seconds = timed(update, 1)
    with ExitStack() as stack:
        for name, (owner, function) in _PHASES.items():
            stack.enter_context(patch.object(owner, function, marked(getattr(owner, function), name)))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            update()
    spent = {event.key: event.cpu_time_total / 1e6 for event in seen.key_averages()}
    phases = {name: spent[f"phase {name}"] for name in _PHASES if f"phase {name}" in spent}
    phases["main pass"] -= sum(phases.get(name, 0.0) for name in _INNER)
    events = plain.key_averages()
    longest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:5]
    working = sum(event.self_device_time_total for event in events) / 1e6
    busy = round(working / seconds, 3) if torch.cuda.is_available() else None
    return phases, busy, [event.key for event in longest]


# Parts of a step.


@dataclass(frozen=True)
class Refine(Bench):
    """Pseudo labels of a batch of smooth random images with both background levels."""

    images: int = 2
    """Images of the batch."""
    size: int = 448
    """Side of the crop in pixels; refinement and energy work at half of it."""
    classes: int = 3
    """Classes that the images have."""
    repeats: int = 5
    """Calls that are timed, after one to warm up."""

    def measure(self) -> dict[str, Any]:
        """Return the seconds of a call; making its input is not timed."""
        batch = self._batch()
        label, maps = torch.ones_like(batch.label), torch.rand(self.images, self.classes, self.size, self.size)
        maps = maps.to(device())
        return self._timed(lambda: refine.segmentation_labels(batch.image, maps, label, batch.box, 0.25, 0.7))

    def _batch(self) -> Batch:
        config = presets.get("voc", augment__crop=self.size, augment__local_size=min(96, self.size))
        return machine.random_batch(config, self.classes, self.images)

    def _timed(self, work: Callable[[], Any]) -> dict[str, Any]:
        timed(work, 1)
        seconds, unit = timed(work, self.repeats), gemm_seconds()
        return {
            "bench": type(self).__name__.lower(),
            **vars(self),
            "seconds": round(seconds, 4),
            "images_a_second": round(self.images / seconds, 2),
            "gemm_seconds": round(unit, 6),
            "units": round(seconds / unit, 3),
            "peak_memory_gb": round(peak_memory_gb(), 2),
            "threads": torch.get_num_threads(),
            **evaluate.stamp(),
        }


@dataclass(frozen=True)
class Energy(Refine):
    """The bilateral filter of a batch's probabilities."""

    classes: int = 21
    """Classes with background."""

    def measure(self) -> dict[str, Any]:
        """Return the seconds of a call; making its input is not timed."""
        batch = self._batch()
        valid = cam.box_mask(batch.box, (self.size, self.size))
        half = torch.randn(self.images, self.classes, self.size // 2, self.size // 2, device=device()).softmax(1)
        return self._timed(lambda: energy.filtered(batch.image, half, valid))


@dataclass(frozen=True)
class Crf(Energy):
    """Dense CRF with ten iterations, `images` times on one drawn photograph."""

    def measure(self) -> dict[str, Any]:
        """Return the seconds of a call; making its input is not timed."""
        random = np.random.default_rng(0)
        image = machine.photograph(random, (self.size, self.size))
        probability = random.dirichlet(np.ones(self.classes), (self.size, self.size)).transpose(2, 0, 1)
        probability = np.ascontiguousarray(probability, np.float32)
        return self._timed(lambda: [crf.dense_crf(image, probability) for _ in range(self.images)])


BENCHES = Group(
    _USAGE,
    {
        "step": Step,
        "infer": "wsss.tools.bench_infer:Infer",
        "refine": Refine,
        "energy": Energy,
        "crf": Crf,
        "merge": "wsss.tools.bench_merge:Merge",
        "memory": "wsss.tools.bench_memory:Memory",
    },
    "bench",
)
"""The command `wsss bench`."""
