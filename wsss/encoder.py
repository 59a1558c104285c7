"""The backbone: a plain timm ViT."""

import timm
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from wsss.config import AUX, Model
from wsss.paths import UserError
from wsss.weights import start_file


class _Patches(PatchEmbed):
    """timm's patch embedding, computed as a linear layer; that is possible because patches do not overlap.

    The result equals that of timm's convolution. On a CPU the gradient takes a quarter of the time.
    """

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b i j d"]:
        """Return the embeddings of the patches."""
        rows, columns = self.patch_size
        # (b, 3, i p, j q) to (b, i, j, 3 p q): the order in which the convolution's kernel lies in memory.
        pixels = x.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return self.norm(F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias))


def build_encoder(config: Model) -> nn.Module:
    """Build the timm ViT of a configuration, with frozen position embeddings.

    Raises UserError if timm does not know the name, if the architecture is not a plain ViT with a class token, or if
    its weights cannot be fetched.
    """
    fetched = config.pretrained and not config.checkpoint and not start_file(config)  # a file brings every tensor
    shape = {
        "patch_size": config.patch_size,
        "img_size": config.image_size,
        "embed_dim": config.width,
        "depth": None if fetched else config.depth,  # timm needs a place for every block that it fetches; cut below
        "num_heads": config.heads,
    }
    try:
        vit = timm.create_model(
            config.backbone,
            pretrained=fetched,
            num_classes=0,
            dynamic_img_size=True,
            embed_layer=_Patches,
            **{name: value for name, value in shape.items() if value},
        )
    except Exception as error:
        raise UserError(f"backbone {config.backbone}: {_reason(config.backbone, fetched, error)}") from error
    if fetched and config.depth and hasattr(vit, "blocks"):
        vit.blocks = vit.blocks[: config.depth]
    if not _is_plain(vit):
        raise UserError(
            f"backbone {config.backbone} is not a plain ViT with a class token, learnt positions and at least 3 blocks "
            "in sequence; choose another --model.backbone"
        )
    vit.pos_embed.requires_grad_(False)  # frozen, as in the base
    if config.compile:
        for block in vit.blocks:
            block.compile()
    return vit


def _reason(backbone: str, fetched: bool, error: Exception) -> str:
    """Explain why timm did not build a backbone, and what to do."""
    advice = "set --model.backbone to another timm name, or set its shape with --model.*"
    if not timm.list_models(backbone.split(".")[0]):
        return f"timm knows no such architecture; {advice}"
    if fetched and not isinstance(error, TypeError):  # a TypeError: the architecture does not take this shape
        hub = getattr(timm.get_pretrained_cfg(backbone), "hf_hub_id", None)
        return (
            f"its weights could not be fetched ({type(error).__name__}); without a network, fetch model.safetensors of "
            f"https://huggingface.co/{hub} on another machine, call it {backbone}.safetensors and set the "
            "environment variable WSSS_WEIGHTS to its folder"
        )
    return f"timm cannot build it as a plain ViT of this shape ({error}); {advice}"


def _is_plain(vit: nn.Module) -> bool:
    """Return whether `SegmentationModel.encode` computes what timm's own forward does.

    It does for a ViT with one class token, at most registers beside it, learnt positions and blocks in a row.
    """
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None or vit.pos_embed is None:
        return False
    blocks_alike = len(vit.blocks) > AUX and all(type(block) is Block for block in vit.blocks)
    return blocks_alike and vit.num_prefix_tokens == 1 + vit.num_reg_tokens
