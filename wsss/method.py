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
    """`forward` as a module, because DistributedDataParallel wraps nothing else."""

    def __init__(self, model: SegmentationModel, config: Config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, step: int, generator: Generator) -> tuple[Output, Targets]:
        """Call `method.forward` with this model and configuration."""
        return forward(self.model, batch, self.config, step, generator)


def forward(
    model: SegmentationModel, batch: Batch, config: Config, step: int, generator: Generator
) -> tuple[Output, Targets]:
    """Run every encoder pass of a step and make its targets, in the order of Algorithm 1.

    No pass runs twice (Deviations D8): the main pass also serves as the unflipped CAM pass of scale 1 and as the
    student's view 1. View 2 runs in the same batch. While only classification has a weight, only view 1 is encoded.
    """
    needs = frozenset() if schedule.classification_only(step, config) else config.needs
    image = model.normalise(batch.image)
    view = model.normalise(batch.view) if "views" in needs else None
    # The main pass, with gradient: tokens, logits and the decoder. Of view 2 only the class token is kept.
    output = model(image, segment="cam" in needs, view=view)
    if not needs:
        return output, Targets(batch.label)

    compat, size, grid = config.compat, (image.shape[2], image.shape[3]), output.grid
    valid = cam.box_mask(batch.box, size)
    if compat.box_in_pixels:  # the base's fault: it lays the box on the token grid without dividing by the patch (D1)
        token_valid = cam.box_mask(batch.box, grid)
    else:
        token_valid = cam.token_mask(batch.box, model.patch, grid)
    targets = Targets(batch.label, valid, token_valid)
    output.log_probability = log_probability(output.segmentation, size)
    if "filter" in needs:
        output.probability = energy.half_probability(output.log_probability)
        sigmas = (config.energy.sigma_xy, config.energy.sigma_rgb)
        # A thread filters while the rest of the step goes on; `losses` waits for it last.
        targets.filtered = energy.start(batch.image, output.probability, valid, sigmas, compat.energy_across_box)

    # No teacher network: the CAMs come from the weights that learn from them in this step, without gradient.
    seen = None if compat.padding_in_cam else valid  # the base's range includes padding (D15)
    targets.cams = multi_scale_cams(model, image, output, config, batch.present, valid=seen)
    targets.token_labels = token_labels(targets, grid, config)
    # Every part runs now, even for a term that joins later and still has weight 0. So the graph stays the same for most
    # of the run, and the log has these terms from the beginning.
    if "students" in needs:
        output.student_cams = student_cams(model, output, token_valid, config)
    if "views" in needs:
        crops, targets.flags = local_crops(batch, targets, config, generator)
        output.student, targets.teacher = embed_views(model, output, crops)
    if "projection" in needs:
        output.projection = model.proj_head.projection()
    if "anchors" in needs:
        targets.anchors, output.anchor_embeddings = embed_anchors(model, output, targets, config, generator)

    if batch.mask is not None:  # full supervision: an upper bound, not a result of this task
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
    """Return the multi-scale CAM of every layer, in 0..1 and without gradient.

    At each scale the larger score of image and mirror image counts. Scores are summed over scales, then scaled by
    `cam.to_unit_range` over the `valid` pixels (None: all). `output` is the pass on `image` itself; it serves as the
    unflipped pass of scale 1. Only the classes numbered in `present` are computed; the others stay zero.
    """
    size = (image.shape[2], image.shape[3])
    sums = [image.new_zeros(len(image), len(present), *size) for _ in model.classifiers()]
    for scale in config.cam.scales:
        if scale == 1:  # the main pass has already seen the plain image (D8)
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
    """Return the raw CAM of every layer on the token grid, for the given classes."""
    # Select rows before the product: a batch shows two or three of 20 classes.
    pairs = zip(output.layers, model.class_weights(), strict=True)
    return [cam.class_scores(tokens, weight[classes], output.grid) for tokens, weight in pairs]


def token_labels(targets: Targets, grid: tuple[int, int], config: Config) -> Int[Tensor, "b i j"]:
    """Label tokens by the aux CAM, resized bilinearly to the token grid and thresholded; IGNORE outside V."""
    # Not the last layer's CAM: its tokens, which learn from these labels, become too alike.
    small = F.interpolate(targets.cams[1], grid, mode="bilinear", align_corners=False)
    return cam.training_labels(small, targets.label, targets.token_valid, config.cam.low, config.cam.high)


def student_cams(
    model: SegmentationModel, output: Output, token_valid: Bool[Tensor, "b i j"], config: Config
) -> tuple[Float[Tensor, "b k i j"], ...]:
    """Return the student CAM of every layer, from the main pass and with gradient."""
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
    """Draw local crops where the aux CAM is low or unsure; also flag all views, 1 if a view shows foreground."""
    size, count = config.augment.local_size, config.augment.local_crops
    certainty = cam.foreground_certainty(targets.cams[1], batch.label, config.cam.low, config.cam.high)
    corners, flags = contrast.choose_crops(
        certainty, targets.valid, size, count, generator, padding_in_crops=config.compat.padding_in_crops
    )
    # Views 1 and 2 show most of the photograph, so they count as foreground without a check.
    both_global_views = torch.ones_like(flags[:, :1]).expand(-1, 2)
    return contrast.cut(batch.local, corners, size), torch.cat([both_global_views, flags], 1)


def embed_views(
    model: SegmentationModel, output: Output, crops: UInt8[Tensor, "m b 3 q q"]
) -> tuple[Float[Tensor, "v b s e"], Float[Tensor, "2 b s e"]]:
    """Embed class tokens: the student head takes both global views and the crops, the teacher head the global views."""
    # The encoder is shared; only the head has a teacher, a moving average of the student's head.
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
    # The head runs on the anchors only, not on all tokens.
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
    """Return pseudo labels: pixels labelled by a CAM in 0..1, refined by the colours of `image` (0..255).

    `segmentation.refinements` 0 leaves the refinement out. `box` is the photograph within a padded image; None: there
    is no padding. `most` is the largest number of classes of one image; None: it is read from `label`, and the host
    waits for a GPU.
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
    """Compute every term of the objective, unweighted, from the output and its targets.

    A pure function: it reads no parameter, device or rank. Counts are over the given (local) batch. A term is computed
    if `forward` made its inputs. So a term of weight 0 is logged too, unless it needs extra computation.
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
    """Compute Module A's terms: class tokens (A1; one subspace: L_ctc), patch tokens (A2), decoupling (A3a, A3b)."""
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
    """Compute Module B's terms, each a mean over the aligned layers (B7).

    In `_last` the last layer learns from the earlier one, in `_aux` the earlier one learns from the last.
    `schedule.term_weights` weighs the two.
    """
    csa = config.csa
    teachers = [alignment.teacher_cam(maps, output.grid, csa.sampling) for maps in targets.cams]
    # Index 0 is the last layer and 1 the aux layer, which has a CAM even when it is not aligned.
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
    """Return the multilabel soft margin loss L_cls (eq. 1): the logistic loss, averaged over images and classes."""
    return F.multilabel_soft_margin_loss(upcast(logits), label)


def log_probability(logits: Float[Tensor, "b c i j"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Resize the logits bilinearly to `size` and return their log-softmax over the classes.

    Differentiable. Half types give float32, under autocast too.
    """
    return F.interpolate(upcast(logits), size, mode="bilinear", align_corners=False).log_softmax(1)


def segmentation_loss(
    log_probability: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"], undefined: bool = False
) -> Float[Tensor, ""]:
    """Return the cross-entropy L_seg (eq. 9): half the mean over background pixels plus half that over foreground.

    A group without a pixel in the local batch counts 0. With `undefined` the loss is NaN in that case, as in the base
    (Deviations D5). Its gradient is still 0, so only this term leaves the batch out, and the weights stay finite.
    """
    # Two halves, because background fills most of a photograph and would dominate a plain mean.
    entropy = F.nll_loss(log_probability, labels, ignore_index=IGNORE, reduction="none")
    background = labels == 0
    foreground = (labels != 0) & (labels != IGNORE)
    counts = torch.stack([background.sum(), foreground.sum()])
    sums = torch.stack([(entropy * background).sum(), (entropy * foreground).sum()])
    means = sums / counts.clamp(min=1)
    loss = 0.5 * (means[0] + means[1])
    # where() puts a constant in the loss's place, so the gradient is 0 and not NaN.
    return torch.where((counts == 0).any(), torch.nan, loss) if undefined else loss


def objective(terms: dict[str, Float[Tensor, ""]], weights: dict[str, float]) -> Float[Tensor, ""]:
    """Return the weighted sum of the terms (eq. 10).

    Terms of weight 0 stay in the sum, so their gradients are zero, not absent (`complete_gradients` says why). Raises
    ValueError for a term without a weight, and for a weight above 0 without its term.
    """
    weighted = {name for name, weight in weights.items() if weight}
    if strays := sorted((terms.keys() - weights.keys()) | (weighted - terms.keys())):
        raise ValueError(f"{', '.join(strays)} is a term without a weight, or a weight without a term")
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


def complete_gradients(model: SegmentationModel, config: Config) -> None:
    """Fill missing gradients with zeros, so that AdamW counts every step for every parameter, as in the base.

    A step of classification alone leaves most heads without a gradient, but AdamW must count their steps too. A decoder
    that joins late then takes larger first steps, because its bias correction is already spent.
    """
    # In a run of classification alone the other heads never learn and need no counters.
    for parameter in model.parameters() if config.needs else ():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
