"""The network: a plain timm ViT, two classifiers, a decoder and a contrast head with its teacher."""

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils import checkpoint as activations

from wsss import subspace
from wsss.batch import Encoded, Output
from wsss.config import AUX, ClassContrast, Config, Msc
from wsss.config import Model as ModelConfig
from wsss.encoder import build_encoder
from wsss.normalisation import IMAGENET, Normalisation, parse, start_normalisation
from wsss.paths import UserError, sha256
from wsss.weights import backbone_tensors, fetched_file, fill, is_int8, is_whole, metadata, read, start_file

_OLDER = "ImageNet's, for the file of the weights names none"
_UNKNOWN = '{"sha256": null, "source": "unknown"}'


class Decoder(nn.Module):
    """LargeFOV decoder: two 3x3 convolutions of dilation 5 and a 1x1 one; tensor names are the base's."""

    def __init__(self, width: int, hidden: int, classes: int):
        super().__init__()
        self.conv6 = nn.Conv2d(width, hidden, 3, padding=5, dilation=5, bias=False)
        self.conv7 = nn.Conv2d(hidden, hidden, 3, padding=5, dilation=5, bias=False)
        self.conv8 = nn.Conv2d(hidden, classes, 1, bias=False)

    def forward(self, features: Float[Tensor, "b d i j"]) -> Float[Tensor, "b c i j"]:
        """Return the logits of every class, background first, on the token grid."""
        return self.conv8(self.conv7(self.conv6(features).relu()).relu())


class _UnitNormLinear(nn.Module):
    """A linear layer without bias whose rows have norm 1."""

    def __init__(self, width: int, outputs: int, orthogonal: bool):
        super().__init__()
        # The base's layer is weight-normalised with g fixed at 1; its tensors keep their names, so its files load.
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=False)
        self.weight_v = nn.Parameter(nn.Linear(width, outputs, bias=False).weight.detach())  # nn.Linear's start
        if orthogonal:
            nn.init.orthogonal_(self.weight_v)

    def rows(self) -> Float[Tensor, "p d"]:
        """Return the matrix of the layer, rows of norm 1."""
        return self.weight_g * F.normalize(self.weight_v, dim=1)


class ContrastHead(nn.Module):
    """A three-layer MLP to a normalised bottleneck, shared by all subspaces, then one projection for each of them.

    The base (L_ctc) has one subspace and does not normalise its embeddings. Normalised subspaces start orthogonal
    unless `msc.orthogonal_start` is off.
    """

    def __init__(self, width: int, contrast: ClassContrast, msc: Msc):
        super().__init__()
        hidden, bottleneck = contrast.hidden, contrast.bottleneck
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp[::2]:  # the linear ones
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.subspaces, self.normalise = msc.subspaces, msc.normalise
        self.last_layer = _UnitNormLinear(
            bottleneck, msc.subspaces * msc.dimension, msc.normalise and msc.orthogonal_start
        )

    def projection(self) -> Float[Tensor, "s e m"]:
        """Return the projections P of all subspaces, rows of norm 1."""
        return self.last_layer.rows().unflatten(0, (self.subspaces, -1))

    def forward(self, token: Float[Tensor, "*n d"]) -> Float[Tensor, "*n s e"]:
        """Return the embeddings of tokens in every subspace."""
        return subspace.project(F.normalize(self.mlp(token), dim=-1), self.projection(), self.normalise)


class SegmentationModel(nn.Module):
    """Encoder and heads. `forward` returns an `Output`; `classes` counts the foreground classes."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.encoder = build_encoder(config.model)
        self.plain_positions = config.compat.plain_positions
        self.fused_from, self.recompute = config.model.fused_from, config.model.activation_checkpointing
        width, blocks = self.encoder.embed_dim, len(self.encoder.blocks)
        self.patch = self.encoder.patch_embed.patch_size[0]
        self.aux_block, self.extra_blocks = blocks - AUX, _aligned_blocks(config, blocks)
        self.classifier = nn.Conv2d(width, classes, 1, bias=False)
        self.aux_classifier = nn.Conv2d(width, classes, 1, bias=False)
        self.decoder = Decoder(width, config.model.decoder_width or min(512, width), classes + 1)
        self.proj_head = ContrastHead(width, config.class_contrast, config.msc)
        # The teacher starts equal to the student and then follows it (`update_teacher`).
        self.proj_head_t = copy.deepcopy(self.proj_head).requires_grad_(False)
        self.extra_classifiers = nn.ModuleList(nn.Conv2d(width, classes, 1, bias=False) for _ in self.extra_blocks)
        with torch.no_grad():
            for head in self.classifiers():
                head.weight.mul_(config.model.classifier_scale)
        # Saved in the metadata of a weights file and not as tensors, so that older files still fit.
        self.register_buffer("mean", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.empty(3, 1, 1), persistent=False)
        self.set_normalisation(IMAGENET)
        self.start: dict[str, Any] = {"sha256": None, "source": "random"}

    def set_normalisation(self, normalisation: Normalisation) -> None:
        """Set the mean and the deviation that `normalise` uses."""
        self.normalisation = normalisation
        self.mean.copy_(torch.tensor(normalisation.mean)[:, None, None])
        self.deviation.copy_(torch.tensor(normalisation.deviation)[:, None, None])

    def metadata(self) -> dict[str, str]:
        """Return the metadata for a file of these weights: normalisation and start weights."""
        source = self.normalisation.source
        return {"normalisation": self.normalisation.text(), "normalised": source, "start": json.dumps(self.start)}

    def adopt(self, metadata: Mapping[str, str]) -> None:
        """Take normalisation and start weights from a file's metadata; older files name none and get ImageNet's.
        Raises UserError."""
        named = "normalisation" in metadata
        source = metadata.get("normalised", "the file of the weights") if named else _OLDER
        self.set_normalisation(parse(metadata.get("normalisation", "imagenet"), source))
        self.start = json.loads(metadata.get("start", _UNKNOWN))

    def origin(self) -> dict[str, Any]:
        """Return normalisation and start weights for a record."""
        return {"normalisation": self.normalisation.record(), "weights": self.start}

    def normalise(self, pixels: UInt8[Tensor, "*b 3 h w"] | Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
        """Normalise pixels in 0..255 for the encoder; images are normalised nowhere else."""
        return (pixels / 255 - self.mean) / self.deviation

    def encode(self, image: Float[Tensor, "b 3 h w"], view: Float[Tensor, "b 3 h w"] | None = None) -> Encoded:
        """Run the encoder once; rows and columns of pixels beyond a whole number of patches are dropped.

        `view` holds images of the same size. They run in the same batch, and only their class tokens are kept. The code
        does what timm's `forward_intermediates` does, and three things that the latter has no argument for: positions
        without antialiasing (D13), attention chosen by the number of tokens, and activation checkpointing by block.
        """
        count, images = len(image), image if view is None else torch.cat([image, view])
        (rows, columns), vit, kept = self.grid(images), self.encoder, {}  # kept: block -> its patch tokens
        wanted = (self.aux_block, *self.extra_blocks)
        x = vit.patch_embed(images[:, :, : rows * self.patch, : columns * self.patch])
        x = vit.norm_pre(self._with_positions(x.reshape(len(x), rows, columns, -1)))
        for number, block in enumerate(vit.blocks, 1):
            x = self._run(block, x)
            if number in wanted:
                kept[number] = x[:count, vit.num_prefix_tokens :]
        x = vit.norm(x)  # tokens of earlier blocks are kept without this norm, as in the base
        aux, *extra = (kept[number] for number in wanted)
        tokens, view_token = x[:count, vit.num_prefix_tokens :], None if view is None else x[count:, 0]
        return Encoded(tokens, aux, tuple(extra), x[:count, 0], view_token)

    def _run(self, block: nn.Module, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m d"]:
        """Run a block with the kind of attention that is faster for this number of tokens."""
        # Measured (page Speed): in half precision with gradients, fused attention needs twice as many tokens to pay.
        halved = torch.is_grad_enabled() and torch.is_autocast_enabled(x.device.type)
        patches = x.shape[1] - self.encoder.num_prefix_tokens
        fused = x.is_cuda or patches >= self.fused_from * (2 if halved else 1)

        def run(x: Tensor) -> Tensor:
            # Set inside run(), because activation checkpointing calls it again and must get the same kind.
            block.attn.fused_attn = fused
            return block(x)

        if not (self.recompute and torch.is_grad_enabled()):
            return run(x)
        return activations.checkpoint(run, x, use_reentrant=False)

    def classifiers(self) -> list[nn.Conv2d]:
        """List the classifiers of all layers: last, aux, extra."""
        return [self.classifier, self.aux_classifier, *self.extra_classifiers]

    def class_weights(self) -> list[Float[Tensor, "k d"]]:
        """List the matrices W of all classifiers, in the same order."""
        return [head.weight.flatten(1) for head in self.classifiers()]

    def _with_positions(self, x: Float[Tensor, "b i j d"]) -> Float[Tensor, "b m d"]:
        """Return prefix tokens and patch tokens plus their position embeddings, resampled bicubically to the grid.

        With antialiasing unless `plain_positions` (Deviations D13).
        """
        vit = self.encoder
        kept = 0 if vit.no_embed_class else vit.num_prefix_tokens  # some ViTs give prefix tokens no position
        positions = resample_abs_pos_embed(
            vit.pos_embed,
            new_size=list(x.shape[1:3]),
            num_prefix_tokens=kept,
            antialias=not self.plain_positions,
        )
        tokens = [vit.cls_token, vit.reg_token]
        prefix = [token.expand(len(x), -1, -1) for token in tokens if token is not None]
        if vit.no_embed_class:
            return torch.cat([*prefix, x.flatten(1, 2) + positions], 1)
        return torch.cat([*prefix, x.flatten(1, 2)], 1) + positions

    def grid(self, image: Float[Tensor, "b 3 h w"]) -> tuple[int, int]:
        """Return the rows and columns of whole patches. Raises UserError if there are none."""
        rows, columns = image.shape[2] // self.patch, image.shape[3] // self.patch
        if not rows * columns:
            size = f"{image.shape[2]}x{image.shape[3]}"
            raise UserError(
                f"an image of {size} pixels is smaller than one patch of {self.patch}; raise --augment.crop"
            )
        return rows, columns

    def forward(
        self, image: Float[Tensor, "b 3 h w"], segment: bool = True, view: Float[Tensor, "b 3 h w"] | None = None
    ) -> Output:
        """Run the network once. `segment=False` leaves the decoder out; `view`: see `encode`."""
        encoded, grid = self.encode(image, view), self.grid(image)
        pairs = zip(encoded.layers, self.class_weights(), strict=True)
        # The maximum over tokens comes before the classifier, so each channel may take it from another token.
        logits = [F.linear(tokens.amax(1), weight) for tokens, weight in pairs]
        return Output(
            **vars(encoded),
            grid=grid,
            logits=logits[0],
            aux_logits=logits[1],
            extra_logits=tuple(logits[2:]),
            segmentation=self.decoder(encoded.tokens.mT.unflatten(2, grid)) if segment else None,
        )

    def for_inference(self) -> "SegmentationModel":
        """Return a copy in half precision, without the contrast head's moving average, which only training needs."""
        half = copy.deepcopy(self).half()
        del half.proj_head_t
        return half

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher head to momentum * teacher + (1 - momentum) * student."""
        for slow, fast in zip(self.proj_head_t.parameters(), self.proj_head.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters that learn at the backbone's rate."""
        return (p for p in self.encoder.parameters() if p.requires_grad)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters that learn at the heads' rate."""
        heads = (*self.classifiers(), self.proj_head)
        return (p for head in heads for p in head.parameters() if p.requires_grad)


def _aligned_blocks(config: Config, blocks: int) -> tuple[int, ...]:
    """Return the numbers, counted from 1, of the aligned blocks beside the last and the aux block.

    Raises UserError for a layer before the first block.
    """
    if not config.csa.weight:
        return ()
    if max(config.csa.layers) >= blocks:
        raise UserError(f"csa.layers is {config.csa.layers}, but the ViT has {blocks} blocks; change --csa.layers")
    return tuple(blocks - layer for layer in sorted(config.csa.layers) if layer != AUX)


def build(config: Config, classes: int) -> SegmentationModel:
    """Build the model of a configuration with its start weights; all other weights are drawn from its seed.

    `model.checkpoint` holds either a backbone (timm's names) or a whole model, the base's too. It must fit exactly,
    apart from what `weights.backbone_tensors` leaves out. Raises UserError.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(config.seed)
        model = SegmentationModel(config, classes)
    if config.model.checkpoint or config.model.pretrained:
        _start(model, config.model)
    return model


def _start(model: SegmentationModel, config: ModelConfig) -> None:
    """Load the start weights, unless timm has done so, and note their normalisation and source."""
    file = start_file(config)
    if config.checkpoint and not file:
        raise UserError(f"the checkpoint {config.checkpoint} does not exist; check --model.checkpoint")
    name, tensors = config.checkpoint or str(file), read(file) if file else {}
    whole = is_whole(tensors)
    if whole:
        fill(model, tensors, name)
    elif tensors:
        fill(model.encoder, backbone_tensors(tensors, model.encoder, config, name), name)
    path = file or fetched_file(config)
    named = metadata(path).get("normalisation") if path else None
    model.set_normalisation(start_normalisation(config, named, whole))
    tagged = f"{file.name} in WSSS_WEIGHTS" if file else f"timm's hub, {config.backbone}"
    model.start = {"sha256": sha256(path) if path else None, "source": config.checkpoint or tagged}
    model.start |= {"precision": "int8 as shipped in a package"} if is_int8(tensors) else {}


def describe(config: ModelConfig) -> str:
    """Describe backbone tag, changes of shape and start weights, for records."""
    changes = [
        f"{name} {getattr(config, name)}"
        for name in ("patch_size", "image_size", "width", "depth", "heads")
        if getattr(config, name)
    ]
    start = config.checkpoint or ("timm weights" if config.pretrained else "random start")
    return ", ".join([config.backbone, *changes, start])
