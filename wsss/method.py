"""One training step of the method, top to bottom: every encoder pass, every loss, every weight (Algorithm 1)."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from wsss import alignment, cam, contrast, energy, refine, subspace
from wsss.batch import Batch, Output
from wsss.config import IGNORE, Config
from wsss.encoder import AUX
from wsss.losses import classification_loss, log_probability, segmentation_loss
from wsss.model import SegmentationModel

CLASSIFICATION = ("classification", "aux_classification", "extra_classification")
"""Terms that need no CAM."""


def forward(
    model: SegmentationModel, batch: Batch, config: Config, generator: Generator, plain: bool = False
) -> Output:
    """Every pass of a step, in order: main, with view 2 beside it, CAM passes, then local crops and the contrast head
    where they have a weight. The unflipped scale-1 CAM pass and the student's view 1 are the main pass (D8). Where no
    term of weight learns from a CAM, ever (plain classification) or yet (`plain`, see `is_plain`), view 1 is all."""
    plain = plain or not config.uses_cams
    image = model.normalise(batch.image)
    view = model.normalise(batch.view) if config.contrasts_classes and not plain else None
    output = model(image, segment=not plain, view=view)
    if plain:
        return output
    output = dataclasses.replace(output, log_probability=log_probability(output.segmentation, image.shape[2:]))
    if config.energy.weight:
        probability = energy.half_probability(output.log_probability)
        filtering = energy.start(  # beside all that follows but the loss that it is for
            batch.image,
            probability.detach(),
            batch.box,
            sigma_xy=config.energy.sigma_xy,
            sigma_rgb=config.energy.sigma_rgb,
            across_box=config.compat.energy_across_box,
        )
        output = dataclasses.replace(output, probability=probability, filtered=filtering)
    output = add_cams(model, image, batch, output, config)
    if config.contrasts_classes:
        output = add_class_codes(model, batch, output, config, generator)
    if config.contrasts_patches or config.uses_decorrelation or config.uses_orthogonality:
        output = add_patch_codes(model, output, config, generator)
    return output


def add_cams(
    model: SegmentationModel, image: Float[Tensor, "b 3 h w"], batch: Batch, output: Output, config: Config
) -> Output:
    """The CAM passes on view 1, normalised as `image`; the normalised CAM of every layer, labels of the tokens, and the
    students of alignment."""
    inside = cam.box_mask(batch.box, image.shape[2:])
    valid = None if config.compat.padding_in_cam else inside
    raw = multi_scale_cam(model, image, output, config, batch.present)
    main, aux, *extra = (cam.normalise(maps, valid) for maps in raw)
    output = dataclasses.replace(output, cam=main, aux_cam=aux, extra_cams=tuple(extra))
    output = dataclasses.replace(output, token_labels=token_labels(output, batch, config))
    if not config.csa.weight:
        return output
    seen = token_validity(output, batch, config)
    students = [
        alignment.student_cam(one, weight, output.grid, seen, config.csa.floor, config.csa.through_classifier)
        for one, weight in zip(output.layers, model.class_weights(), strict=True)
    ]
    return dataclasses.replace(output, student_cams=tuple(students))


@torch.no_grad()
def multi_scale_cam(
    model: SegmentationModel,
    image: Float[Tensor, "b 3 h w"],
    output: Output,
    config: Config,
    present: Int[Tensor, " p"],
) -> tuple[Float[Tensor, "b k h w"], ...]:
    """Raw multi-scale CAM of every layer: sum over scales of the larger of image and mirror image.

    `output` is the pass on `image` itself and serves as the unflipped pass of scale 1. Classes other than those that
    `present` numbers are left at zero.
    """
    size = (image.shape[2], image.shape[3])
    sums = [image.new_zeros(len(image), len(present), *size) for _ in model.classifiers()]
    for scale in config.cam.scales:
        if scale == 1:
            mirrored = model(image.flip(-1), segment=False)
            pairs = zip(layer_scores(model, output, present), layer_scores(model, mirrored, present), strict=True)
        else:
            scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
            both = model(torch.cat([scaled, scaled.flip(-1)]), segment=False)
            pairs = (maps.chunk(2) for maps in layer_scores(model, both, present))
        for total, maps in zip(sums, pairs, strict=True):
            total += cam.mirrored_scores(*maps, size)
    whole = image.new_zeros(*output.logits.shape, *size)
    return tuple(whole.index_copy(1, present, total) for total in sums)


def layer_scores(
    model: SegmentationModel, output: Output, classes: Int[Tensor, " p"]
) -> list[Float[Tensor, "b p i j"]]:
    """Raw CAM of every layer on the token grid, for the given classes."""
    pairs = zip(output.layers, model.class_weights(), strict=True)
    return [cam.scores(tokens, weight[classes], output.grid) for tokens, weight in pairs]


def add_class_codes(
    model: SegmentationModel, batch: Batch, output: Output, config: Config, generator: Generator
) -> Output:
    """Class tokens of the local crops, cut by the aux CAM; student and teacher heads on those of all views."""
    size, count = config.augment.local_size, config.augment.local_crops
    padded = config.compat.padding_in_crops
    codes = cam.foreground_certainty(output.aux_cam, batch.label, config.cam.low, config.cam.high)
    inside = cam.box_mask(batch.box, batch.image.shape[2:])
    corners, flags = contrast.choose_crops(codes, inside, size, count, generator, padded)
    crops = contrast.cut(batch.local, corners, size).flatten(0, 1)
    local = model.class_token(model.normalise(crops)).unflatten(0, (count, -1))
    views = torch.cat([output.class_token[None], output.view_token[None], local])
    with torch.no_grad():
        teacher = model.proj_head_t(views[:2])
    flags = torch.cat([torch.ones_like(flags[:, :2]), flags], 1)
    return dataclasses.replace(output, student=model.proj_head(views), teacher=teacher, flags=flags)


def add_patch_codes(model: SegmentationModel, output: Output, config: Config, generator: Generator) -> Output:
    """Anchors among the labelled tokens and their codes in the subspaces (A2, A3); the head sees the anchors alone."""
    if config.uses_orthogonality:
        output = dataclasses.replace(output, projection=model.proj_head.projection())
    if not (config.contrasts_patches or config.uses_decorrelation):
        return output
    labels = output.token_labels.flatten(1)
    anchors = subspace.choose_anchors(labels, generator, config.msc.anchors_per_class, config.msc.anchors)
    images, tokens, _ = anchors.unbind(1)
    codes = model.proj_head(output.tokens[images, tokens])
    return dataclasses.replace(output, anchors=anchors, anchor_codes=codes)


def losses(output: Output, batch: Batch, config: Config, aux_labels: bool = False) -> dict[str, Float[Tensor, ""]]:
    """Every term of the objective, unweighted; without a CAM, those of classification. `aux_labels`: segmentation
    learns from the aux CAM's labels.

    Pure: no parameter, device or rank is read. Counts are over the given (local) batch.
    """
    terms = {
        "classification": classification_loss(output.logits, batch.label),
        "aux_classification": classification_loss(output.aux_logits, batch.label),
    }
    if output.extra_logits:
        extra = [classification_loss(logits, batch.label) for logits in output.extra_logits]
        terms["extra_classification"] = torch.stack(extra).sum()
    if output.cam is None:
        return terms
    affinity = contrast.affinity_labels(output.token_labels)
    terms["patch_contrast"] = contrast.patch_contrast_loss(output.tokens, affinity)
    terms |= subspace_terms(output, config) | alignment_terms(output, batch, config)
    labels = segmentation_labels(output, batch, config, aux_labels)
    terms["segmentation"] = segmentation_loss(output.log_probability, labels, config.compat.undefined_segmentation)
    if output.filtered is not None:  # the last of all, for it is waited for
        terms["energy"] = energy.energy_loss(
            output.probability, output.filtered(), labels, batch.box, config.energy.scale
        )
    return terms


def subspace_terms(output: Output, config: Config) -> dict[str, Float[Tensor, ""]]:
    """Module A: class tokens (A1; L_ctc with one subspace), patch tokens (A2), decoupling (A3)."""
    terms: dict[str, Float[Tensor, ""]] = {}
    if output.student is not None:
        terms["class_contrast"] = subspace.subspace_contrast_loss(
            output.student,
            output.teacher,
            output.flags,
            config.class_contrast.temperature,
            config.compat.raw_exponentials,
            config.compat.extra_contrast_term,
        )
    if output.projection is not None:
        terms["orthogonality"] = subspace.orthogonality_loss(output.projection)
    if output.anchors is not None:
        images, _, labels = output.anchors.unbind(1)
        if config.contrasts_patches:
            terms["patch_subspace"] = subspace.patch_subspace_loss(
                output.anchor_codes,
                labels,
                images,
                temperature=config.msc.patch_temperature,
                across_images=config.msc.across_images,
                across_backgrounds=config.msc.across_backgrounds,
            )
        if config.uses_decorrelation:
            by_label = config.msc.centring == "label"
            terms["decorrelation"] = subspace.decorrelation_loss(output.anchor_codes, labels, by_label)
    return terms


def alignment_terms(output: Output, batch: Batch, config: Config) -> dict[str, Float[Tensor, ""]]:
    """Module B: intensity and structure, mean over the aligned layers; `_last` where the last layer learns from the
    earlier one, `_aux` where the earlier one learns from the last."""
    if not output.student_cams:
        return {}
    csa, valid = config.csa, token_validity(output, batch, config)
    teachers = [alignment.teacher_cam(maps, output.grid, csa.sampling) for maps in output.cams]
    aligned = range(1 if AUX in csa.layers else 2, len(teachers))
    terms: dict[str, Float[Tensor, ""]] = {}
    for side, pairs in (("last", [(0, layer) for layer in aligned]), ("aux", [(layer, 0) for layer in aligned])):
        affinity = {"background": csa.background, "balance": csa.balance, "similar": csa.similar}
        maps = [(output.student_cams[student], teachers[teacher], batch.label, valid) for student, teacher in pairs]
        intensity = [alignment.intensity_loss(*pair, csa.smooth) for pair in maps]
        structure = [alignment.structure_loss(*pair, **affinity) for pair in maps]
        terms |= {
            f"intensity_{side}": torch.stack(intensity).mean(),
            f"structure_{side}": torch.stack(structure).mean(),
        }
    return terms


def segmentation_labels(output: Output, batch: Batch, config: Config, aux_labels: bool) -> Int[Tensor, "b h w"]:
    """Pixel labels made of the last (or the aux) CAM, refined by the colours of view 1 where refinement is on; in a
    fully supervised run the true mask."""
    if batch.mask is not None:
        return batch.mask.long()
    source = output.aux_cam if aux_labels else output.cam
    low, high = config.segmentation.levels or (config.cam.low, config.cam.high)
    if not config.segmentation.refinements:
        return cam.training_labels(source, batch.label, batch.box, low, high)
    return refine.segmentation_labels(
        batch.image,
        source,
        batch.label,
        batch.box,
        low,
        high,
        across_box=config.compat.refine_across_box,
        iterations=config.segmentation.refinements,
        most=batch.most,
    )


def token_labels(output: Output, batch: Batch, config: Config) -> Int[Tensor, "b i j"]:
    """Labels of tokens: the aux CAM, bilinear to the token grid, thresholded; IGNORE outside the photograph."""
    small = F.interpolate(output.aux_cam, output.grid, mode="bilinear", align_corners=False)
    everywhere = cam.whole_box(len(small), output.grid, small.device)
    labels = cam.training_labels(small, batch.label, everywhere, config.cam.low, config.cam.high)
    return torch.where(token_validity(output, batch, config), labels, IGNORE)


def token_validity(output: Output, batch: Batch, config: Config) -> Tensor:
    """V (b, i, j): tokens wholly inside the photograph; with compat.box_in_pixels those inside the pixel box laid on
    the token grid (Deviations D1)."""
    if config.compat.box_in_pixels:
        return cam.box_mask(batch.box, output.grid)
    return cam.token_mask(batch.box, output.patch, output.grid)


def weights(step: int, config: Config) -> dict[str, float]:
    """The whole schedule as a table: the weight of every term at `step`, counted from 0."""
    schedule = config.schedule
    contrasting = _active(schedule.contrast_start, step, config)
    joined = _active(schedule.joining, step, config)
    segmenting = _active(schedule.segmentation_start, step, config)
    msc, csa = config.msc, config.csa
    extra_layers = csa.weight > 0 and set(csa.layers) != {AUX}
    progress = step / config.optim.steps
    to_last, to_aux = alignment.direction_weights(progress, csa.direction, csa.crossing, csa.ramp)
    aligning = csa.weight * joined
    return {
        "classification": 1.0,
        "aux_classification": 1.0,
        "extra_classification": float(extra_layers),
        "patch_contrast": config.patch_contrast.weight * contrasting,
        "class_contrast": config.class_contrast.weight * contrasting,
        "patch_subspace": msc.patch_weight * joined,
        "orthogonality": msc.orthogonality_weight * joined * config.uses_orthogonality,
        "decorrelation": msc.decorrelation_weight * joined * config.uses_decorrelation,
        "intensity_last": aligning * to_last * csa.intensity,
        "structure_last": aligning * to_last * csa.structure,
        "intensity_aux": aligning * to_aux * csa.intensity,
        "structure_aux": aligning * to_aux * csa.structure,
        "segmentation": config.segmentation.weight * segmenting,
        "energy": config.energy.weight * segmenting,
    }


def is_plain(table: dict[str, float]) -> bool:
    """Whether classification alone has a weight in the table of a step: what the other terms need is left out then."""
    return not any(weight for name, weight in table.items() if name not in CLASSIFICATION)


def uses_aux_labels(step: int, config: Config) -> bool:
    """Whether segmentation still learns from the aux CAM at `step` (COCO's second phase)."""
    return not _active(config.schedule.final_cam_start, step, config)


def objective(terms: dict[str, Float[Tensor, ""]], table: dict[str, float]) -> Float[Tensor, ""]:
    """Weighted sum (eq. 10). Terms of weight 0 stay in it, so that their gradients are zero and not absent.

    Raises ValueError for a term without a weight, and for a weight above 0 without its term.
    """
    weighted = {name for name, weight in table.items() if weight}
    if strays := sorted((terms.keys() - table.keys()) | (weighted - terms.keys())):
        raise ValueError(f"{', '.join(strays)} is a term without a weight, or a weight without a term")
    return torch.stack([table[name] * value for name, value in terms.items()]).sum()


def complete_gradients(model: SegmentationModel, config: Config) -> None:
    """Zero gradients where a plain step left none, as if every term had been there with weight 0: the optimizer's
    counters run from the first step on, and a decoder that wakes late takes larger first steps, as in the base."""
    for parameter in model.parameters() if config.uses_cams else ():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _active(start: float, step: int, config: Config) -> bool:
    return start == 0 or step > start * config.optim.steps


class Step(nn.Module):
    """`forward` with a model and a configuration: what DistributedDataParallel wraps, teacher head included."""

    def __init__(self, model: SegmentationModel, config: Config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, generator: Generator, plain: bool = False) -> Output:
        """See `method.forward`."""
        return forward(self.model, batch, self.config, generator, plain)
