"""Files of a run: weights (safetensors), training state (weights-only pickle) and log; written atomically, read
safely."""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from wsss import stored
from wsss.config import Config
from wsss.paths import UserError, atomic, read_json, sha256
from wsss.weights import fill, header, metadata, read, start_file


def write_weights(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> str:
    """Write all tensors of `module` with `metadata` to a safetensors file, atomically; return its sha256."""
    # Through bytes: the library's own writer raises other errors on a full disk, and makes the file private.
    tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
    data = to_bytes(tensors, dict(metadata or {}) or None)
    if metadata:  # sorted: the library's order changes from process to process; equal weights must give equal bytes
        entries, stop = header(io.BytesIO(data))
        entries["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format requires the data to begin at a multiple of 8 bytes
        data = len(text).to_bytes(8, "little") + text + data[stop:]
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def save(run: Path, step: int, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Save weights and state of `step` in `run`; the earlier pair is removed only when both files are there."""
    digest = write_weights(module, weights_file(run, step), module.metadata())
    buffer = io.BytesIO()
    torch.save({**state, "weights": digest}, buffer)  # the digest ties the two files together, see `load`
    with atomic(run / f"step-{step:08d}.pt") as temporary:
        temporary.write_bytes(buffer.getvalue())
    for file in run.glob("step-*"):
        if file.suffix in (".safetensors", ".pt") and file.stem != f"step-{step:08d}":
            file.unlink()


def latest(run: Path) -> int | None:
    """Return the last step whose weights and state are both there; None if there is none."""
    named = [re.fullmatch(r"step-(\d+)(\.safetensors|\.pt)", file.name) for file in run.glob("step-*")]
    steps = {kind: {int(name[1]) for name in named if name and name[2] == kind} for kind in (".safetensors", ".pt")}
    return max(steps[".safetensors"] & steps[".pt"], default=None)


def load(run: Path, step: int, module: nn.Module) -> dict[str, Any]:
    """Fill `module` with the weights of `step` and return the training state.

    Raises UserError if a file is cut off or holds more than tensors and plain values, or if the two files were not
    saved together.
    """
    weights, path = weights_file(run, step), run / f"step-{step:08d}.pt"
    fill(module, read(weights), str(weights))
    module.adopt(metadata(weights))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        raise UserError(
            f"{path} is cut off or is not a training state of wsss ({kind}); delete it to start this run again"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a training state of wsss; delete it to start this run again")
    digest = sha256(weights)
    if state.pop("weights", digest) != digest:  # states of earlier versions do not name their weights
        raise UserError(f"{weights} and {path} were not saved together; delete them to start this run again")
    return state


def require_same_start(run: Path, config: Config, record: Mapping[str, Any] | None) -> None:
    """Raise UserError if the file of start weights has changed since `run` began; the run may be finished."""
    step, path = latest(run), start_file(config.model)
    kept = metadata(weights_file(run, step)) if step is not None else {}
    known = ((record or {}).get("weights") or json.loads(kept.get("start", "{}"))).get("sha256")
    if known and path and sha256(path) != known:
        raise UserError(
            f"the weights in {path} are not those that the run in {run} started from; choose another --output, or "
            "restore the file"
        )


def configuration(run: Path) -> Config:
    """Read the configuration that `run` was started with. Raises UserError."""
    path = run / "config.json"
    tree = read_json(path)
    try:
        return stored.from_dict(tree)
    except UserError as error:
        raise UserError(f"{path} is not the configuration of a run: {error}") from error


def weights_file(run: Path, step: int) -> Path:
    """Return the path at which `save` keeps the weights of `step`."""
    return run / f"step-{step:08d}.safetensors"


@dataclass(frozen=True)
class Log:
    """The file log.jsonl of a run."""

    path: Path

    def lines(self, last: int) -> list[str]:
        """Read the complete lines of the steps from 1 to `last`. Raises UserError."""
        try:
            # A killed run may leave half a line at the end, without a line break.
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            return [line for line in lines if line.endswith("\n") and 0 < json.loads(line)["step"] <= last]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.path} is not a training log ({error}); move it away to go on without it") from error

    def validations(self, last: int) -> list[dict[str, Any]]:
        """Read the validations up to step `last`. Raises UserError."""
        return [row for row in map(json.loads, self.lines(last)) if "validation" in row]

    def begin(self, first: dict[str, Any], last: int) -> None:
        """Write the row `first`, of step 0, before the complete lines of steps up to `last`; drop all other lines."""
        lines = self.lines(last) if self.path.exists() else []
        with atomic(self.path) as temporary:
            temporary.write_text("".join([json.dumps({"step": 0, **first}) + "\n", *lines]), encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
