"""`wsss bench infer`: time a final evaluation of drawn photographs, beside the best possible time.

It calls the functions of `wsss evaluate --protocol voc`. The best time is that of its operations and its CRF alone.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import psutil
import torch
from PIL import Image

from wsss import evaluate, model, presets, process, protocols
from wsss.data.voc import Split
from wsss.inference import multi_scale, runs, stream
from wsss.inference.predictions import Job, finish
from wsss.inference.request import Choice
from wsss.inference.stream import Shard
from wsss.model import SegmentationModel
from wsss.registry import DATASETS
from wsss.tools import machine
from wsss.tools.machine import Bench, Passes, device, gemm_seconds, peak_memory_gb, synchronise


@dataclass(frozen=True)
class Infer(Choice, Bench):
    """A final evaluation of drawn photographs: reading, network at all scales, CRF, PNGs, counts."""

    images: int = 20
    """Timed photographs; one more is evaluated before them to warm up."""
    width: int = 500
    """Width of a photograph in pixels."""
    height: int = 375
    """Height of a photograph in pixels."""
    backbone: str = "deit_base_patch16_224"
    """timm name of the ViT; its weights are random."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs under autocast."""
    batch: int = 1
    """Photographs that go through the network at once."""
    workers: int | None = None
    """Processes for the CRF. None: one per core, or fewer if memory is small. 0: the CRF runs in this process, which
    can then be stopped only between two steps of a CRF."""

    def measure(self) -> dict[str, Any]:
        """Return images a second, seconds by phases, operations, memory, and the ratio to the best possible time.

        `phases` add up to `seconds`. Their `crf` is the time that this process waits for CRF, PNGs and counts, most of
        which other processes make. `crf_seconds` is the time of the CRF on one core. `best_seconds` is the time of the
        operations at the rate of a matrix product in the same type, plus `crf_seconds` / cores; `ratio` is `seconds`
        over it. `outside`: see `_outside`.
        """
        protocol = self.chosen()
        config = presets.get(
            self.protocol,
            **{"model.backbone": self.backbone, "model.pretrained": False, "model.checkpoint": ""},
        )
        net = model.build(config, DATASETS[self.protocol].classes).to(device()).eval()
        workers, spent = runs.crf_workers(self.workers, protocol), {}
        settings = replace(self, workers=workers)
        with tempfile.TemporaryDirectory() as scratch:
            seconds, crf, passes, operations = _evaluate(net, protocol, settings, Path(scratch), spent)
        unit, rate = gemm_seconds(), 2 * machine.GEMM**3 / gemm_seconds(getattr(torch, self.dtype))
        best = operations / rate + crf / process.cores()
        phases = {  # the network lies within the scores, and these within the jobs
            "network": spent["network"],
            "resizing": spent["scores"] - spent["network"],
            "reading and softmax": spent["jobs"] - spent["scores"],
            "crf": seconds - spent["jobs"],
        }
        return {
            "bench": "infer",
            **vars(settings),
            "scales": list(protocol.scales),
            "flip": protocol.flip,
            "crf": bool(protocol.crf),
            "classes": net.decoder.conv8.out_channels,
            "seconds": round(seconds, 3),
            "images_a_second": round(self.images / seconds, 4),
            "phases": {name: round(value, 3) for name, value in phases.items()},
            "crf_seconds": round(crf, 3),
            "gemm_seconds": round(unit, 6),
            "units": round(seconds / unit, 2),
            "tokens": sum(n * count for n, count, _ in passes),
            "tflop": round(operations / 1e12, 3),
            "best_seconds": round(best, 3),
            "ratio": round(seconds / best, 3),
            "outside": _outside(protocol, self) if protocol.crf else None,
            "peak_memory_gb": round(peak_memory_gb(), 2),
            "workers_memory_gb": round(spent["workers"], 2),
            "threads": torch.get_num_threads(),
            "cores": process.cores(),
            **evaluate.stamp(),
        }


def _evaluate(
    net: SegmentationModel, protocol: protocols.Protocol, settings: Infer, scratch: Path, spent: dict[str, float]
) -> tuple[float, float, Passes, int]:
    """Draw the photographs, evaluate one to warm up, then time the others.

    Returns their seconds, the core seconds of the CRF, the passes of the encoder and the floating point operations.
    Operations are counted on the first photograph and multiplied by the number of the others. `_clocks` fills `spent`.
    """
    size, classes = (settings.width, settings.height), DATASETS[settings.protocol].classes
    images = Split(machine.draw(scratch / "set", settings.images + 1, size, classes), "val", True, labels=False)
    work = Shard(
        net, images, range(1), protocol, scratch / "warm", device(), settings.dtype == "bfloat16", settings.batch
    )
    with machine.counted_flops() as counter:
        stream.finish(work, 0)
    work = replace(work, places=range(1, settings.images + 1), folder=scratch / "made")
    with _clocks(net, spent) as passes:
        started = time.perf_counter()
        done = stream.finish(work, settings.workers)
        seconds = time.perf_counter() - started
    return seconds, sum(image.crf_seconds for image in done), passes, settings.images * counter.get_total_flops()


@contextmanager
def _clocks(net: SegmentationModel, spent: dict[str, float]) -> Iterator[Passes]:
    """Add up in `spent` the seconds of the network, of `multi_scale.scores` and of `Shard.jobs`.

    `spent` also gets the peak memory of the workers in 10^9 bytes, where /proc tells it. Yields the passes of the
    encoder: images, patch tokens, and whether a gradient is asked for.
    """
    passes: Passes = []
    since: list[float] = []  # a stack, since these spans lie within one another

    def start(*_: Any) -> None:
        synchronise()
        since.append(time.perf_counter())

    def stop(name: str) -> None:
        synchronise()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - since.pop()

    def scores(*arguments: Any, work: Callable[..., Any] = multi_scale.scores) -> Any:
        start()
        result = work(*arguments)
        stop("scores")
        return result

    def jobs(shard: Shard, event: threading.Event, work: Callable[..., Iterator[Job]] = Shard.jobs) -> Iterator[Job]:
        source, job = work(shard, event), None
        while True:
            start()
            job = next(source, None)
            stop("jobs")
            if job is None:  # the workers still run; later their memory could not be read
                spent["workers"] = (
                    sum(machine.resident_mb(child, peak=True) for child in machine.children(psutil.Process())) / 1e3
                )
                return
            yield job
            del job  # only the worker that has it keeps it in memory

    hooks = [
        net.register_forward_pre_hook(start),
        net.register_forward_hook(lambda *_: stop("network")),
        machine.record_passes(net, passes),
    ]
    with patch.object(multi_scale, "scores", scores), patch.object(Shard, "jobs", jobs):
        yield passes
    for hook in hooks:
        hook.remove()


_PATCH = 16
"""Side of a patch in pixels."""
_COMPETING = 10
"""Classes, background included, whose probability passes 0.05 somewhere in a photograph: the number that `wsss bench
merge` finds over 81 classes."""
_OUTSIDE = 3
"""Largest number of photographs on which the time outside the network is measured."""


def _outside(protocol: protocols.Protocol, settings: Infer) -> dict[str, float]:
    """Return CPU seconds of one core per image, from the network's logits to PNG and counts, for us and for the base.

    The base writes the combined logits to disk (.npy); a second pass makes softmax, whole CRF, PNG and counts.
    `resizing` is part of both. The logits are drawn so that _COMPETING classes matter: the random weights of the
    bench's network would make all classes alike.
    """
    random, count = np.random.default_rng(0), min(settings.images, _OUTSIDE)
    size, classes = (settings.width, settings.height), DATASETS[settings.protocol].classes + 1  # with background
    level = np.where(np.arange(classes) < _COMPETING, 0.0, -9.0)[:, None, None]
    spent, clock = dict.fromkeys(("resizing", "ours", "base"), 0.0), [0.0]

    def lap(name: str) -> None:
        now = time.process_time()
        spent[name], clock[0] = spent[name] + now - clock[0], now

    def network(image: torch.Tensor) -> torch.Tensor:
        """Return logits of smooth objects on the token grid; this time is not counted."""
        lap("resizing")
        rows, columns = image.shape[2] // _PATCH, image.shape[3] // _PATCH
        coarse = torch.from_numpy(random.normal(0, 4, (len(image), classes, 4, 5)) + level).float()
        logits = multi_scale.resize(coarse, (rows, columns)) + torch.randn(rows, columns)
        clock[0] = time.process_time()
        return logits

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images = Split(machine.draw(folder / "set", count, size, classes - 1), "val", True, labels=False)
        for name, file, mask in zip(images.ids, images.files, images.masks, strict=True):
            picture = Image.open(file)
            image = multi_scale.pixels(picture, protocol)[None].float()
            job = Job(name, folder / f"{name}.png", classes, None, np.asarray(picture), mask=mask)
            clock[0] = time.process_time()
            combined = multi_scale.scores(network, image, [picture.size[::-1]], protocol, _PATCH)[0]
            lap("resizing")
            finish(replace(job, scores=combined.softmax(0).numpy(), crf=asdict(protocol.crf)))
            lap("ours")
            np.save(folder / "logits.npy", combined.numpy())
            probability = torch.from_numpy(np.load(folder / "logits.npy")).softmax(0).numpy()
            finish(replace(job, scores=probability, crf=asdict(replace(protocol.crf, merge=None))))
            lap("base")
    resizing, ours, base = (round(seconds / count, 3) for seconds in spent.values())
    whole = {"ours": resizing + ours, "base": resizing + base}
    return {**whole, "resizing": resizing, "ratio": round(whole["base"] / whole["ours"], 2)}
