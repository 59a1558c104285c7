"""`make gpu`: check a GPU before days are spent on it. It prints a line of JSON per part, and a table at the end.

Without a GPU it says so and does nothing more. With `--toy True` every part runs at toy size, on any device.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from wsss import command, contrast, distributed, evaluate, method, model, presets, schedule, subspace
from wsss.batch import Batch
from wsss.config import Config
from wsss.process import cores
from wsss.report.table import Table
from wsss.tools.bench import Step
from wsss.tools.bench_infer import Infer
from wsss.tools.machine import device, draw, random_batch

_TOY = {
    "model.backbone": "vit_tiny_patch16_224",
    "model.width": 48,
    "model.depth": 4,
    "model.heads": 3,
    "augment.crop": 64,
    "augment.evaluation_size": 64,
    "augment.local_size": 32,
    "class_contrast.hidden": 32,
    "class_contrast.bottleneck": 16,
    "msc.dimension": 4,
}
_NUMBERS = ("seconds", "peak_memory_gb", "utilisation", "busy", "host")
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest relative difference of a term or of the gradient's norm from the CPU in float32. It is well above rounding:
errors add up over 12 blocks, and the CAM is compared with thresholds, where one more token moves a term by much."""

_LIMIT = 300.0
"""Seconds that a run in a separate process may take, so that one that hangs does not stop the other parts."""


@dataclass(frozen=True)
class Check:
    """Run every part in turn. Exit code 1 if a part misses its bound, or fails: then its line holds the error."""

    toy: bool = False
    """Toy size, on any device."""
    steps: int = 200
    """Steps of the run that is stopped and resumed."""
    repeats: int = 10
    """Steps that are timed and profiled."""
    images: int = 20
    """Photographs of the drawn set, and of the evaluation with CRF."""

    def config(self, **changes: Any) -> Config:
        """Return the paper's preset with random weights."""
        return presets.get("voc", **{"model.pretrained": False, **(_TOY if self.toy else {}), **changes})

    def __call__(self) -> int:
        if not (self.toy or torch.cuda.is_available()):
            print("make gpu: PyTorch sees no GPU here, so nothing was checked; --toy True runs all parts at toy size")
            return 0
        rows, stamp = [], {**evaluate.stamp(), "cores": cores(), "toy": self.toy}
        for name, part in PARTS.items():
            started = time.perf_counter()
            try:
                numbers = part(self)
            except Exception as error:  # the other parts still run
                numbers = {"error": f"{type(error).__name__}: {error}", "ok": False}
            line = {"part": name, **numbers, "took": round(time.perf_counter() - started, 1), **stamp}
            print(json.dumps(line), flush=True)
            rows.append((name, "yes" if numbers.pop("ok") else "NO", str(line["took"]), json.dumps(numbers)))
        print(Table("What a GPU must show", ("part", "as it must be", "s", "numbers"), tuple(rows), "").text())
        return int(any(row[1] == "NO" for row in rows))


def _parity(check: Check) -> dict[str, Any]:
    """Compare a step on the device with the CPU: the largest relative difference of a term or of the gradient's norm.
    The CPU's crops and anchors are used on both."""
    config, drawn = check.config(**{"csa.direction": "both"}), {}
    batch = random_batch(config, 20, 2)
    crops, anchors = (_kept(drawn, work) for work in (contrast.choose_crops, subspace.choose_anchors))
    with patch.object(contrast, "choose_crops", crops), patch.object(subspace, "choose_anchors", anchors):
        reference = _step(config, batch.to(torch.device("cpu")), "float32")
        rows = {name: _step(config, batch, name) for name in _TOLERANCE}
    worst = {name: max(abs(row[term] / reference[term] - 1) for term in reference) for name, row in rows.items()}
    return {**worst, "ok": all(worst[name] <= _TOLERANCE[name] for name in worst)}


def _kept(drawn: dict[Any, Any], work: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `work` so that every later call returns its first result, moved to the caller's device."""

    def call(first: torch.Tensor, *rest: Any, **switches: bool) -> Any:
        if work not in drawn:
            drawn[work] = work(first, *rest, **switches)
        kept = drawn[work]
        return kept.to(first.device) if isinstance(kept, torch.Tensor) else tuple(x.to(first.device) for x in kept)

    return call


def _step(config: Config, batch: Batch, dtype: str) -> dict[str, float]:
    """Return the terms of one step and the norm of its gradient, computed on the batch's device."""
    place = batch.image.device
    net, step = model.build(config, 20).to(place).train(), config.optim.steps // 2
    generator = torch.Generator(place).manual_seed(0)
    with torch.autocast(place.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        terms = method.losses(*method.forward(net, batch, config, step, generator), config)
        loss = method.objective(terms, schedule.term_weights(step, config))
    loss.backward()
    norms = [parameter.grad.norm() for parameter in net.parameters() if parameter.grad is not None]
    return {name: value.item() for name, value in terms.items()} | {"gradient": torch.stack(norms).norm().item()}


def _steps(check: Check) -> dict[str, Any]:
    """Measure steps as `wsss bench step` does, by preset and type: seconds, peak memory, use of the machine, the share
    of time in which the GPU works, and what takes the host longest."""
    size = {"backbone": _TOY["model.backbone"], "crop": 64} if check.toy else {}
    rows: dict[str, Any] = {}
    kinds = (("voc", "bfloat16"), ("voc", "float32"), ("voc-toco", "bfloat16"))
    for preset, dtype in kinds if distributed.computes_bfloat16(device()) else kinds[1:2]:
        bench = Step(preset, batch=2, dtype=dtype, repeats=check.repeats, **size).measure()
        rows[f"{preset} {dtype}"] = {name: bench[name] for name in _NUMBERS}
    return {**rows, "ok": True}


def _compiled(check: Check) -> dict[str, Any]:
    """Time a step with compiled blocks, and count the graphs compiled after the warm-up, which must be none."""
    size = {"backbone": _TOY["model.backbone"], "crop": 64} if check.toy else {}
    bench = Step("voc", batch=2, repeats=check.repeats, compile=True, **size).measure()
    return {"seconds": bench["seconds"], "recompiled": bench["recompiled"], "ok": bench["recompiled"] == 0}


def _resumed(check: Check) -> dict[str, Any]:
    """Stop a run on drawn photographs after its first checkpoint, and let it go on to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = _train(check, Path(scratch), "--optim.steps", str(check.steps))
        saved = lambda: list(Path(scratch).glob("runs/*/*/0/step-*.pt"))  # noqa: E731
        codes = [_code(arguments, until=saved), _code(arguments)]
        rows = [json.loads(line) for line in next(Path(scratch).glob("runs/*/*/0/log.jsonl")).read_text().splitlines()]
    last = [row for row in rows if "seconds" in row][-1]
    return {"codes": codes, "seconds a step": last["seconds"] / last["step"], "ok": codes == [143, 0]}  # 143: SIGTERM


def _ranks(check: Check) -> dict[str, Any]:
    """Compare two processes that share the device (by gloo) with one process that accumulates. `apart` is the distance
    of their weights after four steps, as a share of the distance that the weights have moved."""
    same = ("--optim.steps", "4", "--optim.bfloat16", "False", "--optim.warmup", "0")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    weights, codes = [], []
    for more, start in (((), launcher), (("--optim.accumulate", "2"), ())):
        with tempfile.TemporaryDirectory() as scratch:
            arguments = _train(check, Path(scratch), *same, *more)
            codes.append(_code([arguments[0], *start, *arguments[1:]]))
            weights += [load_file(file) for file in Path(scratch).glob("runs/*/*/0/step-*.safetensors")]
    if any(codes):
        return {"codes": codes, "ok": False}
    begin = model.build(check.config(), 20).state_dict()
    apart, moved = (
        torch.cat([(value - other[name]).flatten() for name, value in weights[0].items()]).norm()
        for other in (weights[1], begin)
    )
    return {"codes": codes, "apart": float(apart / moved), "ok": bool(apart <= 0.05 * moved)}


def _code(arguments: list[str], until: Callable[[], Any] = lambda: False) -> int:
    """Run a command, ask it to stop once `until` holds, and return its exit code. An error's last line goes to stderr.
    Raises TimeoutError if it takes more than _LIMIT seconds."""
    end = time.monotonic() + _LIMIT
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
        while child.poll() is None and time.monotonic() < end and not until():
            time.sleep(0.05)
        child.terminate()  # torchrun then ends its processes; after the end this does nothing
        try:
            code = child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        errors.seek(0)
        if code and (lines := errors.read().splitlines()):
            print(lines[-1], file=sys.stderr)
    if time.monotonic() > end:
        raise TimeoutError(f"a run took more than {_LIMIT:.0f} seconds")
    return code


def _train(check: Check, scratch: Path, *more: str) -> list[str]:
    """Return the words of a command that trains the preset on drawn photographs below `scratch`."""
    root = scratch / "set"
    if not root.exists():
        draw(root, check.images)
    toy = [word for name, value in _TOY.items() for word in (f"--{name}", str(value))] if check.toy else []
    split = ["--data.train_split", "val", "--data.val_split", "val", "--save_every", "0.1", "--validate_every", "1"]
    place = ["--data.root", str(root), "--output", str(scratch / "runs"), "--variant", "gpu"]
    return [sys.executable, "-m", "wsss", "train", "voc", "--model.pretrained", "False", *toy, *split, *place, *more]


def _crf(check: Check) -> dict[str, Any]:
    """Time a final evaluation with its CRF workers, as `wsss bench infer` does."""
    size = {"backbone": _TOY["model.backbone"], "width": 64, "height": 48} if check.toy else {}
    bench = Infer(images=check.images, **size).measure()
    return {name: bench[name] for name in ("images_a_second", "phases", "crf_seconds", "ratio")} | {"ok": True}


PARTS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "parity": _parity,
    "steps": _steps,
    "compiled": _compiled,
    "resumed": _resumed,
    "ranks": _ranks,
    "crf": _crf,
}


if __name__ == "__main__":
    sys.exit(command.main("python -m wsss.tools.gpu", Check))
