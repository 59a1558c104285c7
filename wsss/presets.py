"""Every run as a row: a name, the preset it starts from, and what differs, in the words of the command line.

Of a scale X there is a family: X-plain, X-base, X-toco (the predecessor: the same code, compat all on), X-msc, X-csa.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from wsss.config import TOCO, Config
from wsss.paths import UserError, did_you_mean
from wsss.settings import flatten, override

VOC = {
    "data.name": "voc",
    "data.train_split": "train_aug",
    "model.pretrained": True,
    "model.normalisation": "imagenet",
    "csa.crossing": 0.45,
    "validate_every": 0.1,
}
"""The paper's VOC 2012 scale, the base's numbers: 20,000 steps of 4 images (2 GPUs x 2). Images are normalised with
ImageNet's mean and deviation, as in the base, though timm's configuration of the backbone's tag says .5.

    torchrun --nproc_per_node 2 -m wsss train voc --data.root VOC2012

Expected: the base's published logs end at 69.2 (ViT-B/16, single scale, no CRF); its 3 h 43 min were on 2 A100.
Not run by this project."""

COCO = {
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
"""The paper's COCO 2014 scale in three phases: 80,000 steps of 8 images (4 GPUs x 2).

    torchrun --nproc_per_node 4 -m wsss train coco --data.root COCO2014

Expected: the base's 27 h were on 4 A100. Not run by this project."""

DEIT = {"model.backbone": "deit_base_patch16_224.fb_in1k", "csa.crossing": 0.27}
"""The weaker backbone, pretrained on ImageNet-1k alone."""

COCO_DEIT = {**DEIT, "csa.crossing": 0.0}
"""In the base's log of this run the aux CAM never leads from step 4,000 on."""

MINI = {
    "data.name": "mini",
    "data.train_split": "train",
    "model.backbone": "vit_tiny_patch16_224",
    "model.pretrained": False,
    "model.normalisation": "tag",
    "model.checkpoint": "data/weights/vit_mini_drawn.safetensors",
    "model.patch_size": 8,
    "model.image_size": 64,
    "model.width": 128,
    "model.depth": 8,
    "model.heads": 4,
    "model.classifier_scale": 0.1,
    "model.fused_from": 500,
    "augment.crop": 96,
    "augment.evaluation_size": 112,
    "augment.scale": (0.6, 1.0),
    "augment.blur": (0.1, 0.43),
    "augment.colour": 0.4,
    "augment.hue": 0.04,
    "augment.local_size": 24,
    "cam.scales": (1.0, 0.75),
    "cam.high": 0.5,
    "cam.low": 0.08,
    "cam.background": 0.1,
    "patch_contrast.weight": 4.0,
    "class_contrast.weight": 0.0,
    "class_contrast.hidden": 256,
    "class_contrast.bottleneck": 64,
    "msc.dimension": 16,
    "csa.direction": "aux_to_last",
    "segmentation.weight": 0.03,
    "segmentation.levels": (0.05, 0.15),
    "energy.weight": 0.003,
    "schedule.contrast_start": 0.406,
    "schedule.segmentation_start": 0.47,
    "optim.steps": 1600,
    "optim.batch": 8,
    "optim.lr": 1e-3,
    "optim.warmup": 0.04,
    "optim.restart": 0.406,
    "optim.restart_factor": 0.1,
    "optim.decoder_factor": 30.0,
    "validate_every": 0.2,
}
"""The drawn set on a laptop: minutes on two CPU cores, offline.

    wsss train mini

Expected: see the records of mini/mini in data/results. First 650 steps of classification alone, after which the last
layer's CAM is smeared over the background and the aux layer's is tight; then the rates start anew, small but for the
decoder, and every other term joins, patch token contrast with a weight that cleans the background. With larger rates or
a larger weight of segmentation the trunk follows the decoder, and the maps flood. The scale range keeps most of the
image in a crop: a crop without the object that its label names teaches the background. An image is evaluated at 112 px,
near the size at which training shows it. Rates, weights, thresholds, scales and starts were chosen on training images
with seeds that are not reported. Class token contrast is off: its passes would double a step, which two cores cannot
afford."""

SMOKE = {
    "data.name": "smoke",
    "model.checkpoint": "",
    "augment.crop": 64,
    "augment.evaluation_size": 64,
    "augment.local_crops": 2,
    "class_contrast.weight": 0.5,
    "patch_contrast.weight": 0.2,
    "schedule.contrast_start": 0.1,
    "schedule.segmentation_start": 0.2,
    "csa.direction": "scheduled",
    "csa.crossing": 0.5,
    "optim.restart": 0.0,
    "optim.restart_factor": 1.0,
    "class_contrast.hidden": 32,
    "class_contrast.bottleneck": 16,
    "msc.dimension": 4,
    "model.width": 48,
    "model.depth": 4,
    "optim.steps": 8,
    "optim.batch": 4,
    "log_every": 1,
    "validate_every": 0.5,
}
"""Seconds: every part of a run once, on a few drawn images, from random weights. Its numbers mean nothing."""

ANIMALS = {
    "data.name": "voc-animals",
    "data.headline": ("background", "cat", "cow", "dog", "horse", "sheep", "person"),
    "model.backbone": "vit_base_patch16_clip_quickgelu_224.openai",
    "model.normalisation": "tag",
    "augment.crop": 192,
    "augment.scale": (0.7, 1.3),
    "augment.blur": (0.1, 0.8),
    "augment.local_size": 64,
    "augment.local_crops": 4,
    "cam.scales": (1.0, 0.75),
    "csa.direction": "aux_to_last",
    "schedule.contrast_start": 0.4,
    "schedule.segmentation_start": 0.4,
    "optim.steps": 600,
    "optim.lr": 1e-5,
    "optim.head_factor": 300.0,
    "optim.decoder_factor": 100.0,
    "optim.warmup": 0.1,
    "validate_every": 0.5,
}
"""Real photographs on two CPU cores by the paper's architecture: VOC 2012 images with cats, cows, dogs, horses, sheep,
longest side 320, from the start of CLIP's ViT-B/16, which has seen text.

    WSSS_WEIGHTS=FOLDER wsss train voc-animals --data.root VOC2012_ANIMALS

FOLDER holds vit_base_patch16_clip_quickgelu_224.openai.safetensors; without it timm fetches these weights from its hub.
Heads, subspaces and weights of the terms are voc's."""

STUDENT = {
    "model.pretrained": False,
    "model.width": 192,
    "model.heads": 3,
    "model.decoder_width": 128,
    "class_contrast.hidden": 256,
    "optim.steps": 5000,
    "optim.batch": 32,
    "optim.lr": 5e-4,
    "optim.head_factor": 1.0,
    "optim.decoder_factor": 1.0,
    "optim.weight_decay": 0.05,
    "optim.warmup": 0.05,
    "validate_every": 0.2,
}
"""A ViT-Ti/16 that learns from a finished run of voc-animals instead of from the terms of the method:

    python -m wsss.tools.distil RUN"""

WITHOUT_PATCH_TOKENS = {"msc.patch_weight": 0.0}
UNDECOUPLED = {"msc.orthogonality_weight": 0.0, "msc.decorrelation_weight": 0.0}

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

MINI_COCO = {
    "data.name": "mini-coco",
    "cam.high": 0.65,
    "cam.low": 0.25,
    "cam.background": 0.45,
    "patch_contrast.weight": 0.2,
    "segmentation.weight": 0.3,
    "segmentation.levels": None,
    "csa.direction": "scheduled",
    "csa.crossing": 0.3,
    "optim.restart": 0.0,
    "optim.restart_factor": 1.0,
    "optim.decoder_factor": 2.0,
    "optim.steps": 60,
    "schedule.segmentation_start": 0.1,
    "schedule.contrast_start": 0.15,
    "schedule.final_cam_start": 0.15,
    "validate_every": 0.5,
}
"""A smoke test, whose numbers are no results: the drawn set by way of COCO json, rasteriser, three phases and COCO's
thresholds, in a minute."""

BASE = {
    **WITHOUT_PATCH_TOKENS,
    **UNDECOUPLED,
    "class_contrast.temperature": 0.5,
    "msc.subspaces": 1,
    "msc.dimension": 1024,
    "msc.normalise": False,
    "csa.weight": 0.0,
}
"""The base, its faults mended: one subspace that is not normalised, contrasted for class tokens alone, no alignment."""

COCO_BASE = {**BASE, "class_contrast.temperature": 1.0}

MINI_BASE = {**BASE, "msc.dimension": 256}

SMOKE_BASE = {**BASE, "msc.dimension": 32}

RELEASED = {f"compat.{name}": value for name, value in flatten(TOCO).items()}
"""The base as its authors released it."""

DEFINED = {**RELEASED, "compat.undefined_segmentation": False, "compat.plain_squash": False}
"""The CPU scales' base does without D5, which would leave segmentation out of many of their small batches, and without
D18: all rows of a table are evaluated alike."""

Rows = tuple[tuple[str, str, Mapping[str, Any]], ...]


def _family(name: str, base: Mapping[str, Any], released: Mapping[str, Any]) -> Rows:
    """The components of a scale: X-plain, X-base, X-toco (the base as released), X-msc and X-csa (one module each)."""
    return (
        (f"{name}-plain", name, PLAIN),
        (f"{name}-base", name, base),
        (f"{name}-toco", f"{name}-base", released),
        (f"{name}-msc", name, {"csa.weight": 0.0}),
        (f"{name}-csa", f"{name}-base", {"csa.weight": 0.1}),
    )


ROWS: Rows = (
    ("voc", "", VOC),
    ("voc-deit", "voc", DEIT),
    ("coco", "voc", COCO),
    ("coco-deit", "coco", COCO_DEIT),
    ("mini", "voc", MINI),
    ("mini-coco", "mini", MINI_COCO),
    ("smoke", "mini", SMOKE),
    ("voc-animals", "voc", ANIMALS),
    *_family("voc", BASE, RELEASED),
    *_family("voc-deit", BASE, RELEASED),
    *_family("coco", COCO_BASE, RELEASED),
    *_family("coco-deit", COCO_BASE, RELEASED),
    *_family("mini", MINI_BASE, DEFINED),
    *_family("smoke", SMOKE_BASE, DEFINED),
    *_family("voc-animals", BASE, DEFINED),
    ("voc-animals-student", "voc-animals", STUDENT),
    ("voc-animals-ceiling", "voc-animals-base", {"data.supervision": "masks"}),
)


def _build() -> dict[str, Config]:
    built: dict[str, Config] = {"": Config()}
    for name, parent, changes in ROWS:
        built[name] = override(built[parent], {"name": name, **changes})
    return {name: config for name, config in built.items() if name}


PRESETS: dict[str, Config] = _build()

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
"""Settings that do not make another variant."""


LONGEST = 160
"""Characters of a variant's name; a longer one ends in a digest of the rest."""


def get(name: str, /, **changes: Any) -> Config:
    """The preset `name` with settings replaced; dots in a path are written as two underscores or passed by `**{}`.

    Raises UserError for an unknown preset or setting, with the nearest name.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS) or f"; choose one of {', '.join(PRESETS)}"
        raise UserError(f"there is no preset named {name}{hint}")
    return named(override(PRESETS[name], {path.replace("__", "."): value for path, value in changes.items()}))


def named(config: Config) -> Config:
    """`config` with its variant: the preset's name and every setting that differs from the preset."""
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
    """Settings in which `config` differs from its preset, the free ones aside."""
    own, preset = flatten(config), flatten(PRESETS[config.name])
    return {path: own[path] for path in own if own[path] != preset[path] and path not in NOT_IN_VARIANT}


def words(config: Config) -> list[str]:
    """What follows `wsss train` to make the run of `config`."""
    changed = ((f"--{path}", value) for path, value in changes(config).items())
    texts = ((path, ",".join(map(str, x)) if isinstance(x, tuple) else str(x)) for path, x in changed)
    return [config.name, "--seed", str(config.seed), *(word for pair in texts for word in pair)]
