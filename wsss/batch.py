"""The data of a step: `Batch` (training views), `Output` (of the network), `Targets` (CAMs and labels)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


def present_classes(label: Float[Tensor, "b k"]) -> Int[Tensor, " p"]:
    """Return the numbers of the classes that any image has, ascending; the first class if no image has one."""
    present = label.any(0)  # CAMs of the others stay zero and are never computed
    present[0] |= not present.any()
    return present.nonzero()[:, 0]


@dataclass
class Batch:
    """Training views of b photographs, as pixels; the model normalises them. Shapes are in the annotations."""

    ids: list[str]
    """Names of the photographs, for messages and records."""
    image: UInt8[Tensor, "b 3 h w"]
    """View 1, the main input."""
    label: Float[Tensor, "b k"]
    """Image-level labels, multi-hot, without background."""
    box: Int[Tensor, "b 4"]
    """Rows and columns (top, bottom, left, right; half open) of view 1 that show the photograph, not padding."""
    view: UInt8[Tensor, "b 3 h w"] | None
    """View 2: a random resized crop of the unscaled photograph; None where class token contrast is off."""
    local: UInt8[Tensor, "b 3 h w"] | None
    """Source of the local crops: the crop of view 1 with other colours. None where view 2 is None."""
    mask: UInt8[Tensor, "b h w"] | None = None
    """The true mask of view 1, 255 in its padding; only in a fully supervised run."""

    @cached_property
    def present(self) -> Int[Tensor, " p"]:
        """Numbers of the classes of the batch, see `present_classes`."""
        return present_classes(self.label)

    @cached_property
    def most(self) -> int:
        """Largest number of classes of one image."""
        return int((self.label > 0).sum(1).max())  # asked on the host, see `_each`

    def pin_memory(self) -> "Batch":
        """Pin all tensors, so that a GPU can copy them while the host goes on. `DataLoader` calls this."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """Copy all tensors to `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        # Compute `present` and `most` now, while the batch is on the host; later the host would wait for a GPU.
        known = {**vars(self), "present": self.present, "most": self.most}
        other = copy.copy(self)  # cached properties live in __dict__ beside the fields, so update() sets both
        vars(other).update({name: change(x) if isinstance(x, Tensor) else x for name, x in known.items()})
        return other


@dataclass
class Encoded:
    """Tokens of one pass of the encoder."""

    tokens: Float[Tensor, "b n d"]
    """Patch tokens after the last norm (F^12)."""
    aux_tokens: Float[Tensor, "b n d"]
    """Patch tokens after the aux block (F^10), no norm."""
    extra_tokens: tuple[Float[Tensor, "b n d"], ...]
    """Patch tokens after the other aligned blocks, no norm; empty except in some ablations."""
    class_token: Float[Tensor, "b d"]
    """Class token after the last norm."""
    view_token: Float[Tensor, "b d"] | None
    """Class token of view 2; None in a pass without view 2."""

    @property
    def layers(self) -> tuple[Float[Tensor, "b n d"], ...]:
        """Patch tokens of every layer: last, aux, extra."""
        return (self.tokens, self.aux_tokens, *self.extra_tokens)


@dataclass
class Output(Encoded):
    """Outputs of the network, with gradient. Layers come in the order last, aux, extra.

    The model makes the fields down to `segmentation`; `method.forward` adds the others if a term needs them.
    """

    grid: tuple[int, int]
    """Rows and columns of the token grid, rows * columns = n."""
    logits: Float[Tensor, "b k"]
    """Logits of the classifier on the channel-wise maximum of the patch tokens."""
    aux_logits: Float[Tensor, "b k"]
    """The same for the aux tokens."""
    extra_logits: tuple[Float[Tensor, "b k"], ...] = ()
    """The same for each of the extra tokens."""
    segmentation: Float[Tensor, "b c i j"] | None = None
    """Decoder logits on the token grid, background first; None in a pass without the decoder."""
    log_probability: Float[Tensor, "b c h w"] | None = None
    """Logarithm of the segmentation's probabilities at image size."""
    probability: Float[Tensor, "b c p q"] | None = None
    """Probabilities at half the image's size (S); None when the energy is off."""
    student_cams: tuple[Float[Tensor, "b k i j"], ...] = ()
    """Single-scale CAM of every layer on the token grid; empty when alignment is off."""
    student: Float[Tensor, "v b s e"] | None = None
    """Embeddings of the class tokens of view 1, view 2 and the local crops (v = 2 + crops); None when off."""
    projection: Float[Tensor, "s e m"] | None = None
    """Projections of the subspaces, rows of norm 1; None unless their orthogonality is a term."""
    anchor_embeddings: Float[Tensor, "a s e"] | None = None
    """Embeddings of the anchors' tokens in the subspaces; None when off."""


@dataclass
class Targets:
    """Targets of the losses, without gradient. In a step of classification alone only `label` is set."""

    label: Float[Tensor, "b k"]
    """Image-level labels."""
    valid: Bool[Tensor, "b h w"] | None = None
    """Pixels of view 1 that show the photograph."""
    token_valid: Bool[Tensor, "b i j"] | None = None
    """V: tokens wholly inside the photograph."""
    cams: tuple[Float[Tensor, "b k h w"], ...] = ()
    """Normalised multi-scale CAM of every layer at image size: last, aux, extra."""
    token_labels: Int[Tensor, "b i j"] | None = None
    """Labels of tokens made of the aux CAM, IGNORE outside the photograph."""
    pseudo_label: Int[Tensor, "b h w"] | None = None
    """Labels of pixels for the segmentation loss, IGNORE where unsure."""
    teacher: Float[Tensor, "2 b s e"] | None = None
    """Teacher embeddings of the class tokens of the two global views; None when off."""
    flags: Int[Tensor, "b v"] | None = None
    """1 if a view shows foreground, else 0: always 1 for global views, by the aux CAM for crops. None when off."""
    anchors: Int[Tensor, "a 3"] | None = None
    """Image, token (counted along the rows) and label of the anchors; None when off."""
    filtered: Callable[[], Float[Tensor, "b c p q"]] | None = None
    """A call that waits for K S', `Output.probability` filtered by the dense kernel; None when the energy is off."""
