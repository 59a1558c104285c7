"""Named mutants of the method, each with the test that kills it, and the process that tries them.

`python tests/mutants.py FOLDER [NAME ...]` prints one line of JSON for each: every mutant is a copy of the package
with one fragment changed, and its test must fail there. First all tests pass on a copy with nothing changed.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    *("pytest", "beartype", "jaxtyping", "hypothesis.extra.numpy", "numpy.testing", "scipy.ndimage"),
    *("sklearn.metrics", "torch", "torchvision.transforms.v2", "timm", "pydensecrf.densecrf"),
)
PATIENCE = 1800
"""Seconds after which a test that hangs is ended, and is no kill; many, for a machine that does much else."""


class Mutant(NamedTuple):
    """`old`, which occurs once in wsss/`module`.py, becomes `new`; `test` (a node id below tests/) must fail."""

    name: str
    module: str
    old: str
    new: str
    test: str


def rows(module: str, *table: tuple[str, str, str, str]) -> tuple[Mutant, ...]:
    """Mutants of one module; a test named without a file is in the module's own."""
    own = f"test_{module}.py::"
    return tuple(Mutant(name, module, old, new, test if "::" in test else own + test) for name, old, new, test in table)


CAM = rows(
    "cam",
    (
        "token mask takes patches that are partly outside",
        "[(top + patch - 1) // patch, bottom // patch, (left + patch - 1) // patch, right // patch]",
        "[top // patch, (bottom + patch - 1) // patch, left // patch, (right + patch - 1) // patch]",
        "test_token_mask_equals_the_slow_loop",
    ),
    ("box is closed below", "(rows < bottom)", "(rows <= bottom)", "test_box_mask_equals_the_slow_loop"),
    (
        "tokens column by column",
        ".unflatten(2, grid)",
        ".unflatten(2, grid[::-1]).mT",
        "test_scores_equal_the_slow_loop_and_put_tokens_row_by_row",
    ),
    (
        "CAM inside autocast",
        "with torch.autocast(tokens.device.type, enabled=False):",
        "if True:",
        "test_scores_keep_float32_under_autocast",
    ),
    ("mirror image not turned back", "mirrored.flip(-1)", "mirrored", "test_mirrored_scores_equal_the_slow_loop"),
    (
        "mean of the flip pair instead of its maximum",
        "torch.maximum(*resized).relu()",
        "(sum(resized) / 2).relu()",
        "test_mirrored_scores_equal_the_slow_loop",
    ),
    (
        "normalised without epsilon",
        "return (raw - low) / (high - low + EPSILON)",
        "return (raw - low) / (high - low)",
        "test_normalise_of_a_flat_map_is_zero",
    ),
    (
        "minimum over padding",
        "raw.masked_fill(outside, torch.inf)",
        "raw",
        "test_normalise_equals_the_slow_loop",
    ),
    (
        "D15: maximum over padding",
        "raw.masked_fill(outside, -torch.inf)",
        "raw",
        "test_D15_padding_in_minimum_and_maximum",
    ),
    ("CAM equal to low is unsure", "value <= low, 0", "value < low, 0", "test_thresholds_belong_to_the_lower_side"),
    ("CAM equal to high is sure", "value <= high", "value < high", "test_thresholds_belong_to_the_lower_side"),
    ("label without + 1", "IGNORE, index + 1)", "IGNORE, index)", "test_labels_equal_the_slow_loops"),
    (
        "labels outside the box",
        "return torch.where(inside, labels, IGNORE)",
        "return labels",
        "test_labels_equal_the_slow_loops",
    ),
    ("absent classes keep their CAM", "cam * label[:, :, None, None]", "cam", "test_absent_classes_never_label"),
    (
        "CAM equal to the background level is foreground",
        "value <= background",
        "value < background",
        "test_thresholds_belong_to_the_lower_side",
    ),
    ("roi code 2 above high only", "(value >= high)", "(value > high)", "test_thresholds_belong_to_the_lower_side"),
)

CONTRAST = rows(
    "contrast",
    ("tokens pair with themselves", " | itself", "", "test_affinity_is_symmetric_and_leaves_itself_out"),
    (
        "IGNORE on one side of a pair only",
        "ignored[:, :, None] | ignored[:, None, :]",
        "ignored[:, :, None]",
        "test_patch_contrast_equals_the_slow_loop",
    ),
    (
        "L_ptc: sign of the negatives",
        "(1 - same) + 0.5 * different",
        "(1 - same) - 0.5 * different",
        "test_patch_contrast_closed_forms",
    ),
    (
        "L_ptc: cosine without absolute value",
        "(unit @ unit.mT).abs()",
        "(unit @ unit.mT)",
        "test_patch_contrast_closed_forms",
    ),
    (
        "L_ptc: count without + 1",
        "(positive.sum() + 1)",
        "positive.sum().clamp(min=1)",
        "test_patch_contrast_closed_forms",
    ),
    (
        "L_ptc: normalised over tokens",
        "F.normalize(upcast(tokens), dim=2)",
        "F.normalize(upcast(tokens), dim=1)",
        "test_patch_contrast_equals_the_slow_loop",
    ),
    (
        "L_ctc: gradient into the teacher",
        "upcast(teacher.detach())",
        "upcast(teacher)",
        "test_class_contrast_gradient_reaches_the_student_only",
    ),
    (
        "L_ctc: times the temperature",
        "upcast(student)) / temperature",
        "upcast(student)) * temperature",
        "test_class_contrast_closed_form",
    ),
    (
        "L_ctc: positives among the negatives",
        "similarity.masked_fill(positive, -torch.inf).logsumexp",
        "similarity.logsumexp",
        "test_class_contrast_closed_form",
    ),
    (
        "L_ctc: sum over the teacher's views",
        "(teacher.shape[0] * (flags.sum(1) + epsilon))",
        "(flags.sum(1) + epsilon)",
        "test_class_contrast_closed_form",
    ),
    (
        "D6: switch turned round",
        "if extra_term:",
        "if not extra_term:",
        "test_D6_extra_term_adds_the_negatives_alone",
    ),
    (
        "D7: logsumexp whatever the switch",
        "if raw_exponentials:",
        "if False:",
        "test_D7_raw_exponentials_overflow_and_logsumexp_does_not",
    ),
    (
        "crops on sure background only",
        "half : half + width] <= 1",
        "half : half + width] < 1",
        "test_crops_are_centred_on_uncertain_pixels_as_on_background",
    ),
    (
        "crops: a mean code of .2 is a positive",
        "> 0.2).long()",
        ">= 0.2).long()",
        "test_a_crop_whose_mean_code_is_the_threshold_is_a_negative",
    ),
    (
        "D4: switch turned round",
        "if padding_in_crops else",
        "if not padding_in_crops else",
        "test_D4_padding_neither_drawn_nor_a_negative",
    ),
    (
        "D4: where the photograph is too small crops come from anywhere",
        "pixels == pixels.amax((1, 2), keepdim=True)",
        "pixels >= 0",
        "test_D4_a_photograph_smaller_than_half_a_crop_is_what_crops_show",
    ),
    (
        "crops: rows and columns swapped",
        "[picks // width, picks % width]",
        "[picks % width, picks // width]",
        "test_crops_are_centred_on_uncertain_pixels_as_on_background",
    ),
    (
        "crops drawn with replacement",
        "host.may_ask(places) and number < count",
        "host.may_ask(places)",
        "test_crops_come_from_anywhere_where_nothing_is_uncertain",
    ),
    ("crops of another image", "image[images[", "image[images.flip(0)[", "test_cut_is_crop_major"),
)

SUBSPACE = rows(
    "subspace",
    (
        "subspaces normalised together",
        "F.normalize(upcast(z), dim=-1)",
        "F.normalize(upcast(z).flatten(-2), dim=-1).view_as(z)",
        "test_project_equals_the_slow_loop",
    ),
    (
        "A1: flags in the wrong order",
        "flags.repeat_interleave(student.shape[2], 0)",
        "flags.repeat(student.shape[2], 1)",
        "test_class_term_is_the_mean_of_the_bases_over_subspaces",
    ),
    (
        "anchors: one more a group",
        "turn >= per_class",
        "turn > per_class",
        "test_anchors_default_limits_on_a_large_batch",
    ),
    (
        "anchors: background left out, IGNORE taken",
        "flat[shuffle] == IGNORE",
        "flat[shuffle] == 0",
        "test_anchors_are_labelled_balanced_and_within_both_limits",
    ),
    (
        "anchors balanced over the batch, not the image",
        "(image * (IGNORE + 1) + flat)",
        "flat",
        "test_anchors_default_limits_on_a_large_batch",
    ),
    (
        "A2: backgrounds of two images attract",
        "torch.where(labels == 0, across_backgrounds, across_images)",
        "torch.ones_like(same)",
        "test_backgrounds_of_two_images_are_neither_positives_nor_negatives",
    ),
    (
        "A2: backgrounds of two images repel",
        "& used, ~same & used",
        "& used, ~(same & comparable) & used",
        "test_backgrounds_of_two_images_are_neither_positives_nor_negatives",
    ),
    (
        "A2: classes attract within an image only",
        "comparable = across | (",
        "comparable = (",
        "test_patch_term_closed_form",
    ),
    (
        "A2: anchors attract themselves",
        "same & comparable & ~itself",
        "same & comparable",
        "test_patch_term_closed_form",
    ),
    (
        "A2: positives missing from the denominator",
        "entries = positive | negative",
        "entries = negative",
        "test_patch_term_closed_form",
    ),
    (
        "A2: rows without an entry",
        " | ~kept[:, None]",
        "",
        "test_patch_term_without_positives_is_zero_with_a_zero_gradient",
    ),
    (
        "A2: sum over positives",
        ".sum(2) / count.clamp(min=1)",
        ".sum(2)",
        "test_patch_term_equals_the_slow_loop",
    ),
    (
        "A2: mean over skipped anchors too",
        "kept.sum().clamp(min=1)",
        "max(len(kept), 1)",
        "test_patch_term_closed_form",
    ),
    (
        "L_orth: divided by the wrong width",
        "/ projection.shape[1]",
        "/ projection.shape[2]",
        "test_orthogonality_closed_forms",
    ),
    (
        "L_dec: not centred by label",
        "codes - same @ codes / same.sum(1, keepdim=True)",
        "codes - codes.mean(0)",
        "test_decorrelation_does_not_mind_class_codes",
    ),
    (
        "L_dec: covariance instead of correlation",
        "centred / (torch.linalg.vector_norm(centred, dim=0) / count.sqrt() + EPSILON)",
        "centred",
        "test_decorrelation_sees_correlations_only",
    ),
    ("L_dec: sum over one dimension", "/ z.shape[2] ** 2", "/ z.shape[2]", "test_decorrelation_closed_forms"),
    (
        "decoupling: a subspace against itself",
        "(blocks * different)",
        "blocks",
        "test_decoupling_of_one_subspace_or_of_no_anchors_is_zero_with_a_zero_gradient",
    ),
    (
        "decoupling: mean over pairs of a subspace with itself",
        "max(subspaces * (subspaces - 1), 1)",
        "subspaces**2",
        "test_orthogonality_closed_forms",
    ),
)

ALIGNMENT = rows(
    "alignment",
    (
        "student: gradient into the classifier",
        "else weight.detach()",
        "else weight",
        "test_student_cam_gradient_is_the_classifier_over_the_range",
    ),
    (
        "student: gradient through minimum and maximum",
        "seen = raw.detach()",
        "seen = raw",
        "test_student_cam_gradient_is_the_classifier_over_the_range",
    ),
    (
        "student: no floor",
        ".clamp(min=floor)",
        ".clamp(min=1e-12)",
        "test_student_cam_floor_bounds_the_gradient_of_a_flat_cam",
    ),
    (
        "student: floor added",
        "(high - low).clamp(min=floor)",
        "(high - low + floor)",
        "test_student_cam_equals_the_slow_loop",
    ),
    (
        "student: maximum over padding",
        "seen.masked_fill(outside, 0.0)",
        "seen",
        "test_student_cam_does_not_see_tokens_outside_valid",
    ),
    (
        "student: no gradient at its extremes",
        "return torch.where(outside, cam.clamp(0, 1), cam)",
        "return cam.clamp(0, 1)",
        "test_student_cam_gradient_is_the_classifier_over_the_range",
    ),
    (
        "teacher with a gradient",
        "F.interpolate(upcast(cam.detach())",
        "F.interpolate(upcast(cam)",
        "test_teacher_cam_is_bilinear_and_detached",
    ),
    (
        "teacher averaged over areas",
        "grid, mode=sampling, align_corners=corners",
        'grid, mode="area"',
        "test_teacher_cam_keeps_a_peak_that_areas_would_flatten",
    ),
    (
        "intensity: gradient into the teacher",
        "upcast(teacher.detach())",
        "upcast(teacher)",
        "test_gradient_reaches_present_classes_and_valid_tokens_of_the_student_only",
    ),
    (
        "intensity: valid mask missing",
        "(label > 0)[:, :, None, None] & valid[:, None]",
        "(label > 0)[:, :, None, None].expand(student.shape)",
        "test_losses_do_not_see_absent_classes_or_tokens_outside_valid",
    ),
    (
        "intensity: absent classes count",
        "(label > 0)[:, :, None, None] & valid[:, None]",
        "valid[:, None].expand(student.shape)",
        "test_losses_do_not_see_absent_classes_or_tokens_outside_valid",
    ),
    (
        "intensity: mean over everything",
        "(error * counted).sum() / counted.sum().clamp(min=1)",
        "(error * counted).mean()",
        "test_an_image_without_a_class_does_not_dilute_the_others",
    ),
    (
        "structure: gradient into the teacher",
        "with torch.no_grad():",
        "if True:",
        "test_gradient_reaches_present_classes_and_valid_tokens_of_the_student_only",
    ),
    (
        "structure: diagonal kept",
        "pairs.diagonal(dim1=1, dim2=2).fill_(False)",
        "pass",
        "test_closed_forms",
    ),
    (
        "structure: valid mask missing",
        "valid.flatten(1) & (label > 0).any(1, keepdim=True)",
        "(label > 0).any(1, keepdim=True).expand(valid.flatten(1).shape)",
        "test_losses_do_not_see_absent_classes_or_tokens_outside_valid",
    ),
    (
        "structure: images without a class count",
        "valid.flatten(1) & (label > 0).any(1, keepdim=True)",
        "valid.flatten(1)",
        "test_an_image_without_a_class_does_not_dilute_the_others",
    ),
    (
        "structure: pairs are near above one half only",
        "target >= similar",
        "target > similar",
        "test_an_affinity_of_exactly_one_half_is_near",
    ),
    (
        "structure: near from .6",
        "(target >= similar), pairs & (target < similar)",
        "(target >= 0.6), pairs & (target < 0.6)",
        "test_pairs_are_near_from_an_affinity_of_one_half",
    ),
    ("structure: never balanced", "if balance else", "if False else", "test_balance_weighs_near_and_far_pairs_alike"),
    ("structure: sum of the groups", "torch.stack(means).mean()", "torch.stack(means).sum()", "test_closed_forms"),
    (
        "background channel: mean over classes",
        "1 - vectors.amax(1, keepdim=True)",
        "1 - vectors.mean(1, keepdim=True)",
        "test_affinity_equals_the_slow_loop",
    ),
    (
        "background channel missing",
        "if background:",
        "if False:",
        "test_without_the_background_channel_a_one_class_image_has_no_structure",
    ),
    (
        "affinity: absent classes count",
        " * (label > 0)[:, :, None]\n",
        "\n",
        "test_affinity_equals_the_slow_loop",
    ),
    (
        "affinity: a token without response has a direction",
        "norm > EPSILON",
        "norm > 0",
        "test_without_the_background_channel_a_token_without_response_has_no_gradient",
    ),
    ("directions swapped", "return 1 - later, later", "return later, 1 - later", "test_fixed_directions"),
    (
        "a crossing of 0 ramps",
        "elif crossing == 0:",
        "elif False:",
        "test_a_crossing_of_0_means_the_last_layer_leads_from_the_start",
    ),
    (
        "ramp begins at the crossing",
        "/ ramp + 0.5",
        "/ ramp",
        "test_the_scheduled_direction_crosses_over_linearly",
    ),
)

REFINE = rows(
    "refine",
    (
        "PAR: the farthest ring missing",
        "DILATIONS = (1, 2, 4, 8, 12, 24)",
        "DILATIONS = (1, 2, 4, 8, 12)",
        "test_weights_sum_to_1_01",
    ),
    (
        "PAR: biased deviation of colours",
        "/ (len(views) - 1)",
        "/ len(views)",
        "test_refine_equals_the_slow_loop",
    ),
    (
        "PAR: sum over colours",
        ".square_().mean(1).neg_()",
        ".square_().sum(1).neg_()",
        "test_refine_equals_the_slow_loop",
    ),
    (
        "PAR: biased deviation of distances",
        "distance.std()",
        "distance.std(correction=0)",
        "test_refine_without_a_box_is_the_slow_loop_over_the_whole_image",
    ),
    (
        "PAR: masks resized without aligned corners",
        "align_corners=True",
        "align_corners=False",
        "test_masks_of_another_size_are_resized_with_aligned_corners",
    ),
    (
        "D16: never at the edge of the box",
        "edges = whole_box(batch, size, image.device) if box is None else box",
        "edges = whole_box(batch, size, image.device)",
        "test_D16_refinement_does_not_cross_the_edge_of_the_box",
    ),
    (
        "background levels swapped",
        "for level in (high, low)",
        "for level in (low, high)",
        "test_labels_follow_the_two_backgrounds",
    ),
    (
        "a tie with the background is foreground",
        "strict > strict_background",
        "strict >= strict_background",
        "test_the_stronger_of_two_classes_wins_and_a_tie_with_the_background_is_background",
    ),
    (
        "refined labels outside the box",
        "labels.masked_fill(~box_mask(box, (height, width)), IGNORE)",
        "labels",
        "test_labels_outside_the_box_are_ignored",
    ),
)

ENERGY = rows(
    "energy",
    (
        "softmax after halving",
        "F.avg_pool2d(log_probability.exp(), 2)",
        "F.avg_pool2d(log_probability, 2).exp()",
        "test_half_probability_is_the_bilinear_half",
    ),
    (
        "sigma of full-size pixels at half size",
        "sigma_xy / 2",
        "sigma_xy",
        "test_filter_lies_in_a_band_below_the_exact_gaussian_sum",
    ),
    (
        "kernel sees probabilities outside the box",
        "probability.detach().float() * seen[:, None]",
        "probability.detach().float()",
        "test_filter_sees_no_probability_outside_the_box",
    ),
    (
        "energy: sign",
        "return -weight / len(labels)",
        "return weight / len(labels)",
        "test_loss_and_gradient_equal_the_slow_loop",
    ),
    (
        "energy: S enters the gradient once",
        "(2 * total - total.detach())",
        "total",
        "test_gradient_is_that_of_the_energy_with_gate_and_kernel_held",
    ),
    (
        "energy: gradient through the gate",
        "probability.detach().amax(1)",
        "probability.amax(1)",
        "test_loss_and_gradient_equal_the_slow_loop",
    ),
    (
        "energy: gradient into the filtered values",
        "filtered.detach()",
        "filtered",
        "test_energy_has_no_gradient_into_the_filtered_values",
    ),
    (
        "energy: gate open outside the box",
        "1.0, doubt) * inside",
        "1.0, doubt)",
        "test_nothing_outside_the_box_matters_to_the_loss",
    ),
    (
        "energy: gate shut where ignored",
        "== IGNORE, 1.0, doubt",
        "== IGNORE, 0.0, doubt",
        "test_gate_is_open_where_ignored_shut_where_sure_and_outside_the_box",
    ),
)

LOSSES = rows(
    "losses",
    (
        "half types stay half",
        "x.to(torch.promote_types(x.dtype, torch.float32))",
        "x",
        "test_upcast_lifts_half_types_only",
    ),
    (
        "classification: sum over images",
        "F.multilabel_soft_margin_loss(upcast(logits), label)",
        'F.multilabel_soft_margin_loss(upcast(logits), label, reduction="sum")',
        "test_classification_closed_forms",
    ),
    (
        "L_seg: ignored pixels count as foreground",
        "(labels != 0) & (labels != IGNORE)",
        "labels != 0",
        "test_segmentation_closed_form_2x2",
    ),
    (
        "L_seg: one mean over all pixels",
        "0.5 * (means[0] + means[1])",
        "F.nll_loss(log_probability, labels, ignore_index=IGNORE)",
        "test_segmentation_weighs_the_groups_alike_however_large_they_are",
    ),
    (
        "D5: undefined whatever the switch",
        "if undefined else loss",
        "if True else loss",
        "test_D5_a_group_without_a_pixel",
    ),
)

METRICS = rows(
    "metrics",
    (
        "ties of an AUC count nothing",
        "(below + outside / 2)",
        "below",
        "test_pixel_auc_in_closed_cases",
    ),
    (
        "an AUC counts pixels without truth",
        "known = truth != IGNORE",
        "known = truth == truth",
        "test_pixel_auc_is_that_of_scikit_learn",
    ),
    (
        "confusion transposed",
        "pairs = truth[kept].astype(np.int64) * classes + prediction[kept]",
        "pairs = prediction[kept].astype(np.int64) * classes + truth[kept]",
        "test_segmentation_scores_equal_the_slow_loops",
    ),
    (
        "false positives and negatives swapped",
        "matrix.sum(0) - hit, matrix.sum(1) - hit",
        "matrix.sum(1) - hit, matrix.sum(0) - hit",
        "test_activation_errors_closed_form",
    ),
    (
        "D9: predicted classes lower the mean",
        "return totals[:, 0] + totals[:, 2] > 0",
        "return totals.sum(1) > 0",
        "test_D9_mean_over_classes_present_and_headline",
    ),
    (
        "over-activation of the background",
        "totals[1:].sum(0)",
        "totals.sum(0)",
        "test_activation_errors_closed_form",
    ),
    (
        "sweep: equal to the threshold is foreground",
        "np.searchsorted(levels.astype(value.dtype), value[kept])",
        'np.searchsorted(levels.astype(value.dtype), value[kept], side="right")',
        "test_the_sweep_equals_labels_made_at_every_threshold",
    ),
    (
        "boundary: the image's edge is none",
        'mode="constant", cval=IGNORE',
        'mode="nearest"',
        "test_boundaries_equal_repeated_erosion",
    ),
)

OPTIM = rows(
    "optim",
    (
        "warm-up one step longer",
        "if step < warmup:",
        "if step <= warmup:",
        "test_warm_up_is_1500_steps_at_full_scale",
    ),
    (
        "decay counted from the end of the warm-up",
        "scale * (1 - step / steps)",
        "scale * (1 - (step - warmup) / (steps - warmup))",
        "test_rate_rises_drops_where_the_warm_up_ends_and_falls_to_nearly_zero",
    ),
    ("AdamW: second beta", "betas=(0.9, 0.999)", "betas=(0.9, 0.99)", "test_adamw_is_the_predecessors"),
    (
        "heads at the backbone's rate",
        'rate * group["factor"]',
        "rate",
        "test_adamw_is_the_predecessors",
    ),
)

MODEL = rows(
    "model",
    (
        "teacher takes on the student by its momentum",
        "slow.lerp_(fast, 1 - momentum)",
        "slow.lerp_(fast, momentum)",
        "test_teacher_starts_as_a_copy_and_follows_by_its_momentum",
    ),
    (
        "aux tokens one block later",
        "wanted = (self.aux_block, *",
        "wanted = (self.aux_block + 1, *",
        "test_aux_tokens_are_those_before_the_last_two_blocks_without_norm",
    ),
    (
        "D13: switch turned round",
        "antialias=not self.plain_positions",
        "antialias=self.plain_positions",
        "test_D13_positions_resampled_with_antialiasing",
    ),
)

METHOD = rows(
    "method",
    (
        "D15: padding in the CAM whatever the switch",
        "valid = None if config.compat.padding_in_cam else inside",
        "valid = None",
        "test_cam.py::test_D15_the_switch_decides_whether_a_step_normalises_over_padding",
    ),
    (
        "largest scale instead of their sum",
        "total += cam.mirrored_scores(*maps, size)",
        "torch.maximum(total, cam.mirrored_scores(*maps, size), out=total)",
        "test_D8_multi_scale_cam_equals_the_naive_one",
    ),
    (
        "crops chosen by the last CAM",
        "cam.foreground_certainty(output.aux_cam,",
        "cam.foreground_certainty(output.cam,",
        "test_local_crops_are_chosen_by_the_aux_cam",
    ),
    (
        "the student is its own teacher",
        "teacher = model.proj_head_t(views[:2])",
        "teacher = model.proj_head(views[:2])",
        "test_contrast.py::test_the_teacher_of_a_step_is_the_head_that_follows",
    ),
    (
        "global views are negatives",
        "torch.ones_like(flags[:, :2])",
        "torch.zeros_like(flags[:, :2])",
        "test_output_of_a_step_has_its_shapes",
    ),
    (
        "alignment: student and teacher layers swapped",
        '("last", [(0, layer) for layer in aligned]), ("aux", [(layer, 0) for layer in aligned])',
        '("aux", [(0, layer) for layer in aligned]), ("last", [(layer, 0) for layer in aligned])',
        "test_losses_are_the_parts_put_together",
    ),
    (
        "labels of the other layer",
        "output.aux_cam if aux_labels else output.cam",
        "output.cam if aux_labels else output.aux_cam",
        "test_segmentation_labels_come_from_the_layer_asked_for",
    ),
    (
        "D5: switch turned round",
        "config.compat.undefined_segmentation",
        "not config.compat.undefined_segmentation",
        "test_switches_reach_the_losses",
    ),
    (
        "D1: switch turned round",
        "if config.compat.box_in_pixels:",
        "if not config.compat.box_in_pixels:",
        "test_D1_pixel_box_on_the_token_grid",
    ),
    (
        "D17: the switch does not reach a step",
        "across_box=config.compat.energy_across_box",
        "across_box=True",
        "test_energy.py::test_D17_the_switch_decides_whether_a_step_builds_the_kernel_of_padding",
    ),
    (
        "a phase begins one step early",
        "step > start * config.optim.steps",
        "step >= start * config.optim.steps",
        "test_weights_are_the_published_schedule",
    ),
    (
        "terms of weight 0 left out",
        "for name, value in terms.items()]",
        "for name, value in terms.items() if table[name]]",
        "test_objective_is_the_weighted_sum_and_keeps_terms_of_weight_zero",
    ),
)

MUTANTS = (*CAM, *CONTRAST, *SUBSPACE, *ALIGNMENT, *REFINE, *ENERGY, *LOSSES, *METRICS, *OPTIM, *MODEL, *METHOD)
ORIGINAL = "the package as it is"


def source(module: str) -> str:
    """Text of a module of the package."""
    return (ROOT / "wsss" / f"{module}.py").read_text()


def run(folder: Path, mutants: Sequence[Mutant]) -> Iterator[dict[str, Any]]:
    """Outcomes: of the original first, which all the tests must pass, then of every mutant, whose test must not.

    Each is tried in a fork of this process, which has imported the heavy libraries but not the package; as many at a
    time as there are cores.
    """
    for heavy in HEAVY:
        importlib.import_module(heavy)
    import torch
    from hypothesis import Phase, settings

    torch.set_num_threads(1)  # a process that has started threads cannot be forked safely
    # A mutant need not be killed by the smallest example: no shrinking.
    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), report_multiple_bugs=False)
    settings.load_profile("mutants")
    shutil.copytree(ROOT / "wsss", folder / "original" / "wsss", ignore=shutil.ignore_patterns("__pycache__"))
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # no test needs one, and each would be loaded in every fork
    gc.freeze()  # pytest collects garbage twice: nothing of what was there before
    tests = [str(ROOT / "tests" / test) for test in dict.fromkeys(mutant.test for mutant in mutants)]
    yield from wait({fork(ORIGINAL, folder / "original", tests, "cam"): (ORIGINAL, folder / "original")})
    running: dict[int, tuple[str, Path]] = {}
    for number, mutant in enumerate(mutants):
        place = folder / str(number)
        shutil.copytree(folder / "original" / "wsss", place / "wsss")
        module = place / "wsss" / f"{mutant.module}.py"
        module.write_text(module.read_text().replace(mutant.old, mutant.new))
        for compiled in (place / "wsss" / "__pycache__").glob(f"{mutant.module}.*"):
            compiled.unlink()  # it may be of the same size and second
        running[fork(mutant.name, place, [str(ROOT / "tests" / mutant.test)], mutant.module)] = (mutant.name, place)
        if len(running) >= (os.cpu_count() or 1):
            yield from wait(running)
    while running:
        yield from wait(running)


def fork(name: str, place: Path, tests: list[str], module: str) -> int:
    """Number of a process that runs the tests with the package of `place` and writes what it saw there."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.alarm(PATIENCE)
        output = os.open(place / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = in_process(place, tests, module)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def in_process(place: Path, tests: list[str], module: str) -> int:
    """Runs pytest here; what failed, and the file that was loaded as the module, go to `seen`."""
    import pytest

    started = time.monotonic()
    failed: list[list[str]] = []

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                failed.append([report.nodeid, report.when, str(getattr(crash, "message", report.longrepr))[:300]])

    sys.path.insert(0, str(place))
    code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests], plugins=[Watch()]))
    loaded = getattr(sys.modules.get(f"wsss.{module}"), "__file__", None)
    seconds = round(time.monotonic() - started, 2)
    (place / "seen").write_text(json.dumps({"failed": failed, "loaded": str(loaded), "seconds": seconds}))
    return code


def wait(running: dict[int, tuple[str, Path]]) -> Iterator[dict[str, Any]]:
    """The next process to end: its exit code, what failed and when, whether it ran the package of its own place."""
    child, status = os.waitpid(-1, 0)
    name, place = running.pop(child)
    seen = json.loads((place / "seen").read_text()) if (place / "seen").exists() else {}
    own = Path(seen.get("loaded", "/")).is_relative_to(place)
    output = (place / "output").read_text()[-3000:] if (place / "output").exists() else ""
    yield {"name": name, "code": os.waitstatus_to_exitcode(status), "own": own, **seen, "output": output}


if __name__ == "__main__":
    wanted = set(sys.argv[2:])
    for outcome in run(Path(sys.argv[1]).resolve(), [m for m in MUTANTS if not wanted or m.name in wanted]):
        print(json.dumps(outcome), flush=True)
