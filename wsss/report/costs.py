"""Costs of a run by arithmetic: encoder passes, floating point operations, tensors kept. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from wsss.config import AUX, Config
from wsss.paths import UserError
from wsss.registry import DATASETS
from wsss.report.benchmarks import published_rows
from wsss.report.experiments import SEEDS, Experiment, Row
from wsss.schedule import classification_steps
from wsss.settings import override

_PREFIX = 1
"""Class token."""


@dataclass(frozen=True)
class Vit:
    """Size of a plain ViT."""

    width: int
    depth: int
    patch: int
    grid: int
    """Side of its position grid."""


VITS = {name: Vit(768, 12, 16, 14) for name in ("vit_base_patch16_224", "deit_base_patch16_224")}
"""Backbones of the benchmarks, by timm's name without the tag."""


@dataclass(frozen=True)
class Pass:
    """Passes of the encoder on one photograph's images of one size."""

    height: int
    width: int
    images: int
    gradient: bool
    decoder: bool = False

    def tokens(self, patch: int) -> int:
        """Patch tokens of one image."""
        return (self.height // patch) * (self.width // patch)


def vit_of(config: Config) -> Vit:
    """Size of the backbone; UserError for one that no benchmark preset has."""
    name = config.model.backbone.partition(".")[0]
    if name not in VITS or config.model.width or config.model.depth or config.model.patch_size:
        raise UserError(f"the size of {config.model.backbone}, changed or not, is not known to costs; add it to VITS")
    return VITS[name]


# Passes and operations.


def passes(config: Config, repeated: bool = False) -> list[Pass]:
    """Encoder passes of one photograph and step of training; `repeated`: those of the base, which computes equal ones
    anew (Deviations D8)."""
    crop, local = config.augment.crop, config.augment.local_size
    parts = [Pass(crop, crop, 1, True, decoder="cam" in config.needs)]
    if "cam" not in config.needs:
        return parts
    for scale in config.cam.scales:
        side = int(crop * scale)
        parts.append(Pass(side, side, 2 if repeated or scale != 1 else 1, False))
    if "views" in config.needs:
        parts.append(Pass(crop, crop, 2 if repeated else 1, True))  # the student's global views
        parts += [Pass(crop, crop, 2, False)] * repeated  # the teacher's
        parts.append(Pass(local, local, config.augment.local_crops, True))
    return parts


def token_counts(config: Config, repeated: bool = False) -> tuple[int, int]:
    """Patch tokens that go forward and backward, of one photograph and step."""
    patch = vit_of(config).patch
    parts = [(item.images * item.tokens(patch), item.gradient) for item in passes(config, repeated)]
    return sum(count for count, _ in parts), sum(count for count, gradient in parts if gradient)


def tflop(parts: Sequence[Pass], vit: Vit, classes: int) -> float:
    """10^12 floating point operations of passes: linear layers, attention, patch embedding and decoder; a backward pass
    counts as two forward ones, of the embedding as one, since pixels need no gradient. The heads are left out."""
    total = 0.0
    for item in parts:
        patches = item.tokens(vit.patch)
        tokens = patches + _PREFIX
        encoder = vit.depth * (24 * tokens * vit.width**2 + 4 * tokens**2 * vit.width)
        embedding = 6 * patches * vit.patch**2 * vit.width
        decoder = 2 * patches * _decoder_size(vit, classes) * item.decoder
        total += item.images * ((3 if item.gradient else 1) * (encoder + decoder) + (1 + item.gradient) * embedding)
    return total / 1e12


def _decoder_size(vit: Vit, classes: int, width: int | None = None) -> int:
    """Parameters of the decoder."""
    hidden = width or min(512, vit.width)
    return 9 * vit.width * hidden + 9 * hidden**2 + hidden * (classes + 1)


def step_tflop(config: Config, repeated: bool = False) -> float:
    """Operations (10^12) of a step with all its images, every term on."""
    return config.optim.batch * tflop(passes(config, repeated), vit_of(config), DATASETS[config.data.name].classes)


def run_pflop(config: Config, repeated: bool = False) -> float:
    """10^15 operations of a whole run; the base, `repeated`, is taken to compute every pass in every step."""
    plain = 0 if repeated else classification_steps(config)
    main = config.optim.batch * tflop(passes(config)[:1], vit_of(config), 0) if plain else 0.0
    return (plain * main + (config.optim.steps - plain) * step_tflop(config, repeated)) / 1e3


def evaluation_passes(height: int, width: int, scales: tuple[float, ...], patch: int) -> list[Pass]:
    """Passes of one photograph in a final evaluation: each scale with its mirror image."""
    sizes = [[max(patch, int(side * scale)) for side in (height, width)] for scale in scales]
    return [Pass(*size, 2, False, decoder=True) for size in sizes]


def validation_passes(config: Config) -> list[Pass]:
    """Passes of one photograph where training evaluates: the segmentation, and the CAM at its scales."""
    size = config.augment.evaluation_size or config.augment.crop
    plain = override(config, {"augment.crop": size, "augment.local_size": 1, "class_contrast.weight": 0.0})
    first, *cams = passes(plain)
    return [Pass(first.height, first.width, 1, False, decoder=True), *cams]


# Tensors.


def parameters(config: Config, vit: Vit, classes: int) -> tuple[int, int]:
    """Parameters of the whole model, and those that are trained."""
    d, h, m = vit.width, config.class_contrast.hidden, config.class_contrast.bottleneck
    blocks = vit.depth * (12 * d**2 + 13 * d)
    positions = (vit.grid**2 + _PREFIX) * d
    trunk = 3 * vit.patch**2 * d + d + _PREFIX * d + blocks + 2 * d
    extra = sum(layer != AUX for layer in config.csa.layers) if config.csa.weight else 0
    heads = (2 + extra) * classes * d + _decoder_size(vit, classes, config.model.decoder_width)
    rows = config.msc.subspaces * config.msc.dimension
    contrast = d * h + h + h**2 + h + h * m + m + rows * m
    frozen = positions + rows + contrast + rows  # positions, the rows' norms, and the teacher head with its own
    return trunk + heads + contrast + frozen, trunk + heads + contrast


def kept_gb(config: Config) -> float:
    """10^9 bytes of weights, gradients and AdamW's two moments, in float32."""
    whole, trained = parameters(config, vit_of(config), DATASETS[config.data.name].classes)
    return (4 * whole + 12 * trained) / 1e9


def disk_gb(config: Config) -> tuple[float, float]:
    """10^9 bytes of a model's weights on disk, and of the optimizer's state, in float32."""
    whole, trained = parameters(config, vit_of(config), DATASETS[config.data.name].classes)
    return 4 * whole / 1e9, 8 * trained / 1e9


# The base's times, and what follows from them.


@dataclass(frozen=True)
class Published:
    """A training run of the base, as its authors state it."""

    gpus: int
    gpu: str
    hours: float

    @property
    def gpu_seconds(self) -> float:
        """Seconds of all GPUs together."""
        return 3600 * self.gpus * self.hours


def base_time(dataset: str) -> Published:
    """Look up the base's training time in data/published. Raises UserError."""
    for row in published_rows("training_time"):
        if (row["method"], row["dataset"]) == ("ToCo", dataset):
            return Published(int(row["gpus"]), row["gpu"], int(row["hours"]) + int(row["minutes"]) / 60)
    raise UserError(f"no time of the base is known for {dataset}; data/published/training_time.csv has none")


def base_pflop(config: Config) -> float:
    """Operations (10^15) of the base's run on the benchmark of `config`: all its terms, equal passes computed anew."""
    same = {"class_contrast.weight": 0.5, "patch_contrast.weight": 0.2}
    return run_pflop(override(config, same), repeated=True)


def rate(config: Config) -> float:
    """10^12 operations a second and GPU that the base reached in its published time, everything else in it included."""
    return 1e3 * base_pflop(config) / base_time(config.data.name).gpu_seconds


def hours(config: Config) -> tuple[float, float]:
    """Estimate the hours on the base's GPUs: in proportion to the operations, and as the base states them."""
    whole = base_time(config.data.name).hours
    return whole * run_pflop(config) / base_pflop(config), whole


def sweep_hours(rows: Sequence[Row]) -> tuple[float, float]:
    """Sum both bounds over every row and seed."""
    bounds = [hours(row.config) for row in rows]
    return len(SEEDS) * sum(low for low, _ in bounds), len(SEEDS) * sum(high for _, high in bounds)


def different(experiments: Sequence[Experiment]) -> list[Row]:
    """Join the rows of several experiments, each variant once."""
    return list({row.variant: row for experiment in experiments for row in experiment.rows}.values())
