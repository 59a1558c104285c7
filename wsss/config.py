"""Configuration: frozen dataclasses. Each choice of the method is one field; its docstring is its `--help`."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from wsss.paths import UserError

IGNORE = 255
"""Label of pixels and pairs that no loss and no measure counts."""


@dataclass(frozen=True)
class Data:
    """Where the images, labels and masks come from (VOC2012 devkit layout)."""

    name: str = "mini"
    """Name of the data set in records. A root with its own classes.txt is named after its folder."""
    root: str = ""
    """Folder that holds JPEGImages. Empty: data/mini for mini presets, $WSSS_VOC_ROOT or data/NAME for others."""
    train_split: str = "train"
    """Name of the list in ImageSets to train on."""
    val_split: str = "val"
    """Name of the list in ImageSets to evaluate on."""
    headline: tuple[str, ...] = ()
    """Classes of the headline mean IoU; empty: all classes present in the truth."""
    workers: int = 0
    """Loader processes; the augmentation does not depend on their number."""


@dataclass(frozen=True)
class Model:
    """A plain timm ViT with a class token, two classifiers, a decoder and a contrast head."""

    backbone: str = "vit_base_patch16_224.orig_in21k_ft_in1k"
    """timm architecture and weight tag; always name the tag when `pretrained` is on."""
    pretrained: bool = False
    """Load the tag's weights from timm's hub."""
    checkpoint: str = ""
    """Weights to start from (.safetensors): a backbone in timm's names, or a whole model of this package."""
    patch_size: int = 0
    """Patch size in pixels; 0: the architecture's own."""
    image_size: int = 0
    """Side in pixels that the position grid was trained for; 0: the architecture's own."""
    width: int = 0
    """Token width; 0: the architecture's own."""
    depth: int = 0
    """Number of blocks; 0: the architecture's own."""
    heads: int = 0
    """Attention heads; 0: the architecture's own."""
    decoder_width: int = 0
    """Channels of the decoder; 0: the token width, at most 512."""
    classifier_scale: float = 1.0
    """Factor on PyTorch's default start of the two max-pooled classifiers."""
    fused_attention: bool = True
    """PyTorch's fused attention; unfused is faster for short sequences on CPUs."""


@dataclass(frozen=True)
class Augment:
    """Training views of a photograph (method page, 'Views')."""

    crop: int = 448
    """Side of the training crop in pixels."""
    evaluation_size: int = 0
    """Side of the square that evaluation squashes images to; 0: the crop's, as in the base."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale before the crop."""
    colour: float = 1.0
    """Factor on the strength of the colour jitter and on the chance of grey."""
    blur: tuple[float, float] = (0.1, 2.0)
    """Range of the Gaussian blur radius in pixels."""
    view_scale: tuple[float, float] = (0.4, 1.0)
    """Area range of the second view's random resized crop."""
    local_size: int = 96
    """Side in pixels of the local crops for class token contrast."""
    local_crops: int = 8
    """Number of local crops an image."""


@dataclass(frozen=True)
class Cam:
    """Class activation maps and the labels made of them."""

    scales: tuple[float, ...] = (1.0, 0.5, 1.5)
    """Scales of the multi-scale CAM; each with its mirror image."""
    high: float = 0.7
    """CAM value above which a pixel is sure foreground."""
    low: float = 0.25
    """CAM value up to which a pixel is sure background; between the two it is ignored."""
    background: float = 0.5
    """CAM value up to which a pixel counts as background at evaluation."""


@dataclass(frozen=True)
class PatchContrast:
    """Patch token contrast (L_ptc)."""

    weight: float = 0.2
    """Weight in the objective."""


@dataclass(frozen=True)
class ClassContrast:
    """Class token contrast (L_ctc) between views and local crops, with a teacher head."""

    weight: float = 0.5
    """Weight in the objective; 0 leaves out its encoder passes as well."""
    temperature: float = 0.5
    """Temperature of the contrast; the base's outputs are not normalised."""
    momentum: float = 0.9
    """Momentum of the teacher head."""
    hidden: int = 2048
    """Hidden width of the contrast head."""
    bottleneck: int = 256
    """Width before the last, weight-normed layer."""
    dimension: int = 1024
    """Output width of the contrast head."""


@dataclass(frozen=True)
class Segmentation:
    """Decoder trained on labels made of the CAM (L_seg)."""

    weight: float = 0.1
    """Weight in the objective."""


@dataclass(frozen=True)
class Schedule:
    """When each term joins, as fractions of the run; a term is active at step n when n > fraction * steps."""

    contrast_start: float = 0.0
    """Patch and class token contrast join here (base: VOC 0, COCO 0.1 + 0.05)."""
    segmentation_start: float = 0.1
    """The segmentation loss joins here."""
    final_cam_start: float = 0.0
    """Until here the segmentation labels come from the aux CAM, afterwards from the final CAM."""


@dataclass(frozen=True)
class Optim:
    """AdamW, warm-up and polynomial decay."""

    steps: int = 20_000
    """Optimizer steps of the run."""
    batch: int = 4
    """Images a step over all processes."""
    accumulate: int = 1
    """Micro-batches a process computes one after the other for each step."""
    lr: float = 6e-5
    """Learning rate of the backbone."""
    head_factor: float = 10.0
    """Heads learn this much faster than the backbone."""
    decoder_factor: float = 10.0
    """The decoder learns this much faster; the base has one factor for both."""
    weight_decay: float = 0.01
    """Decoupled weight decay on everything with a gradient."""
    warmup: float = 0.075
    """Fraction of the run with linear warm-up (base: 1,500 of 20,000 steps)."""
    power: float = 0.9
    """Exponent of the polynomial decay."""
    bfloat16: bool = True
    """Autocast to bfloat16 where the device computes in it."""


@dataclass(frozen=True)
class Compat:
    """Where the predecessor and a correct implementation differ: True behaves as the predecessor (Deviations)."""

    box_in_pixels: bool = False
    """D1: the pixel box is applied to the token grid."""
    second_flip: bool = False
    """D2: a second flip after the crop; the box is not mirrored."""
    local_flip: bool = False
    """D3: the source of local crops flips on its own."""
    padding_in_crops: bool = False
    """D4: padding counts as background when local crops are drawn and flagged."""
    undefined_segmentation: bool = False
    """D5: the segmentation loss is not a number when a batch lacks foreground or background."""
    extra_contrast_term: bool = False
    """D6: every image adds -log(1 / (1 + N)) to the class token contrast."""
    raw_exponentials: bool = False
    """D7: class token contrast by exponentials with 1e-4, in place of logsumexp."""
    plain_positions: bool = False
    """D13: position embeddings are resampled without antialiasing."""
    padding_in_cam: bool = False
    """D15: the CAM's minimum and maximum see padded tokens."""


TOCO = Compat(**{row.name: True for row in dataclasses.fields(Compat)})


@dataclass(frozen=True)
class Config:
    """One run."""

    name: str = "mini"
    """The preset's name."""
    variant: str = ""
    """Name of the run in records; empty: the preset's name and what was overridden."""
    seed: int = 0
    """The one source of randomness."""
    output: str = ""
    """Folder for runs; the run goes to OUTPUT/DATASET/VARIANT/SEED. Empty: runs/ of the project."""
    log_every: int = 10
    """Steps between lines of log.jsonl."""
    save_every: float = 0.1
    """Fraction of the run between checkpoints."""
    validate_every: float = 0.5
    """Fraction of the run between validations; each also decides which weights are kept as the best."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    cam: Cam = field(default_factory=Cam)
    patch_contrast: PatchContrast = field(default_factory=PatchContrast)
    class_contrast: ClassContrast = field(default_factory=ClassContrast)
    segmentation: Segmentation = field(default_factory=Segmentation)
    schedule: Schedule = field(default_factory=Schedule)
    optim: Optim = field(default_factory=Optim)
    compat: Compat = field(default_factory=Compat)

    def __post_init__(self) -> None:
        for path, low, high in BOUNDS:
            value = get(self, path)
            if not low <= value <= high:
                raise UserError(f"{path} is {value}, but must lie between {low} and {high}; change --{path}")
        for path in ("augment.scale", "augment.blur", "augment.view_scale"):
            low, high = get(self, path)
            if not 0 <= low <= high:
                raise UserError(f"{path} is ({low}, {high}), but must be a range from 0 up; change --{path}")
        if not self.cam.scales or min(self.cam.scales) <= 0:
            raise UserError(f"cam.scales is {self.cam.scales}, but must be positive numbers; change --cam.scales")
        if self.cam.low >= self.cam.high:
            raise UserError(f"cam.low ({self.cam.low}) must be below cam.high ({self.cam.high}); change one of them")
        if self.augment.local_size > self.augment.crop:
            raise UserError(
                f"augment.local_size ({self.augment.local_size}) is larger than augment.crop ({self.augment.crop}); "
                "local crops are cut from the crop, so lower --augment.local_size"
            )


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("optim.steps", 1, 10**9),
    ("optim.batch", 1, 10**6),
    ("optim.accumulate", 1, 10**6),
    ("optim.lr", 0, 10),
    ("optim.warmup", 0, 1),
    ("augment.crop", 1, 10**5),
    ("augment.local_crops", 1, 1000),
    ("cam.low", 0, 1),
    ("cam.high", 0, 1),
    ("cam.background", 0, 1),
    ("class_contrast.momentum", 0, 1),
    ("class_contrast.temperature", 1e-6, 1e6),
    ("patch_contrast.weight", 0, 1e6),
    ("class_contrast.weight", 0, 1e6),
    ("segmentation.weight", 0, 1e6),
    ("save_every", 1e-9, 1),
    ("validate_every", 1e-9, 1),
    ("log_every", 1, 10**9),
    ("data.workers", 0, 1024),
    ("seed", 0, 2**31 - 1),
)


def get(config: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of every leaf."""
    flat: dict[str, Any] = {}
    for row in dataclasses.fields(config):
        value = getattr(config, row.name)
        nested = dataclasses.is_dataclass(value)
        flat.update(flatten(value, f"{prefix}{row.name}.") if nested else {prefix + row.name: value})
    return flat


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with dotted paths replaced, e.g. {"patch_contrast.weight": 0}.

    Raises UserError for an unknown path (with the nearest one) or a value of the wrong kind.
    """
    known = flatten(config)
    for path in changes:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"there is no setting named {path}{hint}")
    return _replace(config, {path: value for path, value in changes.items()}, "")


def _replace(node: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    hints, new = get_type_hints(type(node)), {}
    for row in dataclasses.fields(node):
        value = getattr(node, row.name)
        if dataclasses.is_dataclass(value):
            inner = {k.partition(".")[2]: v for k, v in changes.items() if k.partition(".")[0] == row.name}
            new[row.name] = _replace(value, inner, f"{prefix}{row.name}.") if inner else value
        elif row.name in changes:
            new[row.name] = _coerce(changes[row.name], hints[row.name], prefix + row.name)
    return dataclasses.replace(node, **new)


def _coerce(value: Any, kind: Any, path: str) -> Any:
    """`value` as `kind`: numbers may come as text (YAML reads 1e-3 so), tuples as lists."""
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        items = [x for x in value.split(",") if x] if isinstance(value, str) else value
        items = list(items) if isinstance(items, Sequence) else [items]
        kinds = [parts[0]] * len(items) if parts[-1] is ... else list(parts)
        if len(items) == len(kinds):
            return tuple(_coerce(item, one, path) for item, one in zip(items, kinds, strict=True))
    elif kind is bool:
        known = {"true": True, "false": False, "1": True, "0": False}
        if str(value).lower() in known:
            return known[str(value).lower()]
    else:
        try:
            result = kind(value)
            if kind is not int or float(value) == result:
                return result
        except (TypeError, ValueError):
            pass
    raise UserError(f"{path} must be of type {getattr(kind, '__name__', kind)}, but is {value!r}; change --{path}")


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(tree: Any) -> Config:
    """The configuration that `to_dict` (or its JSON) came from. Raises UserError."""
    if not isinstance(tree, Mapping):
        raise UserError("the configuration is no mapping of settings; train the run again")
    return override(Config(), _paths(tree))


def _paths(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(_paths(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat
