"""Estimate the cost of a final evaluation before it begins: sizes, tokens, time and memory."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch

from wsss import distributed, protocols
from wsss.data import pictures
from wsss.data.pool import AHEAD
from wsss.inference.crf import dense_crf
from wsss.inference.stream import Shard
from wsss.paths import UserError
from wsss.protocols import Protocol, Size

# Fitted to peaks of resident memory on drawn photographs and on VOC's (ViT-Ti and ViT-B, 3 and 21 classes, 500 x 375 to
# 2000 x 1500 pixels). The estimates lie within a third of the measured peaks.
_TOKEN_FLOATS = 26
"""Floats that a pass of the network holds at its peak, for each token of an image and each number in a token."""
_LOGIT_MAPS = 6
"""Copies of one image's logits, at the photograph's size, held at once while scales and mirror images are combined."""
_CRF_PIXEL, _CRF_LOGIT = 200, 48
"""Bytes that a CRF takes for each pixel, and for each pixel and class."""
_FEW = 8
"""Number of classes assumed for the time of a CRF that merges classes; its memory is estimated for all of them."""
_LIMITS = (4096, 3072, 2048, 1536, 1024, 768, 512)
"""Longer sides to propose if a photograph is too large."""
_COMMON = 1024
"""Longer side above which --longest is mentioned; photographs of VOC and COCO have at most 640 pixels."""


@dataclass(frozen=True)
class Plan:
    """The photographs that are still to be predicted, and the settings that decide the cost."""

    names: Sequence[str]
    sizes: Sequence[Size]
    """Width and height of each photograph, upright."""
    protocol: Protocol
    classes: int
    """Background included."""
    patch: int
    width: int
    """Width of a token."""
    batch: int
    workers: int
    """CRF processes beside each of the `processes`; 0: none."""
    processes: int
    """Processes on this machine."""
    accelerator: int | None = None
    """Free bytes of the accelerator that the network runs on; None: it runs on the host."""

    def _seen(self) -> list[Size]:
        """Return height and width of each photograph as the CRF sees it."""
        return [protocols.limited(size, self.protocol.longest)[::-1] for size in self.sizes]

    def largest(self) -> int:
        """Return the index of the photograph with the most pixels."""
        return max(range(len(self.sizes)), key=lambda number: math.prod(self.sizes[number]))

    def tokens(self, size: Size, scale: float) -> int:
        """Count the patch tokens of a photograph of `size` (height, width) at a scale."""
        size = (self.protocol.size, self.protocol.size) if self.protocol.size else size
        return math.prod(side // self.patch for side in protocols.scaled_size(size, scale, self.patch))

    def network_bytes(self) -> int:
        """Estimate the peak memory of one process for the network's largest batch and the combination of its logits."""
        pixels = max(map(math.prod, self._seen()))
        scale, passes = max(self.protocol.scales), self.batch * (2 if self.protocol.flip else 1)
        tokens = max(self.tokens(size, scale) for size in self._seen())
        images = 4 * 3 * tokens * self.patch**2 * passes * 2
        maps = _LOGIT_MAPS + self.batch - 1
        return 4 * _TOKEN_FLOATS * tokens * self.width * passes + images + 4 * maps * self.classes * pixels

    def crf_bytes(self) -> int:
        """Estimate the CRF's peak memory in one process and its workers: largest photographs, next ones waiting."""
        if not self.protocol.crf:
            return 0
        pixels = sorted(map(math.prod, self._seen()), reverse=True)
        waiting = pixels[: AHEAD * self.workers + 1] if self.workers else []
        working = sum(pixels[: max(1, self.workers)])
        return working * (_CRF_PIXEL + _CRF_LOGIT * self.classes) + 4 * self.classes * sum(waiting)

    def bytes(self) -> int:
        """Estimate the peak memory of all processes on this machine."""
        # Without workers a process either scores or refines. It keeps freed memory, so the larger of both counts.
        network, crf = self.network_bytes() * (self.accelerator is None), self.crf_bytes()
        return self.processes * (network + crf if self.workers else max(network, crf))

    @classmethod
    def of(cls, shard: Shard, workers: int) -> "Plan":
        """Plan the work that is left in the shards of all processes. Reads only headers of photographs. Raises
        UserError."""
        images, processes = shard.images, distributed.local_world_size()
        left = [number for number, name in enumerate(images.ids) if not (shard.folder / f"{name}.png").is_file()]
        return cls(
            names=[images.ids[number] for number in left],
            sizes=[pictures.upright_size(images.files[number]) for number in left],
            protocol=shard.protocol,
            classes=len(images.kit.classes) + 1,
            patch=shard.model.patch,
            width=shard.model.encoder.embed_dim,
            batch=shard.batch,
            workers=workers,
            processes=processes,
            accelerator=torch.cuda.mem_get_info(shard.device)[0] if shard.device.type == "cuda" else None,
        )

    def refuse(self, free: int) -> None:
        """Raise UserError if the plan takes more than `free` bytes, or its network more than the accelerator has. The
        message names a limit that would fit."""
        if self._fits(free):
            return
        number = self.largest()
        smaller = (
            replace(self, protocol=replace(self.protocol, longest=limit))
            for limit in _LIMITS
            if limit < max(self.sizes[number])
        )
        fits = next((other for other in smaller if other._fits(free)), None)
        advice = f"--longest {fits.protocol.longest} fits" if fits else "free some memory"
        others = ", or use fewer --workers" if self.workers else ""
        taken, there, where = self.bytes(), free, "memory"
        if taken <= free:  # so the accelerator is too small
            taken, there, where = self.network_bytes(), self.accelerator, "memory on the accelerator"
        raise UserError(
            f"photograph {self.names[number]} has {_pixels(self.sizes[number])}: predicting it takes about "
            f"{_bytes(taken)} of {where}, but {_bytes(there)} are free; {advice}{others}"
        )

    def _fits(self, free: int) -> bool:
        return self.bytes() <= free and (self.accelerator is None or self.network_bytes() <= self.accelerator)

    def sentence(self, expected: float, split: str) -> str:
        """Describe the plan: size and tokens of the largest photograph, time (`expected` seconds) and memory in all."""
        number, count = self.largest(), len(self.sizes)
        seen, scale = self._seen()[number], max(self.protocol.scales)
        scaled = f", scaled down to {_pixels(seen[::-1])}" if seen[::-1] != self.sizes[number] else ""
        limit = (
            ""
            if self.protocol.longest or max(self.sizes[number]) <= _COMMON
            else "; --longest N scales larger ones down"
        )
        return (
            f"predict {split}: {count:,} photograph{'s' * (count > 1)}, the largest, {self.names[number]}, has "
            f"{_pixels(self.sizes[number])}{scaled} ({self.tokens(seen, scale):,} tokens at scale {scale:g}); "
            f"about {_duration(expected)} and {_bytes(self.bytes())} of memory, estimated from small passes on this "
            f"machine{limit}"
        )

    def seconds(self, shard: Shard) -> float:
        """Estimate the seconds: time small passes of the network and a small CRF, and scale by tokens and pixels."""
        token, pair = _pass_seconds(shard)
        counts = [self.tokens(size, scale) for size in self._seen() for scale in self.protocol.scales]
        network = (
            sum(n * token + n * n * pair for n in counts) * (2 if self.protocol.flip else 1) / distributed.world_size()
        )
        if not self.protocol.crf:
            return network
        crf = (
            _crf_seconds(self, shard)
            * sum(map(math.prod, self._seen()))
            / (max(1, self.workers) * distributed.world_size())
        )
        # Beside a GPU the CRF workers run at the same time; on a CPU they share its cores with the network.
        return max(network, crf) if shard.device.type == "cuda" and self.workers else network + crf


def prepare(shard: Shard, workers: int, fixed: bool) -> int:
    """Print what the evaluation takes, and return the number of CRF processes to use.

    These are `workers`, or fewer if memory is too small and the number is not `fixed`. All processes get the answer of
    process 0. Raises UserError if the largest photograph does not fit into memory.
    """

    def estimate() -> int:
        plan, free = Plan.of(shard, workers), available()
        if not plan.names:
            return workers
        while plan.bytes() > free and plan.workers and not fixed:
            plan = replace(plan, workers=plan.workers - 1)
        plan.refuse(free)
        print(plan.sentence(plan.seconds(shard), shard.images.name), file=sys.stderr)
        return plan.workers

    return distributed.from_main(estimate)


def available() -> int:
    """Return the bytes of memory that this process and its children may still take: free ones, fewer in a container."""
    free, resident = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, version 2 and 1
        path = Path("/sys/fs/cgroup") / name
        limit = path.read_text().strip() if path.is_file() else ""
        free = min(free, int(limit) - resident) if limit.isdecimal() else free
    return free


@torch.inference_mode()
def _pass_seconds(shard: Shard) -> tuple[float, float]:
    """Measure the seconds of a pass for each token and, since attention grows with the square, for each pair."""
    spent, (few, many) = {}, (14, 28)
    for side in (few, few, many):  # the first one warms up
        image = torch.zeros(1, 3, side * shard.model.patch, side * shard.model.patch, device=shard.device)
        started = time.perf_counter()
        shard.network(image).sum().item()  # waits for a GPU
        spent[side] = (time.perf_counter() - started) / side**2
    # Lower bound of `pair`: attention runs at best at the rate of the other products. It takes 4 n d operations a token
    # beside their 24 d^2 (n tokens of width d).
    slowest = spent[many] / (6 * shard.model.encoder.embed_dim + many**2)
    pair = max(slowest, (spent[many] - spent[few]) / (many**2 - few**2))
    return max(0.0, spent[many] - pair * many**2), pair


def _crf_seconds(plan: Plan, shard: Shard) -> float:
    """Measure the core seconds of a CRF for each pixel, on a small copy of the first photograph."""
    place = shard.images.ids.index(plan.names[0])
    photograph = pictures.read_image(shard.images.files[place])
    photograph = photograph.resize(protocols.limited(photograph.size, 192))
    pixels = np.asarray(photograph)
    classes = min(plan.classes, _FEW) if plan.protocol.crf.merge else plan.classes
    uniform = np.full((classes, *pixels.shape[:2]), 1 / classes, np.float32)
    started = time.perf_counter()
    dense_crf(pixels, uniform)
    return (time.perf_counter() - started) / math.prod(photograph.size)


def _pixels(size: Size) -> str:
    return f"{size[0]} x {size[1]} pixels"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(expected: float) -> str:
    """Write seconds as minutes, or as hours from two hours on."""
    if expected < 90:
        return "a minute"
    return f"{expected / 60:.0f} minutes" if expected < 7200 else f"{expected / 3600:.1f} hours"
