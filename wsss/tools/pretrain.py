"""Pretrain a small ViT on image labels. The presets of drawn images start from it, as others do from ImageNet."""

import functools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors.torch import save_file
from timm.layers import PatchDropout
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

from wsss import distributed, process, provenance
from wsss.config import Model
from wsss.data import names
from wsss.data.drawn import generate
from wsss.data.pictures import read_image
from wsss.datasets import derive_seed
from wsss.encoder import build_encoder
from wsss.inference import photographs
from wsss.model import describe
from wsss.normalisation import IMAGENET
from wsss.paths import UserError, atomic, write_json
from wsss.settings import Bound, check

_DRAWN = "drawn"
_SMALL_VIT = Model(
    backbone="vit_tiny_patch16_224",
    patch_size=8,
    image_size=64,
    width=128,
    depth=8,
    heads=4,
)


@dataclass(frozen=True)
class Pretrain:
    """Pretrain a small ViT on image labels."""

    root: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ROOT")]
    """A folder of class folders, or the word drawn."""
    output: Path = Path("data/weights/vit_mini_drawn.safetensors")
    """File of the weights (half precision); the record lies beside it as .json."""
    minutes: Annotated[float, Bound(1e-3, 1e6)] = 30.0
    """Length of the run; the schedule follows the time, so any machine ends with a finished run."""
    images: Annotated[int, Bound(2, 1e8)] = 24_000
    """Images to draw if the root is 'drawn'; of a folder, all are used."""
    held_out: Annotated[float, Bound(0, 0.9)] = 0.04
    """Share of the images kept for the final accuracy."""
    size: Annotated[int, Bound(1, 1e4)] = 64
    """Side of the training images in pixels."""
    batch: Annotated[int, Bound(1, 1e6)] = 128
    """Images per step."""
    lr: Annotated[float, Bound(0, 10)] = 1.5e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Bound(0, 1000)] = 0.05
    """Decoupled weight decay."""
    smoothing: Annotated[float, Bound(0, 1)] = 0.1
    """Label smoothing."""
    drop: Annotated[float, Bound(0, 0.99)] = 0.5
    """Share of the patch tokens left out until `drop_until`."""
    drop_until: Annotated[float, Bound(0, 1)] = 0.8
    """Fraction of the run until which patch tokens are left out."""
    warmup: Annotated[float, Bound(1e-6, 1)] = 0.05
    """Fraction of the run with linear warm-up; cosine decay after it."""
    seed: Annotated[int, Bound(0, 2**31 - 1)] = 0
    """The one source of randomness."""
    model: Model = field(default_factory=lambda: _SMALL_VIT)
    """The architecture."""

    def __post_init__(self) -> None:
        check(self)

    def __call__(self) -> str:
        record = _pretrain(self)
        return f"{json.dumps(record['held_out'])} -> {self.output}"


class _Pretrainer(nn.Module):
    """A ViT with two linear heads: on the class token, and on the maximum over the patch tokens as in the method.

    A mean over the tokens learns far more slowly (card of the weights), since it asks for the class in every token.
    """

    def __init__(self, config: Pretrain, classes: int):
        super().__init__()
        self.encoder = build_encoder(config.model)
        self.encoder.patch_drop = PatchDropout(config.drop, self.encoder.num_prefix_tokens)
        self.encoder.pos_embed.requires_grad_(True)
        for block in self.encoder.blocks:
            block.attn.fused_attn = False  # fused attention is slower for such short sequences
        self.class_head = nn.Linear(self.encoder.embed_dim, classes)
        self.patch_head = nn.Linear(self.encoder.embed_dim, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Return the logits of the class token and of the maximum over the patch tokens."""
        tokens = self.encoder.forward_features(image)
        return self.class_head(tokens[:, 0]), self.patch_head(tokens[:, self.encoder.num_prefix_tokens :].amax(1))


def _pretrain(config: Pretrain) -> dict[str, Any]:
    """Pretrain, write the weights and their record, and return the record. Raises UserError."""
    if config.output.exists():
        raise UserError(f"{config.output} exists; choose another --output, or move it away")
    try:  # better to fail now than after the training
        config.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {config.output}: {error.strerror}; choose another --output") from error
    images, labels, classes = drawn(config) if config.root == _DRAWN else folders(Path(config.root), config.size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(derive_seed(config.seed, 0)))
    held = max(1, int(config.held_out * len(images)))
    test, train = order[:held], order[held:]
    torch.manual_seed(config.seed)
    model = _Pretrainer(config, len(classes)).to("cuda" if torch.cuda.is_available() else "cpu")
    started, processor, stamp = time.monotonic(), time.process_time(), provenance.stamp()
    log = list(_fit(model, images[train], labels[train], config))
    accuracy = _evaluate(model, images[test], labels[test])
    record = {
        "data": f"{len(train)} drawn images of other classes" if config.root == _DRAWN else f"{len(train)} photographs",
        "classes": classes,
        "held_out": {"images": held, **accuracy},
        "backbone": describe(config.model),
        "steps": log[-1]["step"],
        "epochs": round(log[-1]["step"] * config.batch / len(train), 2),
        "minutes": round((time.monotonic() - started) / 60, 2),
        "cpu_hours": round((time.process_time() - processor) / 3600, 3),
        "config": {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in vars(config).items()
            if name not in ("root", "output")
        },
        **stamp,
        "log": log[:: max(1, len(log) // 50)],
    }
    with atomic(config.output) as temporary:
        save_file(
            {k: v.half().cpu().contiguous() for k, v in model.encoder.state_dict().items()},
            temporary,
            {"normalisation": IMAGENET.text()},
        )
    write_json(config.output.with_suffix(".json"), record)
    return record


def _fit(model: _Pretrainer, images: Tensor, labels: Tensor, config: Pretrain) -> Iterator[dict[str, float]]:
    """Train for the given time; yield step, loss and rate at every 20th step and at the last."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    device = model.class_head.weight.device
    bfloat16 = distributed.computes_bfloat16(device)
    process.keep_freed()
    augment = v2.Compose([v2.RandomResizedCrop(config.size, (0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    started, step, done = time.monotonic(), 0, 0.0
    model.train()
    with tqdm(total=100, unit="%", desc="pretrain") as bar:
        while done < 1:
            done = min(1.0, (time.monotonic() - started) / (60 * config.minutes))
            factor = min(done / config.warmup, 0.5 * (1 + np.cos(np.pi * done)))
            for group in optimizer.param_groups:
                group["lr"] = config.lr * max(factor, 1e-4)
            model.encoder.patch_drop.prob = config.drop if done < config.drop_until else 0.0
            chosen = torch.randint(len(images), (config.batch,))
            inputs = _prepare(augment(images[chosen]))
            inputs = (inputs * torch.empty(config.batch, 1, 1, 1).uniform_(0.7, 1.3)).to(device)  # random contrast
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits = model(inputs)
            truth = labels[chosen].to(device)
            loss = sum(F.cross_entropy(x.float(), truth, label_smoothing=config.smoothing) for x in logits)
            if not loss.isfinite():
                raise UserError(f"the pretraining loss is not finite at step {step}; lower --lr ({config.lr})")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            bar.update(round(100 * done) - bar.n)
            if step % 20 == 0 or done == 1:
                bar.set_postfix(step=step, loss=f"{loss.item():.2f}")
                yield {"step": step, "loss": round(loss.item(), 4), "rate": optimizer.param_groups[0]["lr"]}


@torch.no_grad()
def _evaluate(model: _Pretrainer, images: UInt8[Tensor, "n 3 h w"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """Measure the top-1 accuracy of both heads in percent."""
    model.eval()
    right = np.zeros(2)
    for start in range(0, len(images), 256):
        heads = model(_prepare(images[start : start + 256]).to(model.class_head.weight.device))
        right += [float((head.argmax(1).cpu() == labels[start : start + 256]).sum()) for head in heads]
    share = (100 * right / len(images)).round(2).tolist()
    return {"top1_class_token": share[0], "top1_max_patch_token": share[1]}


def _prepare(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Normalise pixels by ImageNet's mean and deviation."""
    mean, deviation = (torch.tensor(x)[:, None, None] for x in (IMAGENET.mean, IMAGENET.deviation))
    return (images.float() / 255 - mean) / deviation


def drawn(config: Pretrain) -> tuple[UInt8[Tensor, "n 3 h w"], Int[Tensor, " n"], list[str]]:
    """Draw images of classes that the mini set does not have."""
    images = np.empty((config.images, config.size, config.size, 3), np.uint8)
    labels = np.empty(config.images, np.int64)
    draw = functools.partial(generate.draw_pretraining, seed=config.seed, size=config.size)
    with ProcessPoolExecutor() as pool:
        rows = pool.map(draw, range(config.images), chunksize=200)
        for index, row in enumerate(tqdm(rows, desc="draw", unit="image", total=config.images)):
            images[index], labels[index] = row
    classes = list(generate.PRETRAINING_CLASSES)
    return torch.from_numpy(images).movedim(3, 1).contiguous(), torch.from_numpy(labels), classes


def folders(root: Path, size: int) -> tuple[UInt8[Tensor, "n 3 h w"], Int[Tensor, " n"], list[str]]:
    """Read all photographs of a folder of class folders, squashed to `size`. Raises UserError."""
    inside = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    classes = sorted(name for name in inside if not names.hidden(name))
    files = [(file, number) for number, name in enumerate(classes) for file in photographs.of_folder(root / name)]
    if len(classes) < 2 or len(files) < 2:
        raise UserError(
            f"{root} does not hold two or more class folders with photographs; give such a folder or '{_DRAWN}'"
        )
    images = np.empty((len(files), size, size, 3), np.uint8)
    for row, (file, _) in enumerate(tqdm(files, desc="read", unit="image")):
        images[row] = read_image(file).resize((size, size), Image.Resampling.BICUBIC)
    labels = torch.tensor([number for _, number in files])
    return torch.from_numpy(images).movedim(3, 1).contiguous(), labels, classes
