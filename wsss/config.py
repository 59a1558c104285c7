"""Configuration: frozen dataclasses. Each choice of the method is one field; its docstring is its `--help`."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from wsss.paths import UserError
from wsss.settings import Bound, Fraction, check

IGNORE = 255
"""Label of pixels and pairs that no loss and no measure counts."""
AUX = 2
"""The aux layer is this many blocks before the last one."""

# None is automatic, a weight of 0 leaves a term out. Bounds also refuse NaN and infinity.
NonNegative = Annotated[float, Bound(0, 1e6)]
"""A number of at least 0."""
Positive = Annotated[float, Bound(1e-6, 1e6)]
"""A number above 0."""
Share = Annotated[float, Bound(0, 1)]
"""A number from 0 to 1."""
OfRun = Annotated[float, Fraction()]
"""A number from 0 to 1, a fraction of the run's steps."""
Count = Annotated[int, Bound(1, 1e6)]
"""A whole number of at least 1."""
Pixels = Annotated[int, Bound(1, 1e5)]
"""A whole number of pixels, at least 1."""
Automatic = Annotated[int | None, Bound(1, 1e5)]
"""A whole number of at least 1, or None for the architecture's own."""


@dataclass(frozen=True)
class Data:
    """Images, labels and masks (VOC2012 devkit layout)."""

    name: str = "mini"
    """Name of the data set in records. If the root holds another set than the preset's, its folder's name is used."""
    root: str = ""
    """Folder that holds JPEGImages. Empty: data/NAME for drawn sets; for others $WSSS_VOC_ROOT, $WSSS_ANIMALS_ROOT or
    $WSSS_COCO_ROOT, and data/NAME if that variable is not set."""
    train_split: str = "train"
    """Name of the list in ImageSets to train on."""
    val_split: str = "val"
    """Name of the list in ImageSets to evaluate on."""
    watch: tuple[str, ...] = ()
    """More lists with masks. Every validation and the end of the run measure them for the log."""
    supervision: Literal["labels", "masks"] = "labels"
    """labels: the run learns from image labels alone. masks: the true masks of the training list replace the pseudo
    labels. That gives a ceiling, not a result of this task, so its records bear another data set's name."""
    headline: tuple[str, ...] = ()
    """Classes of the headline mean IoU; empty: all classes present in the truth."""
    workers: Annotated[int | None, Bound(0, 1024)] = None
    """Loader processes of each training process; 0: none. None: with a GPU 4, or one per core if there are fewer cores;
    without a GPU 0. The augmentation does not depend on their number."""


@dataclass(frozen=True)
class Model:
    """A plain timm ViT with a class token, two classifiers, a decoder and a contrast head."""

    backbone: str = "vit_base_patch16_224.orig_in21k_ft_in1k"
    """timm architecture and weight tag; always name the tag when `pretrained` is on."""
    pretrained: bool = False
    """Start from the tag's weights on timm's hub; `checkpoint` overrides this."""
    checkpoint: str = ""
    """File of weights to start from, made by safetensors or torch.save. It holds a backbone in timm's names, whose
    classifier is left out, or a whole model; files of the base work, too."""
    normalisation: Literal["tag", "imagenet", "clip", "half"] = "tag"
    """Mean and standard deviation that normalise images, unless the metadata of the weights' file names them. tag:
    those in timm's configuration if the tagged weights of a backbone are used, else ImageNet's."""
    patch_size: Automatic = None
    """Patch size in pixels; None: the architecture's own."""
    image_size: Automatic = None
    """Side in pixels that the position grid was trained for; None: the architecture's own."""
    width: Automatic = None
    """Token width; None: the architecture's own."""
    depth: Annotated[int | None, Bound(AUX + 1, 1e5)] = None
    """Number of blocks; None: the architecture's own."""
    heads: Automatic = None
    """Attention heads; None: the architecture's own."""
    decoder_width: Automatic = None
    """Channels of the decoder; None: the token width, at most 512."""
    classifier_scale: NonNegative = 1.0
    """Factor on PyTorch's default initial weights of the two max-pooled classifiers."""
    fused_from: Annotated[int, Bound(0, 1e9)] = 500
    """A CPU uses PyTorch's fused attention from this many tokens on, in bfloat16 with gradients from twice as many.
    With fewer tokens the unfused one is faster there. An accelerator always fuses. Measured on the page 'Speed'."""
    activation_checkpointing: bool = False
    """Keep only the blocks' inputs for the backward pass and recompute the rest: less memory, more time."""
    compile: bool = False
    """Compile the encoder's blocks with torch.compile; worth it on accelerators, needs a C++ compiler on CPUs."""


@dataclass(frozen=True)
class Augment:
    """Training views of a photograph (`wsss.transforms`)."""

    crop: Pixels = 448
    """Side of the training crop in pixels."""
    evaluation_size: Automatic = None
    """Side of the square that evaluation squashes images to; None: the crop's, as in the base."""
    scale: Annotated[tuple[float, float], Bound(0, 1000, rising=True)] = (0.5, 2.0)
    """Range of the random scale before the crop."""
    colour: Annotated[float, Bound(0, 2.5)] = 1.0
    """Factor on the strength of the colour jitter and on the chance of grey."""
    hue: Annotated[float, Bound(0, 0.5)] = 0.1
    """Largest change of the hue in that jitter, as a fraction of the colour circle; 0.5 is any hue."""
    blur: Annotated[tuple[float, float], Bound(0, 1000, rising=True)] = (0.1, 2.0)
    """Range of the Gaussian blur radius in pixels."""
    view_scale: Annotated[tuple[float, float], Bound(0, 1, rising=True)] = (0.4, 1.0)
    """Area range of the second view's random resized crop."""
    local_size: Pixels = 96
    """Side in pixels of the local crops for class token contrast."""
    local_crops: Annotated[int, Bound(1, 1000)] = 8
    """Number of local crops per image."""

    @property
    def squashed(self) -> int:
        """Return the side in pixels of the square that evaluation squashes images to."""
        return self.evaluation_size or self.crop


@dataclass(frozen=True)
class Cam:
    """Class activation maps and the labels made from them."""

    scales: Annotated[tuple[float, ...], Bound(1e-3, 100)] = (1.0, 0.5, 1.5)
    """Scales of the multi-scale CAM; each with its mirror image."""
    high: Share = 0.7
    """CAM value above which a pixel is sure foreground."""
    low: Share = 0.25
    """CAM value up to which a pixel is sure background; a pixel between `low` and `high` is ignored."""
    background: Share = 0.5
    """CAM value up to which a pixel counts as background at evaluation."""


@dataclass(frozen=True)
class PatchContrast:
    """Patch token contrast (L_ptc)."""

    weight: NonNegative = 0.2
    """Weight in the objective."""


@dataclass(frozen=True)
class ClassContrast:
    """Class token contrast between views and local crops, with a teacher head: L_ctc of the base, A1 in subspaces."""

    weight: NonNegative = 0.5
    """Weight in the objective; 0 also saves its encoder passes."""
    temperature: Positive = 0.125
    """Temperature of normalised projections (base: 0.5 on outputs of norm about 2)."""
    momentum: Share = 0.9
    """Momentum of the teacher head."""
    hidden: Count = 2048
    """Hidden width of the contrast head."""
    bottleneck: Count = 256
    """Width m of the contrast head's normalised output, from which the subspaces are projected."""


@dataclass(frozen=True)
class Msc:
    """Module A, multi-subspace token contrast: our reconstruction ('What we reconstructed')."""

    subspaces: Annotated[int, Bound(1, 1e4)] = 4
    """Number K of subspaces; the base has 1."""
    dimension: Count = 64
    """Width d of each subspace (base: 1024)."""
    normalise: bool = True
    """Divide each projection by its norm; the base does not."""
    orthogonal_start: bool = True
    """Start normalised projections orthogonal over all subspaces."""
    patch_weight: NonNegative = 0.1
    """Weight of patch token contrast in subspaces (A2); that of class tokens (A1) is class_contrast.weight."""
    patch_temperature: Positive = 0.1
    """Temperature of A2."""
    anchors_per_class: Count = 64
    """Largest number of anchors of one label in one image."""
    anchors: Count = 512
    """Largest number of anchors of a micro-batch on a device."""
    across_images: bool = True
    """A2 attracts anchors of one class in different images; if False, such pairs are left out."""
    across_backgrounds: bool = False
    """A2 also attracts background anchors of different images; if False, these are neither positives nor negatives."""
    orthogonality_weight: NonNegative = 0.05
    """Weight of L_orth, which keeps the rows of the subspaces apart (A3)."""
    decorrelation_weight: NonNegative = 0.05
    """Weight of L_dec, which keeps the embeddings in the subspaces apart (A3)."""
    centring: Literal["label", "all"] = "label"
    """Mean that L_dec subtracts from embeddings: that of their label or that of all anchors."""


@dataclass(frozen=True)
class Csa:
    """Module B, cross-layer CAM structural alignment: our reconstruction ('What we reconstructed')."""

    weight: NonNegative = 0.1
    """Weight in the objective; 0 leaves it out."""
    intensity: NonNegative = 1.0
    """Weight alpha of the response intensity term."""
    structure: NonNegative = 1.0
    """Weight beta of the spatial structure term."""
    layers: Annotated[tuple[int, ...], Bound(1, 1000)] = (2,)
    """Aligned layers, counted as blocks before the last one; 2 is the aux layer (10 of 12). Each other layer gets a
    classifier of its own."""
    direction: Literal["aux_to_last", "last_to_aux", "both", "scheduled"] = "scheduled"
    """Layer that learns: aux_to_last (the last one), last_to_aux (the earlier one), both, or scheduled (first the last
    one, then the earlier one)."""
    crossing: OfRun = 0.3
    """Fraction of the run where the last layer's CAM overtakes the aux CAM; `scheduled` changes direction there."""
    ramp: OfRun = 0.1
    """Fraction of the run over which `scheduled` changes direction."""
    smooth: Share = 0.1
    """The intensity term is quadratic up to this difference."""
    floor: Annotated[float, Bound(1e-12, 1)] = 1e-3
    """Lower bound of the range (maximum - minimum) that a student CAM is divided by."""
    through_classifier: bool = False
    """Let the gradient of a student CAM also flow into its classifier."""
    sampling: Literal["bilinear", "area"] = "bilinear"
    """Resampling of a teacher CAM to the token grid: bilinear, or area (the mean over a token)."""
    background: bool = True
    """Put a background channel first in the vectors of the structure term."""
    balance: bool = True
    """Weigh similar and dissimilar pairs of the structure term equally."""
    similar: Share = 0.5
    """A pair counts as similar from this affinity of the teacher on."""


@dataclass(frozen=True)
class Segmentation:
    """Decoder trained on labels made from the CAM (L_seg)."""

    weight: NonNegative = 0.1
    """Weight in the objective."""
    levels: Annotated[tuple[float, float] | None, Bound(0, 1, rising=True)] = None
    """CAM values (low, high) that make its labels: background up to low, foreground from high on; None: cam.low and
    cam.high, as in the base."""
    refinements: Annotated[int, Bound(0, 1000)] = 10
    """Iterations of pixel-adaptive refinement of those labels; 0 leaves it out."""


@dataclass(frozen=True)
class Energy:
    """Dense energy of the prediction (L_reg): neighbours of like colour should get like labels."""

    weight: NonNegative = 0.05
    """Weight in the objective; 0 also saves the filter."""
    scale: NonNegative = 1e-7
    """Factor inside the term; the value is the base's."""
    sigma_xy: Annotated[float, Bound(1e-3, 1e6)] = 100.0
    """Reach in pixels of the crop."""
    sigma_rgb: Annotated[float, Bound(1e-3, 1e6)] = 15.0
    """Reach in grey values, 0 to 255."""


@dataclass(frozen=True)
class Schedule:
    """When each term joins, as fractions of the run; a term is active at step n when n > fraction * steps."""

    contrast_start: OfRun = 0.0
    """Patch and class token contrast join here (base: VOC 0, COCO 0.1 + 0.05)."""
    modules_start: Annotated[float | None, Fraction()] = None
    """A2, A3 and alignment join here; None: with contrast."""
    segmentation_start: OfRun = 0.1
    """The segmentation loss joins here."""
    final_cam_start: OfRun = 0.0
    """Up to here the segmentation labels come from the aux CAM, afterwards from the final CAM."""

    @property
    def joining(self) -> float:
        """Return the start of A2, A3 and alignment: `modules_start`, else `contrast_start`."""
        return self.contrast_start if self.modules_start is None else self.modules_start


@dataclass(frozen=True)
class Optim:
    """AdamW, warm-up and polynomial decay."""

    steps: Annotated[int, Bound(1, 1e9)] = 20_000
    """Optimizer steps of the run."""
    batch: Count = 4
    """Images per step over all processes."""
    accumulate: Count = 1
    """Micro-batches per step that each process computes one after the other."""
    lr: Annotated[float, Bound(0, 10)] = 6e-5
    """Learning rate of the backbone."""
    head_factor: NonNegative = 10.0
    """Learning rate of the heads, as a multiple of the backbone's."""
    decoder_factor: NonNegative = 10.0
    """Learning rate of the decoder, as a multiple of the backbone's; the base has one factor for both."""
    weight_decay: Annotated[float, Bound(0, 1000)] = 0.01
    """Decoupled weight decay on everything with a gradient."""
    warmup: OfRun = 0.075
    """Fraction of the run with linear warm-up (base: 1,500 of 20,000 steps)."""
    power: Annotated[float, Bound(0, 100)] = 0.9
    """Exponent of the polynomial decay."""
    restart: Annotated[float, Fraction(0, 0.99)] = 0.0
    """Fraction of the run at which warm-up and decay start again for the remaining steps; 0: never, as in the base."""
    restart_factor: Annotated[float, Bound(0, 100)] = 1.0
    """Factor on every rate after the restart."""
    bfloat16: bool = True
    """Autocast to bfloat16 on devices that compute in it."""


@dataclass(frozen=True)
class Compat:
    """Differences between the predecessor and a correct implementation (Deviations); True is as in the predecessor."""

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
    """D7: class token contrast uses exponentials and an epsilon of 1e-4, not logsumexp."""
    plain_positions: bool = False
    """D13: position embeddings are resampled without antialiasing."""
    padding_in_cam: bool = False
    """D15: the CAM's minimum and maximum include padded tokens."""
    refine_across_box: bool = False
    """D16: pixel-adaptive refinement reads neighbours beyond the photograph's edge."""
    energy_across_box: bool = False
    """D17: the kernel of the dense energy includes padding."""
    plain_squash: bool = False
    """D18: photographs are squashed for evaluation without antialiasing."""


TOCO = Compat(**{row.name: True for row in dataclasses.fields(Compat)})
"""The predecessor as its authors released it."""


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    name: str = "mini"
    """The preset's name."""
    variant: str = ""
    """Name of the run in records; empty: the preset's name and the settings that differ from it."""
    seed: Annotated[int, Bound(0, 2**31 - 1)] = 0
    """Seed of all randomness."""
    output: str = ""
    """Folder for runs; the run goes to OUTPUT/DATASET/VARIANT/SEED. Empty: runs/ of the project."""
    log_every: Annotated[int, Bound(1, 1e9)] = 10
    """Steps between lines of log.jsonl."""
    save_every: Annotated[float, Fraction(1e-9)] = 0.1
    """Fraction of the run between checkpoints."""
    validate_every: Annotated[float, Fraction(1e-9)] = 0.5
    """Fraction of the run between validations; each also decides which weights are kept as the best."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    cam: Cam = field(default_factory=Cam)
    patch_contrast: PatchContrast = field(default_factory=PatchContrast)
    class_contrast: ClassContrast = field(default_factory=ClassContrast)
    msc: Msc = field(default_factory=Msc)
    csa: Csa = field(default_factory=Csa)
    segmentation: Segmentation = field(default_factory=Segmentation)
    energy: Energy = field(default_factory=Energy)
    schedule: Schedule = field(default_factory=Schedule)
    optim: Optim = field(default_factory=Optim)
    compat: Compat = field(default_factory=Compat)

    @property
    def needs(self) -> frozenset[str]:
        """Return the parts of a step that the terms with a weight need beside the main pass; see `Term.needs`."""
        needs = frozenset(need for term in TERMS.values() if term.weight(self) for need in term.needs)
        return needs | {"cam"} if needs else needs

    @property
    def trains_subspaces(self) -> bool:
        """Return whether several subspaces are trained."""
        return self.msc.subspaces > 1 and self.trains_head

    @property
    def trains_head(self) -> bool:
        """Return whether a term of the objective feeds tokens to the contrast head."""
        return bool(self.needs & {"views", "anchors"})

    def __post_init__(self) -> None:
        check(self, self.optim.steps)
        _check_sizes(self)


def _check_sizes(config: Config) -> None:
    """Raise UserError if settings do not fit one another."""
    cam, msc, augment, width = config.cam, config.msc, config.augment, config.class_contrast.bottleneck
    if not cam.scales:
        raise UserError("cam.scales is empty, but the CAM needs at least one scale; change --cam.scales")
    layers, levels = config.csa.layers, config.segmentation.levels
    if not layers or len(set(layers)) < len(layers):
        raise UserError(f"csa.layers is {layers}, but must name different blocks before the last; change --csa.layers")
    if cam.low >= cam.high:
        raise UserError(f"cam.low ({cam.low}) must be below cam.high ({cam.high}); change one of them")
    if levels and levels[0] == levels[1]:
        raise UserError(
            f"segmentation.levels is {levels}, but low must be below high; change --segmentation.levels; None takes "
            "cam.low and cam.high"
        )
    decoupled = any(TERMS[name].weight(config) for name in ("orthogonality", "decorrelation"))
    if decoupled and msc.subspaces * msc.dimension > width:
        raise UserError(
            f"{msc.subspaces} subspaces of msc.dimension {msc.dimension} cannot be orthogonal in {width} dimensions; "
            "lower --msc.dimension, or set --msc.orthogonality_weight 0 and --msc.decorrelation_weight 0"
        )
    if augment.local_size > augment.crop:
        raise UserError(
            f"augment.local_size ({augment.local_size}) is larger than augment.crop ({augment.crop}); local crops are "
            "cut from the crop, so lower --augment.local_size"
        )


@dataclass(frozen=True)
class Term:
    """One term of the objective. Schedule, encoder passes and costs of a run follow from the table TERMS."""

    weight: Callable[[Config], float]
    """Weight once the term has joined; a weight of 0 leaves the term out."""
    start: str = ""
    """Field of `Schedule` with the fraction of the run at which the term joins. Empty: from the first step on."""
    needs: tuple[str, ...] = ()
    """Parts of a step that the term needs; classification needs none.

    * cam: CAMs of all layers, their labels and the decoder; each of the other parts includes it
    * views: class tokens of view 2 and of the local crops
    * anchors: embeddings of labelled tokens
    * projection: the matrix of the subspaces
    * students: CAMs with gradient
    * filter: the dense kernel
    """
    learner: str = ""
    """Layer that learns in this direction of alignment, last or aux; empty for all other terms."""

    def start_of(self, config: Config) -> float:
        """Return the fraction of the run at which the term joins."""
        return getattr(config.schedule, self.start) if self.start else 0.0


def _apart(config: Config, weight: float) -> float:
    """Return the weight of a term that keeps subspaces apart; 0 if there is only one subspace."""
    return weight * (config.msc.subspaces > 1)


TERMS: dict[str, Term] = {
    "classification": Term(lambda config: 1.0),
    "aux_classification": Term(lambda config: 1.0),
    # Aligned layers other than the aux layer have classifiers of their own, which must learn, too.
    "extra_classification": Term(lambda config: float(config.csa.weight > 0 and set(config.csa.layers) != {AUX})),
    "patch_contrast": Term(lambda config: config.patch_contrast.weight, "contrast_start", ("cam",)),
    "class_contrast": Term(lambda config: config.class_contrast.weight, "contrast_start", ("views",)),
    "patch_subspace": Term(lambda config: config.msc.patch_weight, "joining", ("anchors",)),
    "orthogonality": Term(lambda config: _apart(config, config.msc.orthogonality_weight), "joining", ("projection",)),
    "decorrelation": Term(lambda config: _apart(config, config.msc.decorrelation_weight), "joining", ("anchors",)),
    "intensity_last": Term(lambda config: config.csa.weight * config.csa.intensity, "joining", ("students",), "last"),
    "structure_last": Term(lambda config: config.csa.weight * config.csa.structure, "joining", ("students",), "last"),
    "intensity_aux": Term(lambda config: config.csa.weight * config.csa.intensity, "joining", ("students",), "aux"),
    "structure_aux": Term(lambda config: config.csa.weight * config.csa.structure, "joining", ("students",), "aux"),
    "segmentation": Term(lambda config: config.segmentation.weight, "segmentation_start", ("cam",)),
    "energy": Term(lambda config: config.energy.weight, "segmentation_start", ("filter",)),
}
"""Every term, in the order of the objective (eq. 10). A new loss is a row here and a line in `method.losses`."""


def to_dict(config: Config) -> dict[str, Any]:
    """Return the settings as nested plain values, ready for JSON; `stored.from_dict` reads them."""
    return dataclasses.asdict(config)
