"""Presets: each scale is a table of changes to the defaults of `wsss.config`, which are the base's numbers.

No scale builds on another one; settings that several share are a table of their own. Every other preset is a scale with
a few settings changed, in the words of the command line.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from wsss.config import TOCO, Config
from wsss.paths import UserError, did_you_mean
from wsss.settings import flatten, override

_PUBLISHED = {
    "data.train_split": "train_aug",
    "model.pretrained": True,
    "model.normalisation": "imagenet",
    "validate_every": 0.1,
}
"""Shared by voc and coco. As in the base, ImageNet's mean and deviation normalise images; timm's tag would say 0.5."""

VOC = {**_PUBLISHED, "data.name": "voc", "csa.crossing": 0.45}
"""The paper's VOC 2012 scale: the base's numbers.

Command: torchrun --nproc_per_node 2 -m wsss train voc --data.root VOC2012
Hardware: 2 GPUs with 2 images each per step. Time: the base's run took 3 h 43 min on 2 A100.
Expected: the base's log ends at 69.2 (ViT-B/16, single scale, no CRF). Not run by this project."""

COCO = {
    **_PUBLISHED,
    "data.name": "coco",
    "data.val_split": "val_part",
    "cam.high": 0.65,
    "cam.background": 0.45,
    "class_contrast.temperature": 0.25,
    "csa.crossing": 0.15,
    "csa.ramp": 0.0,
    "optim.steps": 80_000,
    "optim.batch": 8,
    "optim.warmup": 0.01875,
    "schedule.contrast_start": 0.15,
    "schedule.final_cam_start": 0.15,
}
"""The paper's COCO 2014 scale, in three phases.

Command: torchrun --nproc_per_node 4 -m wsss train coco --data.root COCO2014
Hardware: 4 GPUs with 2 images each per step. Time: the base's run took 27 h on 4 A100.
Expected: see the base's numbers in `wsss tables coco-components`. Not run by this project."""

_DRAWN = {
    "model.backbone": "vit_tiny_patch16_224",
    "model.patch_size": 8,
    "model.image_size": 64,
    "model.heads": 4,
    "model.classifier_scale": 0.1,
    "augment.scale": (0.6, 1.0),
    "augment.blur": (0.1, 0.43),
    "augment.colour": 0.4,
    "augment.hue": 0.04,
    "augment.local_size": 24,
    "cam.scales": (1.0, 0.75),
    "energy.weight": 0.003,
    "optim.lr": 1e-3,
    "optim.warmup": 0.04,
}
"""Shared by mini, mini-coco and smoke: a small ViT, and the augmentation and rates for drawn images. The scale range
keeps most of an image in its crop: a crop that misses the labelled object would teach the background instead."""

_SMALL_VIT = {
    "model.checkpoint": "data/weights/vit_mini_drawn.safetensors",
    "model.width": 128,
    "model.depth": 8,
    "augment.crop": 96,
    "augment.evaluation_size": 112,
    "class_contrast.weight": 0.0,
    "class_contrast.hidden": 256,
    "class_contrast.bottleneck": 64,
    "msc.dimension": 16,
    "optim.batch": 8,
}
"""Shared by mini and mini-coco: the network of `wsss pretrain drawn`. Images are evaluated at 112 px, near the size
that training shows. Class token contrast is off: its passes would double the time of a step, too much for two cores."""

MINI = {
    **_DRAWN,
    **_SMALL_VIT,
    "data.name": "mini",
    "cam.high": 0.5,
    "cam.low": 0.08,
    "cam.background": 0.1,
    "patch_contrast.weight": 4.0,
    "csa.direction": "aux_to_last",
    "csa.crossing": 0.45,
    "segmentation.weight": 0.03,
    "segmentation.levels": (0.05, 0.15),
    "schedule.contrast_start": 0.406,
    "schedule.segmentation_start": 0.47,
    "optim.steps": 1600,
    "optim.restart": 0.406,
    "optim.restart_factor": 0.1,
    "optim.decoder_factor": 30.0,
    "validate_every": 0.2,
}
"""The drawn set on a laptop, offline.

Command: wsss train mini
Hardware: two CPU cores. Time: ten minutes.
Expected: segmentation 34.5 on val, as in `wsss tables mini-components`.

The first 650 steps train classification alone. Then the last layer's CAM is smeared over the background, and the aux
layer's is tight. Now the learning rates restart, small except for the decoder, and every other term joins. The weight
of patch token contrast is high enough to clean the background. With larger rates or more segmentation weight, the trunk
follows the decoder and the maps flood the image. Rates, weights, thresholds, scales and starts were chosen on training
images with seeds that are not reported."""

MINI_COCO = {
    **_DRAWN,
    **_SMALL_VIT,
    "data.name": "mini-coco",
    "cam.high": 0.65,
    "cam.background": 0.45,
    "segmentation.weight": 0.3,
    "schedule.contrast_start": 0.15,
    "schedule.final_cam_start": 0.15,
    "optim.steps": 60,
    "optim.decoder_factor": 2.0,
}
"""The drawn set, written as COCO json and rasterised again; three phases and COCO's thresholds. A smoke test.

Command: wsss train mini-coco
Hardware: two CPU cores. Time: half a minute.
Expected: a number near 8, which is no result."""

SMOKE = {
    **_DRAWN,
    "data.name": "smoke",
    "model.width": 48,
    "model.depth": 4,
    "augment.crop": 64,
    "augment.evaluation_size": 64,
    "augment.local_crops": 2,
    "cam.high": 0.5,
    "cam.low": 0.08,
    "cam.background": 0.1,
    "class_contrast.hidden": 32,
    "class_contrast.bottleneck": 16,
    "msc.dimension": 4,
    "csa.crossing": 0.5,
    "segmentation.weight": 0.03,
    "segmentation.levels": (0.05, 0.15),
    "schedule.contrast_start": 0.1,
    "schedule.segmentation_start": 0.2,
    "optim.steps": 8,
    "optim.decoder_factor": 30.0,
    "log_every": 1,
}
"""A run that uses every part once, on a few drawn images, from random weights.

Command: wsss train smoke
Hardware: one CPU core. Time: seconds.
Expected: numbers that mean nothing."""

VOC_ANIMALS = {
    "data.name": "voc-animals",
    "data.train_split": "train_aug",
    "data.headline": ("background", "cat", "cow", "dog", "horse", "sheep", "person"),
    "model.backbone": "vit_base_patch16_clip_quickgelu_224.openai",
    "model.pretrained": True,
    "augment.crop": 192,
    "augment.evaluation_size": 288,
    "augment.scale": (0.7, 1.3),
    "augment.blur": (0.1, 0.8),
    "augment.local_size": 48,
    "augment.local_crops": 4,
    "cam.scales": (1.0,),
    "segmentation.levels": (0.35, 0.55),
    "csa.direction": "aux_to_last",
    "csa.crossing": 0.45,
    "schedule.contrast_start": 0.5,
    "schedule.segmentation_start": 0.5,
    "optim.steps": 480,
    "optim.lr": 1e-5,
    "optim.head_factor": 300.0,
    "optim.decoder_factor": 200.0,
    "optim.warmup": 0.1,
    "optim.restart": 0.5,
    "optim.restart_factor": 0.5,
    "validate_every": 1.0,
}
"""Photographs on a CPU with the paper's architecture: VOC 2012 images of cats, cows, dogs, horses or sheep, longest
side 320 px. Training starts from CLIP's ViT-B/16, which has seen text. Heads, subspaces and term weights are voc's.

Command: WSSS_WEIGHTS=FOLDER wsss train voc-animals --data.root VOC2012_ANIMALS
FOLDER holds vit_base_patch16_clip_quickgelu_224.openai.safetensors; without it timm fetches these weights from its hub.
Hardware: two CPU cores. Time: about 20 minutes a run with both of them, half an hour with one.
Expected: see `wsss tables voc-animals-components`."""

STUDENT = {
    "model.backbone": "vit_tiny_patch16_224",
    "model.pretrained": False,
    "model.patch_size": 8,
    "model.image_size": 64,
    "model.decoder_width": 128,
    "class_contrast.hidden": 256,
    "augment.crop": 96,
    "augment.evaluation_size": 144,
    "augment.scale": (0.35, 0.65),
    "augment.colour": 0.3,
    "optim.steps": 6000,
    "optim.batch": 16,
    "optim.lr": 3e-4,
    "optim.head_factor": 10.0,
    "optim.decoder_factor": 10.0,
    "optim.restart": 0.0,
}
"""A ViT-Ti/8 that learns from a finished run of voc-animals instead of from the method's terms.

Its patches and images have half the teacher's size, so both have the same grid of tokens.
Command: python -m wsss.tools.distil RUN --start FILE
Hardware: one CPU core with bfloat16. Time: 80 minutes for the steps, after 20 for the teacher's pass over every
photograph.
Expected: see data/weights/vit_tiny_voc_animals.json."""

WITHOUT_PATCH_TOKENS = {"msc.patch_weight": 0.0}
"""Module A on class tokens alone."""
UNDECOUPLED = {"msc.orthogonality_weight": 0.0, "msc.decorrelation_weight": 0.0}
"""Module A without its two penalties."""
PLAIN = {
    **WITHOUT_PATCH_TOKENS,
    **UNDECOUPLED,
    "patch_contrast.weight": 0.0,
    "class_contrast.weight": 0.0,
    "csa.weight": 0.0,
    "segmentation.weight": 0.0,
    "energy.weight": 0.0,
}
"""Classification alone, on both layers: the CAM that every other term starts from."""
BASE = {
    **WITHOUT_PATCH_TOKENS,
    **UNDECOUPLED,
    "class_contrast.temperature": 0.5,
    "msc.subspaces": 1,
    "msc.dimension": 1024,
    "msc.normalise": False,
    "csa.weight": 0.0,
}
"""The base with its faults mended: one subspace, not normalised and for class tokens alone, and no alignment."""
RELEASED = {f"compat.{name}": value for name, value in flatten(TOCO).items()}
"""The base as its authors released it."""
_DEFINED = {**RELEASED, "compat.undefined_segmentation": False, "compat.plain_squash": False}
"""RELEASED for CPU scales, without D5 and D18. D5 would drop the segmentation loss of many of their small batches. D18
would evaluate these rows of a table differently from the others."""


def _family(name: str, base: Mapping[str, Any], released: Mapping[str, Any]) -> tuple[tuple[str, str, Any], ...]:
    """Return a scale's components: X-plain, X-base, X-toco (the base as released), X-msc and X-csa (one module
    each)."""
    return (
        (f"{name}-plain", name, PLAIN),
        (f"{name}-base", name, base),
        (f"{name}-toco", name, {**base, **released}),
        (f"{name}-msc", name, {"csa.weight": 0.0}),
        (f"{name}-csa", name, {**base, "csa.weight": 0.1}),
    )


_DEIT = {"model.backbone": "deit_base_patch16_224.fb_in1k"}  # weaker than voc's: pretrained on ImageNet-1k alone
_COCO_BASE = {**BASE, "class_contrast.temperature": 1.0}
_ROWS = (
    ("voc", "", VOC),
    ("voc-deit", "voc", {**_DEIT, "csa.crossing": 0.27}),
    ("coco", "", COCO),
    # In the base's log of COCO with DeiT the aux CAM never leads from step 4,000 on.
    ("coco-deit", "coco", {**_DEIT, "csa.crossing": 0.0}),
    ("mini", "", MINI),
    ("mini-coco", "", MINI_COCO),
    ("smoke", "", SMOKE),
    ("voc-animals", "", VOC_ANIMALS),
    *_family("voc", BASE, RELEASED),
    *_family("voc-deit", BASE, RELEASED),
    *_family("coco", _COCO_BASE, RELEASED),
    *_family("coco-deit", _COCO_BASE, RELEASED),
    *_family("mini", {**BASE, "msc.dimension": 256}, _DEFINED),
    *_family("smoke", {**BASE, "msc.dimension": 32}, _DEFINED),
    *_family("voc-animals", BASE, _DEFINED),
    ("voc-animals-student", "voc-animals", STUDENT),
    ("voc-animals-ceiling", "voc-animals", {**BASE, "data.supervision": "masks"}),
)
"""Rows of (name, preset that is changed, changes). An empty preset means the defaults of Config."""

PRESETS: dict[str, Config] = {}
"""Every preset by name."""
for _name, _start, _changes in _ROWS:
    PRESETS[_name] = override(PRESETS.get(_start, Config()), {"name": _name, **_changes})

NOT_IN_VARIANT = (
    "seed",
    "output",
    "variant",
    "name",
    "data.root",
    "data.workers",
    "data.watch",
    "log_every",
    "save_every",
    "validate_every",
)
"""Settings that do not make a run another variant."""
LONGEST = 160
"""Largest number of characters in a variant's name; a longer name is cut and ends in a digest of the whole."""


def get(name: str, /, **changes: Any) -> Config:
    """Return the preset `name` with settings replaced, e.g. ``get("mini", optim__steps=8)``.

    Raises UserError for an unknown preset or setting; the error names the nearest one.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS) or f"; choose one of {', '.join(PRESETS)}"
        raise UserError(f"there is no preset named {name}{hint}")
    return named(override(PRESETS[name], {path.replace("__", "."): value for path, value in changes.items()}))


def named(config: Config) -> Config:
    """Return `config` with its variant: the preset's name and every setting that differs. Raises UserError."""
    if config.variant:
        if config.variant.startswith(".") or set("/\\") & set(config.variant):
            raise UserError(f"variant is {config.variant!r}, but must be the name of one folder; change --variant")
        return config
    changed = [f"{path}={value}" for path, value in changes(config).items()]
    variant = "+".join([config.name, *changed]).replace("/", "_").replace(" ", "")
    if len(variant) > LONGEST:  # file systems stop at 255 bytes
        variant = f"{variant[: LONGEST - 9]}+{hashlib.sha256(variant.encode()).hexdigest()[:8]}"
    return override(config, {"variant": variant})


def changes(config: Config) -> dict[str, Any]:
    """Return the settings in which `config` differs from its preset, without those of NOT_IN_VARIANT."""
    preset = flatten(PRESETS[config.name])
    values = flatten(config).items()
    return {path: value for path, value in values if value != preset[path] and path not in NOT_IN_VARIANT}


def words(config: Config) -> list[str]:
    """Return the words after `wsss train` that start the run of `config`."""
    typed = [config.name, "--seed", str(config.seed)]
    for path, value in changes(config).items():
        typed += [f"--{path}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return typed
