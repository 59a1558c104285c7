"""One training step of the method, top to bottom: every encoder pass, every target, every loss (Algorithm 1)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Generator, Tensor, nn

from wsss import alignment, cam, contrast, energy, refine, schedule, subspace
from wsss.batch import Batch, Output, Targets
from wsss.cam import upcast
from wsss.config import AUX, IGNORE, TERMS, Config
from wsss.model import SegmentationModel


class Forward(nn.Module):
    """Wrap `forward` as a module, which DistributedDataParallel asks for."""

    def __init__(self, model: SegmentationModel, config: Config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, step: int, generator: Generator) -> tuple[Output, Targets]:
        """Call `method.forward` with this model and configuration."""
        return forward(self.model, batch, self.config, step, generator)


def forward(
    model: SegmentationModel, batch: Batch, config: Config, step: int, generator: Generator
) -> tuple[Output, Targets]:
    """Run every pass of a step and make its targets, in the order of Algorithm 1.

    Nothing is computed twice: view 2 runs in the batch of view 1, and the unflipped CAM pass of scale 1 and the
    student's view 1 are the main pass (Deviations D8). While only classification has a weight, view 1 is all.
    """
    needs = frozenset() if schedule.classification_only(step, config) else config.needs
    image = model.normalise(batch.image)
    view = model.normalise(batch.view) if "views" in needs else None
    # The main pass, with gradient: tokens, logits and the decoder. View 2 adds its class token alone.
    output = model(image, segment="cam" in needs, view=view)
    if not needs:
        return output, Targets(batch.label)

    compat, size, grid = config.compat, (image.shape[2], image.shape[3]), output.grid
    valid = cam.box_mask(batch.box, size)
    if compat.box_in_pixels:  # the base lays the box in pixels on the token grid (D1)
        token_valid = cam.box_mask(batch.box, grid)
    else:
        token_valid = cam.token_mask(batch.box, model.patch, grid)
    targets = Targets(batch.label, valid, token_valid)
    output.log_probability = log_probability(output.segmentation, size)
    if "filter" in needs:
        output.probability = energy.half_probability(output.log_probability)
        sigmas = (config.energy.sigma_xy, config.energy.sigma_rgb)
        # A thread filters beside everything that follows; `losses` waits for it last.
        targets.filtered = energy.start(batch.image, output.probability, valid, sigmas, compat.energy_across_box)

    # CAMs of the very weights that learn from them in this step, without gradient.
    seen = None if compat.padding_in_cam else valid
    targets.cams = multi_scale_cams(model, image, output, config, batch.present, valid=seen)
    targets.token_labels = token_labels(targets, grid, config)
    # From the first contrast on every part runs, though a module that joins later has the weight 0 until then: one
    # graph for most of the run, and its terms in the log from the beginning.
    if "students" in needs:
        output.student_cams = student_cams(model, output, token_valid, config)
    if "views" in needs:
        crops, targets.flags = local_crops(batch, targets, config, generator)
        output.student, targets.teacher = embed_views(model, output, crops)
    if "projection" in needs:
        output.projection = model.proj_head.projection()
    if "anchors" in needs:
        targets.anchors, output.anchor_embeddings = embed_anchors(model, output, targets, config, generator)

    if batch.mask is not None:  # full supervision: the ceiling, no result of this task
        targets.pseudo_label = batch.mask.long()
    else:
        source = targets.cams[1 if schedule.uses_aux_labels(step, config) else 0]
        targets.pseudo_label = pseudo_label(batch.image, source, batch.label, config, batch.box, most=batch.most)
    return output, targets


@torch.no_grad()
def multi_scale_cams(
    model: SegmentationModel,
    image: Float[Tensor, "b 3 h w"],
    output: Output,
    config: Config,
    present: Int[Tensor, " p"],
    *,
    valid: Bool[Tensor, "b h w"] | None = None,
) -> tuple[Float[Tensor, "b k h w"], ...]:
    """Multi-scale CAM of every layer in 0..1: sum over scales of the larger of image and mirror image, then
    `cam.to_unit_range` over the `valid` pixels (None: all).

    `output` is the pass on `image` itself and serves as the unflipped pass of scale 1. Only the classes numbered in
    `present` are computed; the others stay zero.
    """
    size = (image.shape[2], image.shape[3])
    sums = [image.new_zeros(len(image), len(present), *size) for _ in model.classifiers()]
    for scale in config.cam.scales:
        if scale == 1:  # the plain image has been seen: it is the main pass
            mirrored = model(image.flip(-1), segment=False)
            pairs = zip(_layer_scores(model, output, present), _layer_scores(model, mirrored, present), strict=True)
        else:
            scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
            both = model(torch.cat([scaled, scaled.flip(-1)]), segment=False)
            pairs = (maps.chunk(2) for maps in _layer_scores(model, both, present))
        for total, (plain, flipped) in zip(sums, pairs, strict=True):
            # The layers share every pass; only their classifiers differ.
            total += cam.mirrored_scores(plain, flipped, size)
    zeros = image.new_zeros(*output.logits.shape, *size)
    return tuple(cam.to_unit_range(zeros.index_copy(1, present, total), valid) for total in sums)


def _layer_scores(
    model: SegmentationModel, output: Output, classes: Int[Tensor, " p"]
) -> list[Float[Tensor, "b p i j"]]:
    """Raw CAM of every layer on the token grid, for the given classes."""
    # The rows are taken before the product: of 20 classes a batch has two or three.
    pairs = zip(output.layers, model.class_weights(), strict=True)
    return [cam.class_scores(tokens, weight[classes], output.grid) for tokens, weight in pairs]


def token_labels(targets: Targets, grid: tuple[int, int], config: Config) -> Int[Tensor, "b i j"]:
    """Label the tokens: the aux CAM, bilinear to the token grid, thresholded; IGNORE outside the photograph."""
    # The aux CAM and not the last one: the tokens of the last layer, which these labels teach, become too alike.
    small = F.interpolate(targets.cams[1], grid, mode="bilinear", align_corners=False)
    return cam.training_labels(small, targets.label, targets.token_valid, config.cam.low, config.cam.high)


def student_cams(
    model: SegmentationModel, output: Output, token_valid: Bool[Tensor, "b i j"], config: Config
) -> tuple[Float[Tensor, "b k i j"], ...]:
    """Compute the student CAM of every layer from the main pass, with gradient."""
    csa, pairs = config.csa, zip(output.layers, model.class_weights(), strict=True)
    return tuple(
        alignment.student_cam(
            tokens, weight, output.grid, token_valid, floor=csa.floor, through_classifier=csa.through_classifier
        )
        for tokens, weight in pairs
    )


def local_crops(
    batch: Batch, targets: Targets, config: Config, generator: Generator
) -> tuple[UInt8[Tensor, "m b 3 q q"], Int[Tensor, "b v"]]:
    """Draw local crops where the aux CAM is unsure; flags of all views, 1 where a view shows foreground."""
    size, count = config.augment.local_size, config.augment.local_crops
    certainty = cam.foreground_certainty(targets.cams[1], batch.label, config.cam.low, config.cam.high)
    corners, flags = contrast.choose_crops(
        certainty, targets.valid, size, count, generator, padding_in_crops=config.compat.padding_in_crops
    )
    # Views 1 and 2 show most of the photograph, so they count as foreground without a look.
    both_global_views = torch.ones_like(flags[:, :1]).expand(-1, 2)
    return contrast.cut(batch.local, corners, size), torch.cat([both_global_views, flags], 1)


def embed_views(
    model: SegmentationModel, output: Output, crops: UInt8[Tensor, "m b 3 q q"]
) -> tuple[Float[Tensor, "v b s e"], Float[Tensor, "2 b s e"]]:
    """Embed class tokens: by the student head those of both global views and the crops, by the teacher head those of
    the global views."""
    # The encoder is shared; the teacher differs by its head, a moving average of the student's.
    local = model.encode(model.normalise(crops.flatten(0, 1))).class_token.unflatten(0, (len(crops), -1))
    views = torch.cat([output.class_token[None], output.view_token[None], local])
    with torch.no_grad():
        teacher = model.proj_head_t(views[:2])
    return model.proj_head(views), teacher


def embed_anchors(
    model: SegmentationModel, output: Output, targets: Targets, config: Config, generator: Generator
) -> tuple[Int[Tensor, "a 3"], Float[Tensor, "a s e"]]:
    """Draw anchors among the labelled tokens and embed them in the subspaces."""
    labels, msc = targets.token_labels.flatten(1), config.msc
    anchors = subspace.choose_anchors(labels, generator, msc.anchors_per_class, msc.anchors)
    images, tokens, _ = anchors.unbind(1)
    # The head sees the anchors alone, a part of the tokens.
    return anchors, model.proj_head(output.tokens[images, tokens])


def pseudo_label(
    image: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"],
    maps: Float[Tensor, "b k h w"],
    label: Float[Tensor, "b k"],
    config: Config,
    box: Int[Tensor, "b 4"] | None = None,
    *,
    most: int | None = None,
) -> Int[Tensor, "b h w"]:
    """Pseudo label: pixels labelled by a CAM in 0..1, refined by the colours of `image` (0..255) unless that is off.

    `box` is the photograph in a padded image, whose edge the refinement continues; None: there is no padding. `most` is
    the largest number of classes of one image; None: it is read from `label`, for which a GPU waits.
    """
    low, high = config.segmentation.levels or (config.cam.low, config.cam.high)
    size = (maps.shape[2], maps.shape[3])
    box = cam.whole_box(len(image), size, image.device) if box is None else box
    if not config.segmentation.refinements:
        return cam.training_labels(maps, label, cam.box_mask(box, size), low, high)
    return refine.segmentation_labels(
        image,
        maps,
        label,
        box,
        low,
        high,
        across_box=config.compat.refine_across_box,
        iterations=config.segmentation.refinements,
        most=most,
    )


def losses(output: Output, targets: Targets, config: Config) -> dict[str, Float[Tensor, ""]]:
    """Compute every term of the objective, unweighted: the output against its targets.

    Pure: it reads no parameter, device or rank. Counts are over the given (local) batch. A term is computed where what
    it needs was computed; what weighs 0 is logged, too, unless it costs something to compute.
    """
    terms = {
        "classification": classification_loss(output.logits, targets.label),
        "aux_classification": classification_loss(output.aux_logits, targets.label),
    }
    if output.extra_logits:
        extra = [classification_loss(logits, targets.label) for logits in output.extra_logits]
        terms["extra_classification"] = torch.stack(extra).sum()
    if not targets.cams:  # a step of classification alone
        return terms
    affinity = contrast.affinity_labels(targets.token_labels)
    terms["patch_contrast"] = contrast.patch_contrast_loss(output.tokens, affinity)
    terms |= subspace_terms(output, targets, config)
    if output.student_cams:
        terms |= alignment_terms(output, targets, config)
    undefined = config.compat.undefined_segmentation
    terms["segmentation"] = segmentation_loss(output.log_probability, targets.pseudo_label, undefined)
    if targets.filtered is not None:
        kernel_times_s = targets.filtered()  # waits for the thread, so it comes last
        terms["energy"] = energy.energy_loss(
            output.probability, kernel_times_s, targets.pseudo_label, targets.valid, config.energy.scale
        )
    return terms


def subspace_terms(output: Output, targets: Targets, config: Config) -> dict[str, Float[Tensor, ""]]:
    """Terms of Module A: class tokens (A1; L_ctc with one subspace), patch tokens (A2), decoupling (A3a, A3b)."""
    terms: dict[str, Float[Tensor, ""]] = {}
    if output.student is not None:
        terms["class_contrast"] = subspace.subspace_contrast_loss(
            output.student,
            targets.teacher,
            targets.flags,
            config.class_contrast.temperature,
            raw_exponentials=config.compat.raw_exponentials,
            extra_term=config.compat.extra_contrast_term,
        )
    if output.projection is not None:
        terms["orthogonality"] = subspace.orthogonality_loss(output.projection)
    if output.anchor_embeddings is None:
        return terms
    images, _, labels = targets.anchors.unbind(1)
    if config.msc.patch_weight:
        terms["patch_subspace"] = subspace.patch_subspace_loss(
            output.anchor_embeddings,
            labels,
            images,
            temperature=config.msc.patch_temperature,
            across_images=config.msc.across_images,
            across_backgrounds=config.msc.across_backgrounds,
        )
    if TERMS["decorrelation"].weight(config):
        by_label = config.msc.centring == "label"
        terms["decorrelation"] = subspace.decorrelation_loss(output.anchor_embeddings, labels, by_label)
    return terms


def alignment_terms(output: Output, targets: Targets, config: Config) -> dict[str, Float[Tensor, ""]]:
    """Terms of Module B, means over the aligned layers (B7): in `_last` the last layer learns from the earlier one, in
    `_aux` the earlier one learns from the last. `schedule.term_weights` weighs the two."""
    csa = config.csa
    teachers = [alignment.teacher_cam(maps, output.grid, csa.sampling) for maps in targets.cams]
    # Layer 0 is the last one and 1 the aux layer, which has a CAM whether it is aligned or not.
    aligned = range(1 if AUX in csa.layers else 2, len(teachers))
    terms: dict[str, Float[Tensor, ""]] = {}
    for learner, pairs in (("last", [(0, layer) for layer in aligned]), ("aux", [(layer, 0) for layer in aligned])):
        intensity, structure = [], []
        for student_layer, teacher_layer in pairs:
            student, teacher = output.student_cams[student_layer], teachers[teacher_layer]
            label, valid = targets.label, targets.token_valid
            intensity.append(alignment.intensity_loss(student, teacher, label, valid, csa.smooth))
            structure.append(
                alignment.structure_loss(
                    student,
                    teacher,
                    label,
                    valid,
                    background=csa.background,
                    balance=csa.balance,
                    similar=csa.similar,
                )
            )
        terms[f"intensity_{learner}"] = torch.stack(intensity).mean()
        terms[f"structure_{learner}"] = torch.stack(structure).mean()
    return terms


def classification_loss(logits: Float[Tensor, "b k"], label: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Multilabel soft margin loss L_cls (eq. 1): mean over images and classes of the logistic loss."""
    return F.multilabel_soft_margin_loss(upcast(logits), label)


def log_probability(logits: Float[Tensor, "b c i j"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Logarithm of the softmax of the logits, which are resized bilinearly to `size` before. Differentiable; float32
    for half types, under autocast too."""
    return F.interpolate(upcast(logits), size, mode="bilinear", align_corners=False).log_softmax(1)


def segmentation_loss(
    log_probability: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"], undefined: bool = False
) -> Float[Tensor, ""]:
    """Cross-entropy L_seg (eq. 9): half the mean over background pixels plus half the mean over foreground pixels.

    A group without a pixel in the local batch counts 0. With `undefined` the loss is then not a number, as in the base
    (Deviations D5), but its gradient is 0: only this term leaves the batch out, and the weights stay finite.
    """
    # Halves of equal weight, or the background, most of every photograph, would decide alone.
    entropy = F.nll_loss(log_probability, labels, ignore_index=IGNORE, reduction="none")
    background = labels == 0
    foreground = (labels != 0) & (labels != IGNORE)
    counts = torch.stack([background.sum(), foreground.sum()])
    sums = torch.stack([(entropy * background).sum(), (entropy * foreground).sum()])
    means = sums / counts.clamp(min=1)
    loss = 0.5 * (means[0] + means[1])
    # where() picks a constant, so the gradient is 0 and not NaN.
    return torch.where((counts == 0).any(), torch.nan, loss) if undefined else loss


def objective(terms: dict[str, Float[Tensor, ""]], weights: dict[str, float]) -> Float[Tensor, ""]:
    """Weighted sum of the terms (eq. 10). Terms of weight 0 stay in it: their gradients are zero and not absent.

    Raises ValueError for a term without a weight, and for a weight above 0 without its term.
    """
    weighted = {name for name, weight in weights.items() if weight}
    if strays := sorted((terms.keys() - weights.keys()) | (weighted - terms.keys())):
        raise ValueError(f"{', '.join(strays)} is a term without a weight, or a weight without a term")
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


def complete_gradients(model: SegmentationModel, config: Config) -> None:
    """Fill missing gradients with zeros, so that AdamW counts every step for every parameter, as in the base.

    A step of classification alone leaves most heads without a gradient. AdamW's counters have to run there too: a
    decoder that joins late takes larger first steps, since its bias correction is already spent.
    """
    # Without any other term than classification the heads never learn, and need no counters.
    for parameter in model.parameters() if config.needs else ():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
