"""Print the sha256 of the weights after 100 steps of three runs: `python tests/digests.py [NAME ...]`.

One thread, float32, no network, minutes on one core. A change that must keep the bits of a run leaves the three digests
as they are, on the same processor with the same versions, which are printed as well. Other machines round differently.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch  # noqa: E402

from wsss import datasets, presets, provenance, train  # noqa: E402

STEPS = 100
SHARED = {"optim.steps": STEPS, "optim.bfloat16": False, "save_every": 1.0, "validate_every": 1.0, "data.workers": 0}
TOY = {
    "data.name": "smoke",
    "data.train_split": "train",
    "model.backbone": "vit_tiny_patch16_224",
    "model.pretrained": False,
    "model.patch_size": 8,
    "model.image_size": 64,
    "model.width": 48,
    "model.depth": 4,
    "model.heads": 3,
    "augment.crop": 96,
    "augment.evaluation_size": 96,
    "augment.local_size": 24,
    "class_contrast.hidden": 32,
    "class_contrast.bottleneck": 16,
    "msc.dimension": 32,
}
"""The paper's preset in a network and crops of toy size, on drawn images, half of them padded."""

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "mini": ("mini", {}),
    "smoke": ("smoke", {"csa.direction": "both"}),
    "voc-toco": ("voc-toco", TOY),
}
"""smoke has every term: class and patch contrast, A1, A2, A3, both directions of alignment, segmentation, energy."""


def digest(module: torch.nn.Module) -> str:
    """The sha256 of all parameters, in order of their names."""
    total = hashlib.sha256()
    for name, value in sorted(module.named_parameters()):
        total.update(name.encode())
        total.update(value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def weights(name: str) -> str:
    """Train a run of 100 steps in a temporary folder; return its digest."""
    preset, changes = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        config = presets.get(preset, **SHARED, **changes, output=folder)
        root = datasets.root_of(config.data)
        splits = [datasets.Split(root, config.data.train_split), datasets.Split(root, "val", masks=True)]
        trainer = train.Trainer(config, *splits, Path(folder) / "run", torch.device("cpu"))
        trainer.fit()
        return digest(trainer.model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    stamp = provenance.stamp()
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    print(f"# {stamp['device']}; {torch.backends.cpu.get_cpu_capability()}; {versions}; commit {stamp['commit']}")
    for chosen in sys.argv[1:] or RUNS:
        print(f"{weights(chosen)}  {chosen}", flush=True)
