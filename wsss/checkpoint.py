"""Weights (safetensors) and training state (weights-only pickle) on disk: written atomically, read safely."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
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
    # By way of bytes: the library's own writer has other errors for a full disk, and hides the file from other users.
    data = to_bytes({key: value.contiguous() for key, value in module.state_dict().items()})
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def save(run: Path, step: int, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Keep weights and state of `step` in `run`; the pair before is removed only when both files are there."""
    write_weights(module, run / f"step-{step:08d}.safetensors")
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with atomic(run / f"step-{step:08d}.pt") as temporary:
        temporary.write_bytes(buffer.getvalue())
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
    """Weights of `step` into `module`; returns the state. UserError where a file is cut off or holds more than tensors
    and plain values, which is never run."""
    fill(module, read(weights_file(run, step)), str(weights_file(run, step)))
    path = run / f"step-{step:08d}.pt"
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        raise UserError(
            f"{path} is cut off or is no training state of wsss ({kind}); delete it to start this run again"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is no training state of wsss; delete it to start this run again")
    return state


def weights_file(run: Path, step: int) -> Path:
    """Where `save` keeps the weights of `step`."""
    return run / f"step-{step:08d}.safetensors"
