"""One training step of the method, top to bottom: every encoder pass, every loss, every weight (Algorithm 1)."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from wsss import cam, contrast
from wsss.batch import Batch, Output
from wsss.config import IGNORE, Config
from wsss.losses import classification_loss, segmentation_loss
from wsss.model import Wsss


def forward(model: Wsss, batch: Batch, config: Config, generator: Generator) -> Output:
    """Every encoder pass of a step, in order: main, CAM passes, then view 2 and the local crops where class token
    contrast has a weight. The unflipped scale-1 CAM pass and the student's view 1 are the main pass (D8). Where no
    term of weight learns from a CAM (plain classification), the main pass is all."""
    output = model(batch.image)
    if not any(term.weight for term in (config.patch_contrast, config.class_contrast, config.segmentation)):
        return output
    main, aux = multi_scale_cam(model, batch.image, output, config)
    valid = None if config.compat.padding_in_cam else cam.box_mask(batch.box, batch.image.shape[2:])
    output = dataclasses.replace(output, cam=cam.normalise(main, valid), aux_cam=cam.normalise(aux, valid))
    if config.class_contrast.weight:
        output = contrast_views(model, batch, output, config, generator)
    return output


@torch.no_grad()
def multi_scale_cam(
    model: Wsss, image: Float[Tensor, "b 3 h w"], output: Output, config: Config
) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k h w"]]:
    """Raw multi-scale CAM of the last and of the aux layer: sum over scales of the larger of image and mirror image.

    `output` is the pass on `image` itself and serves as the unflipped pass of scale 1.
    """
    size = (image.shape[2], image.shape[3])
    sums = [image.new_zeros(()), image.new_zeros(())]
    for scale in config.cam.scales:
        if scale == 1:
            plain, scaled = output, image
        else:
            scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
            plain = model(scaled, segment=False)
        mirrored = model(scaled.flip(-1), segment=False)
        for layer, maps in enumerate(zip(layer_scores(model, plain), layer_scores(model, mirrored), strict=True)):
            sums[layer] = sums[layer] + cam.mirrored_scores(*maps, size)
    return sums[0], sums[1]


def layer_scores(model: Wsss, output: Output) -> tuple[Float[Tensor, "b k i j"], Float[Tensor, "b k i j"]]:
    """Raw CAM of the last and of the aux layer on the token grid."""
    final = cam.scores(output.tokens, model.classifier.weight.flatten(1), output.grid)
    aux = cam.scores(output.aux_tokens, model.aux_classifier.weight.flatten(1), output.grid)
    return final, aux


def contrast_views(model: Wsss, batch: Batch, output: Output, config: Config, generator: Generator) -> Output:
    """Class tokens of view 2 and of the local crops, cut by the aux CAM; student and teacher heads on them."""
    size, count = config.augment.local_size, config.augment.local_crops
    padded = config.compat.padding_in_crops
    codes = cam.roi_codes(output.aux_cam, batch.label, config.cam.high, config.cam.low)
    inside = cam.box_mask(batch.box, batch.image.shape[2:])
    corners, flags = contrast.choose_crops(codes, inside, size, count, generator, padded)
    crops = contrast.cut(batch.local, corners, size).flatten(0, 1)
    view = model.encode(batch.view)[2]
    local = model.encode(crops)[2].unflatten(0, (count, -1))
    views = torch.cat([output.class_token[None], view[None], local])
    with torch.no_grad():
        teacher = model.proj_head_t(views[:2])
    flags = torch.cat([torch.ones_like(flags[:, :2]), flags], 1)
    return dataclasses.replace(output, student=model.proj_head(views), teacher=teacher, flags=flags)


def losses(output: Output, batch: Batch, config: Config, aux_labels: bool = False) -> dict[str, Float[Tensor, ""]]:
    """Every term of the objective, unweighted; without a CAM, the two of classification. `aux_labels`: segmentation
    learns from the aux CAM's labels.

    Pure: no parameter, device or rank is read. Counts are over the given (local) batch.
    """
    terms = {
        "classification": classification_loss(output.logits, batch.label),
        "aux_classification": classification_loss(output.aux_logits, batch.label),
    }
    if output.cam is None:
        return terms
    source = output.aux_cam if aux_labels else output.cam
    labels = cam.training_labels(source, batch.label, batch.box, config.cam.high, config.cam.low)
    affinity = token_affinity(output, batch, config)
    terms["patch_contrast"] = contrast.patch_contrast_loss(output.tokens, affinity)
    terms["segmentation"] = segmentation_loss(output.segmentation, labels, config.compat.undefined_segmentation)
    if output.student is not None:
        terms["class_contrast"] = contrast.class_contrast_loss(
            output.student,
            output.teacher,
            output.flags,
            config.class_contrast.temperature,
            config.compat.raw_exponentials,
            config.compat.extra_contrast_term,
        )
    return terms


def token_affinity(output: Output, batch: Batch, config: Config) -> Tensor:
    """Pair targets (b, n, n) of patch token contrast: the aux CAM, bilinear to the token grid, thresholded.

    IGNORE outside V, the tokens wholly inside the photograph; with compat.box_in_pixels outside the pixel box laid
    on the token grid (Deviations D1).
    """
    grid = output.grid
    small = F.interpolate(output.aux_cam, grid, mode="bilinear", align_corners=False)
    everywhere = batch.box.new_tensor([0, grid[0], 0, grid[1]]).expand(len(batch.box), 4)
    labels = cam.training_labels(small, batch.label, everywhere, config.cam.high, config.cam.low)
    pixels = config.compat.box_in_pixels
    valid = cam.box_mask(batch.box, grid) if pixels else cam.token_mask(batch.box, output.patch, grid)
    return contrast.affinity_labels(torch.where(valid, labels, IGNORE))


def weights(step: int, config: Config) -> dict[str, float]:
    """The whole schedule as a table: the weight of every term at `step`, counted from 0."""
    contrasting = _active(config.schedule.contrast_start, step, config)
    segmenting = _active(config.schedule.segmentation_start, step, config)
    return {
        "classification": 1.0,
        "aux_classification": 1.0,
        "patch_contrast": config.patch_contrast.weight * contrasting,
        "class_contrast": config.class_contrast.weight * contrasting,
        "segmentation": config.segmentation.weight * segmenting,
    }


def uses_aux_labels(step: int, config: Config) -> bool:
    """Whether segmentation still learns from the aux CAM at `step` (COCO's second phase)."""
    return not _active(config.schedule.final_cam_start, step, config)


def objective(terms: dict[str, Float[Tensor, ""]], table: dict[str, float]) -> Float[Tensor, ""]:
    """Weighted sum (eq. 10). Terms of weight 0 stay in it, so that their gradients are zero and not absent."""
    return torch.stack([table[name] * value for name, value in terms.items()]).sum()


def _active(start: float, step: int, config: Config) -> bool:
    return start == 0 or step > start * config.optim.steps


class Step(nn.Module):
    """`forward` with a model and a configuration: what DistributedDataParallel wraps, teacher head included."""

    def __init__(self, model: Wsss, config: Config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch, generator: Generator) -> Output:
        """See `method.forward`."""
        return forward(self.model, batch, self.config, generator)
