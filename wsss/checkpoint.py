"""Weights (safetensors) and training state (weights-only pickle) on disk: written atomically, read safely."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsss.paths import UserError, atomic, project_root


def resolve(path: str) -> Path:
    """The file at `path`, looked for in the current folder and then in the project."""
    for candidate in (Path(path), project_root() / path):
        if candidate.is_file():
            return candidate
    raise UserError(f"the checkpoint {path} does not exist; check --model.checkpoint")


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; UserError where it is none."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); it may be cut off: copy it again") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load `tensors` strictly into `module`, converted to its types; UserError names the keys that fail.

    The one freedom: a position grid of another size is not accepted either, since sizes are part of the model.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{key} {tuple(tensors[key].shape)} for {tuple(own[key].shape)}"
        for key in sorted(own.keys() & tensors.keys())
        if own[key].shape != tensors[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(faults.values()):
        words = "; ".join(f"{len(keys)} {kind} ({', '.join(keys[:4])})" for kind, keys in faults.items() if keys)
        raise UserError(f"the checkpoint {name} does not fit the model: {words}; check --model.* against its card")
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"the checkpoint {name} holds values that are not finite, first in {broken[0]}")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in tensors.items()})


def write_weights(module: nn.Module, path: Path) -> None:
    """All tensors of `module` to a safetensors file, atomically."""
    with atomic(path) as temporary:
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, temporary)


def save(run: Path, step: int, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Keep weights and state of `step` in `run`; the pair before is removed only when both files are there."""
    write_weights(module, run / f"step-{step:08d}.safetensors")
    with atomic(run / f"step-{step:08d}.pt") as temporary:
        torch.save(dict(state), temporary)
    for file in run.glob("step-*"):
        if file.suffix in (".safetensors", ".pt") and file.stem != f"step-{step:08d}":
            file.unlink()


def latest(run: Path) -> int | None:
    """The last step whose weights and state are both there."""
    found = {kind: {_step(file) for file in run.glob(f"step-*{kind}")} for kind in (".safetensors", ".pt")}
    return max(found[".safetensors"] & found[".pt"], default=None)


def _step(file: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", file.stem)
    return int(match[1]) if match else -1


def load(run: Path, step: int, module: nn.Module) -> dict[str, Any]:
    """Weights of `step` into `module`; returns the state."""
    fill(module, read(weights_file(run, step)), str(weights_file(run, step)))
    try:
        return torch.load(run / f"step-{step:08d}.pt", weights_only=True)
    except Exception as error:
        raise UserError(f"{run}/step-{step:08d}.pt cannot be read ({error}); delete it to start again") from error


def weights_file(run: Path, step: int) -> Path:
    """Where `save` keeps the weights of `step`."""
    return run / f"step-{step:08d}.safetensors"
