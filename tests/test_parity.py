"""A whole step's use of the predecessor's numbers; the functions one by one are compared by `wsss verify`
(test_verify)."""

from pathlib import Path

import numpy as np
import torch

from wsss import cam, contrast, method
from wsss.batch import Batch, Output
from wsss.config import Config
from wsss.presets import BASE, RELEASED
from wsss.settings import override

GOLDEN = Path(__file__).parent / "golden" / "toco.npz"


def test_token_affinity_of_a_whole_step():
    """The pair targets of L_ptc by way of `method`: the CAM is sampled to the grid before the thresholds."""
    with np.load(GOLDEN) as arrays:
        maps, label = (torch.from_numpy(arrays[f"labels/in/{name}"]) for name in ("cam", "image_label"))
    images, _, height, width = maps.shape
    whole = torch.tensor([[0, height, 0, width]]).expand(images, 4)
    blank = torch.zeros(images, 3, height, width, dtype=torch.uint8)
    batch = Batch([""] * images, blank, label, whole, blank, blank)
    tokens = torch.zeros(images, 12, 2)
    output = Output(tokens, tokens, (), tokens[:, 0], None, (4, 3), 16, label, label, aux_cam=maps)
    affinity = contrast.affinity_labels(method.token_labels(output, batch, override(Config(), {**BASE, **RELEASED})))
    small = torch.nn.functional.interpolate(maps, (4, 3), mode="bilinear", align_corners=False)
    labels = cam.training_labels(small, label, whole * 0 + torch.tensor([0, 4, 0, 3]), 0.25, 0.7)
    assert torch.equal(affinity, contrast.affinity_labels(labels))
