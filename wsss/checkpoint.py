"""Weights (safetensors) and training state (weights-only pickle) on disk: written atomically, read safely.

The base's released weights (.pth) are read as well; nothing that a file holds is ever run.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from wsss import stored
from wsss.config import Config
from wsss.paths import UserError, atomic, project_root, read_json


def resolve(path: str) -> Path:
    """The file at `path`, looked for in the current folder and then in the project."""
    for candidate in (Path(path), project_root() / path):
        if candidate.is_file():
            return candidate
    raise UserError(f"the checkpoint {path} does not exist; check --model.checkpoint")


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a .pth or .pt file, or else of a safetensors file; UserError where it is none.

    The base's released checkpoints are of the first kind: the leading `module.` of every name is taken off, and
    `encoder.head.*`, the classifier of its backbone's pretraining, is left out.
    """
    tensors = _read_pickle(path) if path.suffix in (".pth", ".pt") else _read_safetensors(path)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not name.startswith("encoder.head.")}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); it may be cut off: copy it again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors by name of what torch.save wrote: a dict of them, or one that holds it as `state_dict` or `model`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that torch did not write; the error says more
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has a dozen kinds for a file that is cut off
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} holds {refused[1]} beside its tensors, and what a file brings along is never run; save its "
                "tensors alone, as torch.save(model.state_dict(), PATH) does"
            ) from error
        raise UserError(
            f"{path} cannot be read as weights of torch.save ({type(error).__name__}); it is cut off or of another "
            "kind: copy it again"
        ) from error
    for name in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} holds no tensors by name; give --model.checkpoint a state_dict")
    others = [str(name) for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise UserError(f"{path} holds more than tensors by name, first {others[0]}; save its state_dict alone")
    return dict(found)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load `tensors` strictly into `module`, converted to its types; UserError names the keys that fail.

    A position grid of another size is not accepted either, since sizes are part of the model.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    reshaped = [key for key in sorted(own.keys() & tensors.keys()) if own[key].shape != tensors[key].shape]
    shapes = [f"{key} {tuple(tensors[key].shape)} for {tuple(own[key].shape)}" for key in reshaped]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(faults.values()):
        words = "; ".join(f"{len(keys)} {kind} ({', '.join(keys[:4])})" for kind, keys in faults.items() if keys)
        advice = _advice(tensors, [*missing, *unexpected, *reshaped])
        raise UserError(f"the checkpoint {name} does not fit the model: {words}; {advice}")
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"the checkpoint {name} holds values that are not finite, first in {broken[0]}")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in tensors.items()})


def _advice(tensors: Mapping[str, Tensor], keys: list[str]) -> str:
    """What to do about keys that do not fit: where only the subspaces' projections fail, the settings that fit."""
    rows = tensors.get("proj_head.last_layer.weight_v")
    if rows is None or not rows.ndim or not all(re.match(r"proj_head(_t)?\.last_layer\.", key) for key in keys):
        return "check --model.* against its card"
    width = len(rows)
    return (
        f"its contrast head projects to {width} dimensions, so --msc.subspaces times --msc.dimension must be {width}; "
        "for weights of the base take a preset that ends in -toco, or --msc.subspaces 1 --msc.dimension "
        f"{width} --msc.normalise False"
    )


def write_weights(module: nn.Module, path: Path) -> str:
    """All tensors of `module` to a safetensors file, atomically; returns its sha256."""
    # By way of bytes: the library's own writer has other errors for a full disk, and hides the file from other users.
    data = to_bytes({key: value.contiguous() for key, value in module.state_dict().items()})
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def save(run: Path, step: int, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Keep weights and state of `step` in `run`; the pair before is removed only when both files are there."""
    digest = write_weights(module, weights_file(run, step))
    buffer = io.BytesIO()
    torch.save({**state, "weights": digest}, buffer)
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
    """Weights of `step` into `module`; returns the state. UserError where a file is cut off, holds more than tensors
    and plain values, which is never run, or where the two files were not saved together."""
    weights, path = weights_file(run, step), run / f"step-{step:08d}.pt"
    fill(module, read(weights), str(weights))
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        raise UserError(
            f"{path} is cut off or is no training state of wsss ({kind}); delete it to start this run again"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is no training state of wsss; delete it to start this run again")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if state.pop("weights", digest) != digest:  # states of earlier versions do not name their weights
        raise UserError(f"{weights} and {path} were not saved together; delete them to start this run again")
    return state


def configuration(run: Path) -> Config:
    """What `run` was started with. Raises UserError."""
    path = run / "config.json"
    tree = read_json(path)
    try:
        return stored.from_dict(tree)
    except UserError as error:
        raise UserError(f"{path} is not the configuration of a run: {error}") from error


def weights_file(run: Path, step: int) -> Path:
    """Where `save` keeps the weights of `step`."""
    return run / f"step-{step:08d}.safetensors"
