"""Where faithful to the base and right differ: one boolean a row, each a line of the page 'Deviations'."""

import dataclasses
from dataclasses import dataclass


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
    refine_across_box: bool = False
    """D16: pixel-adaptive refinement reads neighbours beyond the photograph's edge."""
    energy_across_box: bool = False
    """D17: the dense energy's kernel is built of padding too."""
    plain_squash: bool = False
    """D18: photographs are squashed for evaluation without antialiasing."""


TOCO = Compat(**{row.name: True for row in dataclasses.fields(Compat)})
