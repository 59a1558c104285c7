"""Costs of a run by arithmetic: encoder passes, floating point operations, parameters. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from wsss import protocols
from wsss.config import AUX, Config
from wsss.paths import UserError
from wsss.registry import DATASETS
from wsss.report.experiments import SEEDS, Row
from wsss.report.literature import published_rows
from wsss.schedule import classification_steps
from wsss.settings import override

_PREFIX = 1
"""Number of class tokens."""


@dataclass(frozen=True)
class Vit:
    """Size of a plain ViT."""

    width: int
    depth: int
    patch: int
    grid: int
    """Side of the grid of its position embeddings."""


VITS = {name: Vit(768, 12, 16, 14) for name in ("vit_base_patch16_224", "deit_base_patch16_224")}
"""Backbones of the benchmarks, by timm's name without the tag."""


@dataclass(frozen=True)
class Pass:
    """Passes of the encoder over one photograph's images of one size."""

    height: int
    width: int
    images: int
    gradient: bool
    decoder: bool = False

    def tokens(self, patch: int) -> int:
        """Count the patch tokens of one image."""
        return (self.height // patch) * (self.width // patch)


@dataclass(frozen=True)
class Run:
    """Costs of a training run."""

    config: Config
    repeated: bool = False
    """Equal passes are computed anew in every step, as in the base (Deviations D8)."""

    @property
    def vit(self) -> Vit:
        """Return the size of the backbone. Raises UserError for one that no benchmark preset has."""
        model = self.config.model
        name = model.backbone.partition(".")[0]
        if name not in VITS or model.width or model.depth or model.patch_size:
            raise UserError(f"the size of {model.backbone} with these settings is not known; add it to VITS")
        return VITS[name]

    def passes(self) -> list[Pass]:
        """List the encoder passes of one photograph and step."""
        config, crop, local = self.config, self.config.augment.crop, self.config.augment.local_size
        parts = [Pass(crop, crop, 1, True, decoder="cam" in config.needs)]
        if "cam" not in config.needs:
            return parts
        for scale in config.cam.scales:
            # An image and its mirror image. At scale 1 the main pass serves as the first.
            side = int(crop * scale)
            parts.append(Pass(side, side, 2 if self.repeated or scale != 1 else 1, False))
        if "views" in config.needs:
            parts.append(Pass(crop, crop, 2 if self.repeated else 1, True))  # the student's global views
            parts += [Pass(crop, crop, 2, False)] * self.repeated  # the teacher's
            parts.append(Pass(local, local, config.augment.local_crops, True))
        return parts

    def validation_passes(self) -> list[Pass]:
        """List the passes of one photograph in a validation: the segmentation, and the CAM at its scales."""
        size = self.config.augment.squashed
        changes = {"augment.crop": size, "augment.local_size": 1, "class_contrast.weight": 0.0}
        first, *cams = Run(override(self.config, changes)).passes()
        return [Pass(first.height, first.width, 1, False, decoder=True), *cams]

    def tokens(self) -> tuple[int, int]:
        """Count the patch tokens of one photograph in a step: those that go forward, and those that go backward."""
        patch = self.vit.patch
        parts = [(item.images * item.tokens(patch), item.gradient) for item in self.passes()]
        return sum(count for count, _ in parts), sum(count for count, gradient in parts if gradient)

    def step_tflop(self) -> float:
        """Count the operations (10^12) of a step with all its images and every term on."""
        return self.config.optim.batch * tflop(self.passes(), self.vit, self._classes)

    def pflop(self) -> float:
        """Count the operations (10^15) of the whole run; the base (`repeated`) computes every pass in every step."""
        config, plain = self.config, 0 if self.repeated else classification_steps(self.config)
        main = config.optim.batch * tflop(Run(config).passes()[:1], self.vit, 0) if plain else 0.0
        return (plain * main + (config.optim.steps - plain) * self.step_tflop()) / 1e3

    def base(self) -> "Run":
        """Return the base's run on the same benchmark: all its terms, equal passes computed anew."""
        same = {"class_contrast.weight": 0.5, "patch_contrast.weight": 0.2}
        return Run(override(self.config, same), repeated=True)

    def rate(self) -> float:
        """Return the base's operations (10^12) per second and GPU; its published time includes all other work."""
        return 1e3 * self.base().pflop() / base_time(self.config.data.name).gpu_seconds

    def hours(self) -> tuple[float, float]:
        """Estimate the hours on the base's GPUs: in proportion to the operations, and as the base states them."""
        whole = base_time(self.config.data.name).hours
        return whole * self.pflop() / self.base().pflop(), whole

    def parameters(self) -> tuple[int, int]:
        """Count the parameters of the whole model, and the trained ones."""
        return parameters(self.config, self.vit, self._classes)

    @property
    def _classes(self) -> int:
        return DATASETS[self.config.data.name].classes


def tflop(parts: Sequence[Pass], vit: Vit, classes: int) -> float:
    """Count the floating point operations (10^12) of passes: linear layers, attention, patch embedding and decoder.

    A backward pass counts as two forward ones. That of the embedding counts as one: pixels need no gradient. The heads
    are left out.
    """
    total = 0.0
    for item in parts:
        patches = item.tokens(vit.patch)
        tokens = patches + _PREFIX
        # A block has 12 width^2 weights, 2 operations each, and two products over pairs of tokens.
        encoder = vit.depth * (24 * tokens * vit.width**2 + 4 * tokens**2 * vit.width)
        embedding = 6 * patches * vit.patch**2 * vit.width
        decoder = 2 * patches * _decoder_size(vit, classes) * item.decoder
        total += item.images * ((3 if item.gradient else 1) * (encoder + decoder) + (1 + item.gradient) * embedding)
    return total / 1e12


def _decoder_size(vit: Vit, classes: int, width: int | None = None) -> int:
    """Count the parameters of the decoder."""
    hidden = width or min(512, vit.width)
    return 9 * vit.width * hidden + 9 * hidden**2 + hidden * (classes + 1)


def evaluation_passes(height: int, width: int, scales: tuple[float, ...], patch: int) -> list[Pass]:
    """List the passes of one photograph in a final evaluation: each scale with its mirror image."""
    sizes = [protocols.scaled_size((height, width), scale, patch) for scale in scales]
    return [Pass(*size, 2, False, decoder=True) for size in sizes]


def parameters(config: Config, vit: Vit, classes: int) -> tuple[int, int]:
    """Count the parameters of the whole model, and the trained ones."""
    d, h, m = vit.width, config.class_contrast.hidden, config.class_contrast.bottleneck
    blocks = vit.depth * (12 * d**2 + 13 * d)
    positions = (vit.grid**2 + _PREFIX) * d
    trunk = 3 * vit.patch**2 * d + d + _PREFIX * d + blocks + 2 * d
    extra = sum(layer != AUX for layer in config.csa.layers) if config.csa.weight else 0
    heads = (2 + extra) * classes * d + _decoder_size(vit, classes, config.model.decoder_width)
    rows = config.msc.subspaces * config.msc.dimension
    contrast = d * h + h + h**2 + h + h * m + m + rows * m
    frozen = positions + rows + contrast + rows  # positions, the rows' norms, the teacher head with its norms
    return trunk + heads + contrast + frozen, trunk + heads + contrast


@dataclass(frozen=True)
class _Published:
    """A training run of the base, as its authors state it."""

    gpus: int
    gpu: str
    hours: float

    @property
    def gpu_seconds(self) -> float:
        """Return the seconds of all GPUs together."""
        return 3600 * self.gpus * self.hours


def base_time(dataset: str) -> _Published:
    """Look up the base's training time in data/published. Raises UserError."""
    for row in published_rows("training_time"):
        if (row["method"], row["dataset"]) == ("ToCo", dataset):
            return _Published(int(row["gpus"]), row["gpu"], int(row["hours"]) + int(row["minutes"]) / 60)
    raise UserError(f"no time of the base is known for {dataset}; data/published/training_time.csv has none")


def sweep_hours(rows: Sequence[Row]) -> tuple[float, float]:
    """Sum the lower and the upper estimate of hours over every row and seed."""
    bounds = [Run(row.config).hours() for row in rows]
    return len(SEEDS) * sum(low for low, _ in bounds), len(SEEDS) * sum(high for _, high in bounds)
