"""What benches have in common: time, the unit of time, memory, random images. Run them on an idle machine."""

import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from wsss.batch import Batch
from wsss.config import Config

GEMM = 4096
"""Side of the matrices whose product is the unit of time."""


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `repeats` calls after one to warm up."""
    work()
    return median(seconds(work) for _ in range(repeats))


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """Until the accelerator is done with what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gemm_seconds(dtype: torch.dtype = torch.float32) -> float:
    """Seconds of one product of two 4096 x 4096 matrices."""
    one, two = torch.randn(2, GEMM, GEMM, device=device()).to(dtype)
    return timed(lambda: one @ two, 5)


def device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_memory_gb() -> float:
    """Highest memory so far in 10^9 bytes: the accelerator's, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def random_batch(config: Config, classes: int, images: int) -> Batch:
    """Smooth random images, two classes each, no padding."""
    side = config.augment.crop
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(3 * images, 3, side // 16, side // 16, generator=generator)
    views = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").unflatten(0, (3, images))
    views = (58 * views + 116).round().clamp(0, 255).byte()
    label = torch.zeros(images, classes)
    for row in range(images):
        label[row, [row % classes, (row + 1) % classes]] = 1
    box = torch.tensor([[0, side, 0, side]]).expand(images, 4)
    return Batch([str(n) for n in range(images)], views[0], label, box, views[1], views[2]).to(device())
