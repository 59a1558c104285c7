"""`wsss bench step`: one training step by phases, in seconds, units, tokens, memory and use of the machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch.utils.hooks import RemovableHandle

from wsss import evaluate, memory, method, model, optim, presets, schedule
from wsss.batch import Batch
from wsss.config import Config
from wsss.model import SegmentationModel
from wsss.registry import BENCHMARKS, DATASETS
from wsss.tools.machine import GEMM, device, gemm_seconds, peak_memory_gb, random_batch, seconds, wait

Passes = list[tuple[int, int, bool]]
"""Of each pass of the encoder: images, patch tokens of one, whether a gradient is asked for."""
CLASSES = {name: DATASETS[name].classes for name in BENCHMARKS}
WARM_UP = 3
"""Steps before the clock starts: until the third, a step still gets memory from the system page by page, which none of
the thousands that follow in a training does."""

PHASES: tuple[tuple[Any, str, str], ...] = (
    (method, "multi_scale_cam", "cam passes"),
    (method, "embed_views", "local crops"),
    (method, "embed_anchors", "patch codes"),
    (method, "pseudo_label", "refinement"),
    (method, "losses", "other losses"),
)
"""Functions of a step that are timed one by one; what `forward` does beside them is the main pass."""


@dataclass(frozen=True)
class Step:
    """One training step on random images, all terms on: forward, losses, backward, optimizer."""

    preset: str = "voc"
    """Preset whose terms and schedule are timed."""
    backbone: str = "deit_base_patch16_224"
    """timm name of the ViT; its weights are random."""
    crop: int = 448
    """Side of the crop in pixels."""
    batch: int = 2
    """Images a step."""
    accumulate: int = 1
    """Micro-batches that make up the step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: under autocast, as in training where the device computes in it."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass."""
    compile: bool = False
    """torch.compile the encoder's blocks."""
    fused_from: int | None = None
    """Fewest tokens for fused attention on a CPU; None: the preset's."""
    repeats: int = 3
    """Steps that are timed, after three to warm up."""


@contextmanager
def clocks(spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds spent in the functions of PHASES; one within another counts for itself alone."""
    inner = [0.0]

    def clocked(work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            before, started = inner[0], time.perf_counter()
            result = work(*args, **options)
            wait()
            whole = time.perf_counter() - started
            spent[name] = spent.get(name, 0.0) + whole - (inner[0] - before)
            inner[0] = before + whole
            return result

        return call

    with ExitStack() as stack:
        for module, function, name in PHASES:
            stack.enter_context(patch.object(module, function, clocked(getattr(module, function), name)))
        yield


def step_config(asked: Step) -> Config:
    """The preset with what is asked for. Raises UserError."""
    changes: dict[str, Any] = {
        "model.backbone": asked.backbone,
        "model.pretrained": False,
        "model.checkpoint": "",
        "model.activation_checkpointing": asked.activation_checkpointing,
        "model.compile": asked.compile,
        "augment.crop": asked.crop,
        "augment.local_size": min(96, asked.crop),
        "optim.batch": asked.batch,
        "optim.accumulate": asked.accumulate,
    }
    if asked.fused_from is not None:
        changes["model.fused_from"] = asked.fused_from
    return presets.get(asked.preset, **changes)


def bench_step(asked: Step) -> dict[str, Any]:
    """Seconds, phases, units, tokens, utilisation and memory of a step."""
    memory.keep_freed()
    config = step_config(asked)
    classes = CLASSES.get(config.data.name, CLASSES["voc"])
    net = model.build(config, classes).to(device()).train()
    optimizer = optim.build(net.trunk_parameters(), net.head_parameters(), net.decoder.parameters(), config.optim)
    batch = random_batch(config, classes, asked.batch // asked.accumulate)
    passes: Passes = []
    hook = record_passes(net, passes)
    spent: dict[str, float] = {}
    with clocks(spent):
        for _ in range(WARM_UP):
            _step(net, batch, config, optimizer, asked, {})
        spent.clear()
        passes.clear()
        times = [seconds(lambda: _step(net, batch, config, optimizer, asked, spent)) for _ in range(asked.repeats)]
    hook.remove()
    passes = passes[: len(passes) // asked.repeats]
    peak = peak_memory_gb()
    unit, rate = gemm_seconds(), 2 * GEMM**3 / gemm_seconds(getattr(torch, asked.dtype))
    work = step_flops(net, passes, asked.batch)
    return {
        "bench": "step",
        **vars(asked),
        "seconds": round(median(times), 4),
        "phases": {name: round(value / asked.repeats, 4) for name, value in spent.items()},
        "gemm_seconds": round(unit, 6),
        "units": round(median(times) / unit, 2),
        "peak_memory_gb": round(peak, 2),
        "tokens": {
            "forward": sum(images * n for images, n, _ in passes),
            "backward": sum(images * n for images, n, grad in passes if grad),
        },
        "tflop": round(work / 1e12, 3),
        "utilisation": round(work / median(times) / rate, 3),
        "threads": torch.get_num_threads(),
        **evaluate.stamp(),
    }


def _step(
    net: SegmentationModel,
    batch: Batch,
    config: Config,
    optimizer: torch.optim.Optimizer,
    asked: Step,
    spent: dict[str, float],
) -> None:
    """What `train.Trainer` does for a step, with the seconds of its parts."""
    step = config.optim.steps // 2
    table = schedule.term_weights(step, config)
    net.update_teacher(config.class_contrast.momentum)
    optimizer.zero_grad()
    for _ in range(asked.accumulate):
        started, before = time.perf_counter(), sum(spent.values())
        with torch.autocast(device().type, torch.bfloat16, enabled=asked.dtype == "bfloat16"):
            output, targets = method.forward(net, batch, config, step, torch.Generator(device()).manual_seed(0))
            _add(spent, "main pass", time.perf_counter() - started - (sum(spent.values()) - before))
            loss = method.objective(method.losses(output, targets, config), table) / asked.accumulate
        started = time.perf_counter()
        loss.backward()
        wait()
        _add(spent, "backward", time.perf_counter() - started)
    started = time.perf_counter()
    optimizer.step()
    wait()
    _add(spent, "optimizer", time.perf_counter() - started)


def _add(spent: dict[str, float], name: str, seconds: float) -> None:
    spent[name] = spent.get(name, 0.0) + seconds


def record_passes(net: SegmentationModel, passes: Passes) -> RemovableHandle:
    """Append every pass of the encoder to `passes`, until the handle is removed."""
    return net.encoder.patch_embed.register_forward_hook(
        lambda _, __, out: passes.append((out.shape[0], out[0, ..., 0].numel(), torch.is_grad_enabled()))
    )


def step_flops(net: SegmentationModel, passes: Passes, images: int) -> float:
    """Floating point operations of a step: (images, patch tokens, with gradient) of every encoder pass, attention
    counted, backward as twice the forward; the decoder on the step's `images`, of the size of the first pass."""
    width, depth, patch = net.encoder.embed_dim, len(net.encoder.blocks), net.patch
    total = 0.0
    for count, patches, grad in passes:
        tokens = patches + net.encoder.num_prefix_tokens
        block = 24 * tokens * width**2 + 4 * tokens**2 * width
        total += (3 if grad else 1) * count * (depth * block + 6 * patches * patch**2 * width)
    decoder = sum(layer.weight.numel() for layer in net.decoder.children())
    return total + 3 * 2 * images * passes[0][1] * decoder
