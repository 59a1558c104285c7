"""Tools of all benches: time, its unit, memory, operations, random photographs. Run them on an idle machine."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import UInt8
from PIL import Image
from torch.utils import flop_counter
from torch.utils.hooks import RemovableHandle

from wsss.batch import Batch
from wsss.cam import whole_box
from wsss.config import Config
from wsss.data.pictures import write_mask
from wsss.model import SegmentationModel

GEMM = 4096
"""Side of the matrices whose product is the unit of time."""
_GRAIN = 6.0
"""Standard deviation of the grain in grey levels. With it the CRF takes as long as for real photographs."""

Passes = list[tuple[int, int, bool]]
"""A row for each pass of the encoder: images, patch tokens of one, whether it has a gradient."""


class Bench:
    """A command that prints what it measures as one JSON line."""

    def measure(self) -> dict[str, Any]:
        """Return the numbers, what was measured, and where. Raises UserError."""
        raise NotImplementedError

    def __call__(self) -> str:
        return json.dumps(self.measure())


def device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    """Wait until the accelerator has finished all work given to it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of `repeats` calls."""
    times = []
    for _ in range(repeats):
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        times.append(time.perf_counter() - started)
    return median(times)


def gemm_seconds(dtype: torch.dtype = torch.float32) -> float:
    """Return the seconds of one product of two 4096 x 4096 matrices."""
    left, right = torch.randn(2, GEMM, GEMM, device=device()).to(dtype)
    timed(lambda: left @ right, 1)
    return timed(lambda: left @ right, 5)


def peak_memory_gb() -> float:
    """Return the highest memory so far in 10^9 bytes: the accelerator's, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def resident_mb(process: psutil.Process, peak: bool = False) -> float:
    """Return the resident memory of a process in 10^6 bytes, now or (`peak`, Linux) at its highest; 0 after its end."""
    try:
        if not peak:
            return process.memory_info().rss / 1e6
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (OSError, psutil.Error):
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM:")), 0.0)


def children(process: psutil.Process) -> list[psutil.Process]:
    """List all processes that a process has started, directly or not, and that have not ended."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


@contextmanager
def counted_flops() -> Iterator[flop_counter.FlopCounterMode]:
    """Yield PyTorch's counter of floating point operations, extended by fused attention on a CPU, which it leaves out.

    A backward pass of attention counts as two forward passes, fused or not. What the kernels compute again is not
    counted.
    """
    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return 2 * flop_counter.sdpa_flop_count(query, key, value)

    formulas = {aten._scaled_dot_product_flash_attention_for_cpu: forward}
    for kind in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
        formulas[getattr(aten, f"_scaled_dot_product_{kind}_backward")] = backward
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=formulas)
    counter.mod_tracker = _Whole()  # its own puts hooks on modules, which fail for the teacher, under no_grad
    with counter:
        yield counter


class _Whole(nullcontext):
    """Stand-in for PyTorch's tracker of modules: everything is counted under one name."""

    parents = frozenset({"Global"})


def record_passes(net: SegmentationModel, passes: Passes) -> RemovableHandle:
    """Append every pass of the encoder to `passes`, until the handle is removed."""
    return net.encoder.patch_embed.register_forward_hook(
        lambda _, __, out: passes.append((out.shape[0], out[0, ..., 0].numel(), torch.is_grad_enabled()))
    )


# Random photographs.


def random_batch(config: Config, classes: int, images: int) -> Batch:
    """Make a batch of smooth random images, two classes each, without padding."""
    side = config.augment.crop
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(3 * images, 3, side // 16, side // 16, generator=generator)
    views = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").unflatten(0, (3, images))
    views = (58 * views + 116).round().clamp(0, 255).byte()  # about the deviation and mean of ImageNet's pixels
    label = torch.zeros(images, classes)
    for row in range(images):
        label[row, [row % classes, (row + 1) % classes]] = 1
    box = whole_box(images, (side, side), label.device)
    return Batch([str(n) for n in range(images)], views[0], label, box, views[1], views[2]).to(device())


def photograph(random: np.random.Generator, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Make a random image of (width, height) pixels, smooth with some grain."""
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
    pixels = np.asarray(coarse) + random.normal(0, _GRAIN, (*size[::-1], 3))
    return pixels.clip(0, 255).astype(np.uint8)


def draw(root: Path, images: int, size: tuple[int, int] = (500, 375), classes: int = 20) -> Path:
    """Write a data set in the VOC layout: random photographs of (width, height) pixels, and masks of three bands.
    Returns `root`."""
    random, names = np.random.default_rng(0), [f"{number:06d}" for number in range(images)]
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    mask = np.tile((np.arange(size[0]) * 3 // size[0]).astype(np.uint8), (size[1], 1))
    for name in names:
        Image.fromarray(photograph(random, size)).save(root / f"JPEGImages/{name}.jpg", quality=90)
        write_mask(root / f"SegmentationClass/{name}.png", mask)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("\n".join(f"class {number}" for number in range(classes)))
    return root
