"""Read published files of weights, whatever their kind, and bring their tensors to timm's names.

The first bytes tell the kind. No code that a file holds is ever run.
"""

import argparse
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from wsss.config import Model
from wsss.paths import UserError, note, project_root

_STEM = "patch_embed.proj.weight"
"""A tensor that every ViT has."""
_CONTAINERS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model", "module", "student")
"""Names under which published files keep their tensors. If a file has several, the first in this order is taken:
averages come before the weights, as in timm."""
_OURS = ("aux_classifier.", "decoder.conv", "proj_head.")
"""Parts of names that only a whole model has, beside `encoder.`: this project's and the base's."""
_NO_BACKBONE = re.compile(
    r"(head|heads|head_dist|head_drop|fc|fc_norm|classifier|pre_logits|mask_token|decoder\w*|projector|predictor|"
    r"last_layer|dino_head|ibot_head)(\.|$)"
)
"""Names, after a backbone's prefix, of tensors that only its pretraining needed."""


def start_file(config: Model) -> Path | None:
    """Find the file of the start weights; None if there is none.

    It is `model.checkpoint`, in the current folder or else in the project. Without a checkpoint, a preset that starts
    from the tag's weights takes TAG.safetensors in the folder $WSSS_WEIGHTS.
    """
    folder, path = os.environ.get("WSSS_WEIGHTS", ""), config.checkpoint
    tagged = [Path(folder) / f"{config.backbone}.safetensors"] if folder and config.pretrained else []
    files = [Path(path), project_root() / path] if path else tagged
    return next((file for file in files if file.is_file()), None)


def read(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file of safetensors or of torch.save, whatever its name.

    The prefixes `module.` and `_orig_mod.` of wrappers are removed. So is `encoder.head.*`, which in the base's
    released checkpoints is the classifier of the backbone's pretraining. Raises UserError for any other file.
    """
    with open(path, "rb") as file:
        start = file.read(20)
    if start.startswith(b"version https://git-"):
        raise UserError(f"{path} is a pointer of Git LFS and not the weights; fetch them with git lfs pull")
    # A safetensors file begins with a length of eight bytes, which may look like anything, then its header's brace.
    torch_saves = start.startswith((b"PK\x03\x04", b"\x80")) or path.suffix != ".safetensors"
    tensors = _read_pickle(path) if torch_saves and start[8:9] != b"{" else _read_safetensors(path)
    for wrapper in ("module.", "_orig_mod."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    if heads := [name for name in tensors if name.startswith("encoder.head.")]:
        note(f"{path}: left out {_listed(heads)}")
    return {name: value for name, value in tensors.items() if name not in heads}


def metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; empty for another kind of file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def header(file: BufferedIOBase) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, its entries by name, and the place where the data begin."""
    length = int.from_bytes(file.read(8), "little")
    return json.loads(file.read(length)), 8 + length


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); it may be cut off: copy it again") from error
    if not tensors:
        raise UserError(f"{path} holds no named tensors; give --model.checkpoint a state_dict")
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Read what torch.save wrote: a dict of tensors by name, or one that holds such a dict under one of _CONTAINERS."""
    try:
        # Pass an open file: torch would judge a path by its suffix. Training scripts keep a Namespace as `args`.
        with (
            open(path, "rb") as file,
            warnings.catch_warnings(),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            warnings.simplefilter("ignore")  # torch warns of a pickle that it did not write; the error says more
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds of error for a file that is cut off
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} holds {refused[1]} beside its tensors, and code in a file is never run; save only its "
                "tensors, with torch.save(model.state_dict(), PATH)"
            ) from error
        raise UserError(
            f"{path} cannot be read as weights of torch.save or safetensors ({type(error).__name__}); it is cut off or "
            "of another kind: copy it again"
        ) from error
    while isinstance(content, Mapping):
        there = [name for name in _CONTAINERS if isinstance(content.get(name), Mapping)]
        if not there:
            break
        if len(there) > 1:
            note(f"{path}: {there[0]} is used, not {' or '.join(there[1:])}")
        content = content[there[0]]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds no named tensors; give --model.checkpoint a state_dict")
    others = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise UserError(f"{path} holds more than named tensors, first {others[0]}; save only its state_dict")
    return dict(content)


def is_whole(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are a whole model and not a backbone alone."""
    return any(part in name for name in tensors for part in _OURS)


def is_int8(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the weights once were int8: no row of the blocks' matrices has more than 255 values."""
    matrices = [value for name, value in tensors.items() if "blocks." in name and value.ndim == 2]
    # Four rows of each matrix suffice. A row of fewer than 256 values proves nothing.
    return bool(matrices) and all(len(row.unique()) < 256 <= len(row) for value in matrices for row in value[:4])


def backbone_tensors(tensors: Mapping[str, Tensor], encoder: nn.Module, config: Model, name: str) -> dict[str, Tensor]:
    """Pick a backbone's tensors from those of the file `name`, and return them in timm's names.

    A prefix such as `backbone.` is removed. Of a student and a teacher, the teacher is taken. What only the
    pretraining needed (`head.*`, `mask_token`) is left out, and so are blocks beyond a given `model.depth`. A line on
    stderr reports each choice. Raises UserError if the file holds no ViT, or several.
    """
    anchors = [key for key in tensors if f".{key}".endswith(f".{_STEM}")]
    prefixes = sorted(anchor.removesuffix(_STEM) for anchor in anchors)
    teachers = [prefix for prefix in prefixes if "teacher" in prefix]
    prefixes = teachers if len(teachers) == 1 else prefixes
    if not prefixes:
        raise UserError(f"{name} holds no {_STEM}, so it is not a ViT in timm's names; first tensor: {min(tensors)}")
    if len(prefixes) > 1:
        listed = ", ".join(prefix or "one without a prefix" for prefix in prefixes)
        raise UserError(f"{name} holds several networks ({listed}); save only the one to start from")
    kept = {key.removeprefix(prefixes[0]): value for key, value in tensors.items() if key.startswith(prefixes[0])}
    left = [key for key in tensors if not key.startswith(prefixes[0])]
    known, depth = encoder.state_dict(), len(encoder.blocks)
    extra = [key for key in kept if key not in known and _NO_BACKBONE.match(key)]
    numbers = {key: int(key.split(".")[1]) for key in kept if re.match(r"blocks\.\d+\.", key)}
    blocks = max(numbers.values(), default=-1) + 1
    cut = {key for key, number in numbers.items() if number >= depth} if config.depth else set()
    if left or extra:
        note(f"{name}: left out {_listed([*left, *(prefixes[0] + key for key in extra)])}")
    if cut:
        note(f"{name}: its first {depth} of {blocks} blocks and the last norm are used")
    return {key: value for key, value in kept.items() if key not in cut and key not in extra}


def _listed(names: list[str], most: int = 8) -> str:
    """List names in order; of many, the first ones and the number of the others."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fetched_file(config: Model) -> Path | None:
    """Find the file in the hub's cache from which timm read the tag's weights; None if it is not known."""
    known = timm.get_pretrained_cfg(config.backbone)
    if not (known and known.hf_hub_id):
        return None
    names = [known.hf_hub_filename] if known.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    files = [try_to_load_from_cache(known.hf_hub_id, name) for name in names]
    return next((Path(file) for file in files if isinstance(file, str)), None)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load `tensors` into `module` and convert them to its types. UserError lists the keys that do not fit.

    A position grid of another size does not fit either: sizes are part of the model. A file may leave out the moving
    average of the contrast head, which only training needs. It is then a copy of the head, as at the start of training.
    """
    if not any(key.startswith("proj_head_t.") for key in tensors):
        heads = {key: value for key, value in tensors.items() if key.startswith("proj_head.")}
        tensors = {**tensors, **{key.replace("proj_head", "proj_head_t", 1): value for key, value in heads.items()}}
    state = module.state_dict()
    missing, unexpected = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    reshaped = [key for key in sorted(state.keys() & tensors.keys()) if state[key].shape != tensors[key].shape]
    shapes = [f"{key} {tuple(tensors[key].shape)} for {tuple(state[key].shape)}" for key in reshaped]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {kind} ({', '.join(keys[:4])})" for kind, keys in faults.items() if keys)
        advice = _advice(tensors, [*missing, *unexpected, *reshaped])
        raise UserError(f"the checkpoint {name} does not fit the model: {listed}; {advice}")
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"the checkpoint {name} holds values that are not finite, first in {broken[0]}")
    module.load_state_dict({key: value.to(state[key].dtype) for key, value in tensors.items()})


def _advice(tensors: Mapping[str, Tensor], keys: list[str]) -> str:
    """Say what to do about keys that do not fit; if only sizes differ, say which settings fit."""
    if all(key.endswith("pos_embed") for key in keys):
        count = tensors[keys[0]].shape[1] - 1  # without the class token's
        side, patch = math.isqrt(count), next((v.shape[-1] for k, v in tensors.items() if k.endswith(_STEM)), 0)
        if patch and side**2 == count:
            return f"its positions are those of {side} x {side} patches: give --model.image-size {side * patch}"
    if any(key.endswith(("reg_token", "register_tokens")) for key in keys):
        return "they differ in register tokens; set --model.backbone to a timm name that fits, such as ..._reg4_..."
    if any(key.endswith("dist_token") for key in keys):
        return "it has a dist_token beside the class token, which a plain ViT lacks; use weights without it"
    if width := next((tensors[key].shape[-1] for key in keys if key.endswith("cls_token") and key in tensors), 0):
        return f"its width is {width}: give --model.width {width} and the --model.heads of its card"
    if all(re.search(r"(classifier|decoder\.conv8)\.weight$", key) and key in tensors for key in keys):
        return "it was trained for another number of classes; start from only a backbone, or use data of its classes"
    rows = tensors.get("proj_head.last_layer.weight_v")
    if rows is None or not rows.ndim or not all(re.match(r"proj_head(_t)?\.last_layer\.", key) for key in keys):
        return "check --model.* against its card"
    width = len(rows)
    return (
        f"its contrast head projects to {width} dimensions, so --msc.subspaces times --msc.dimension must be {width}; "
        "for weights of the base use a preset that ends in -toco, or --msc.subspaces 1 --msc.dimension "
        f"{width} --msc.normalise False"
    )
