"""What flows: a batch of training views into the method, an output of the network out of it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


def present_classes(label: Float[Tensor, "b k"]) -> Int[Tensor, " p"]:
    """Numbers of the classes that any image has, ascending; the first where none has one, so that there is a map."""
    present = label.any(0)
    present[0] |= not present.any()
    return present.nonzero()[:, 0]


@dataclass
class Batch:
    """Training views of b photographs, as pixels: the model normalises them. Shapes are in the annotations."""

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
    """The crop of view 1 with colours of its own: the source of local crops; None with view 2."""
    mask: UInt8[Tensor, "b h w"] | None = None
    """The true mask of view 1, 255 in its padding; None but in a fully supervised run."""

    @cached_property
    def present(self) -> Int[Tensor, " p"]:
        """See `present_classes`."""
        return present_classes(self.label)

    @cached_property
    def most(self) -> int:
        """The greatest number of classes of one image."""
        return int((self.label > 0).sum(1).max())

    def pin_memory(self) -> "Batch":
        """What `DataLoader` asks for: memory that a GPU copies from while the host goes on."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """With every tensor changed. What follows from the labels goes along, for a GPU is not to be asked for it."""
        known = {**vars(self), "present": self.present, "most": self.most}
        other = copy.copy(self)
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
    """Patch tokens after the other aligned blocks, no norm; empty in all but some ablations."""
    class_token: Float[Tensor, "b d"]
    """Class token after the last norm."""
    view_token: Float[Tensor, "b d"] | None
    """That of view 2; None in a pass without it."""

    @property
    def layers(self) -> tuple[Float[Tensor, "b n d"], ...]:
        """The patch tokens of every layer: last, aux, extra."""
        return (self.tokens, self.aux_tokens, *self.extra_tokens)


@dataclass
class Output(Encoded):
    """What the network says about a batch; the same in every mode, with the optional fields documented.

    Layers come in the order last, aux, extra wherever there is one of each.
    """

    grid: tuple[int, int]
    """Rows and columns of the token grid, rows * columns = n."""
    patch: int
    """Side of a token's patch in pixels."""
    logits: Float[Tensor, "b k"]
    """Classifier on the channel-wise maximum of the patch tokens."""
    aux_logits: Float[Tensor, "b k"]
    """The same on the aux tokens."""
    extra_logits: tuple[Float[Tensor, "b k"], ...] = ()
    """The same on each of the extra tokens."""
    segmentation: Float[Tensor, "b c i j"] | None = None
    """Decoder logits on the token grid, background first; None where only CAMs were asked for."""
    log_probability: Float[Tensor, "b c h w"] | None = None
    """Logarithm of the segmentation's probabilities at image size, with gradient; None in a plain pass."""
    cam: Float[Tensor, "b k h w"] | None = None
    """Normalised multi-scale CAM of the last layer at image size, without gradient; None in a plain pass."""
    aux_cam: Float[Tensor, "b k h w"] | None = None
    """The same of the aux layer."""
    extra_cams: tuple[Float[Tensor, "b k h w"], ...] = ()
    """The same of the extra layers."""
    student_cams: tuple[Float[Tensor, "b k i j"], ...] = ()
    """Single-scale CAM of every layer on the token grid, gradient into its tokens; empty when alignment is off."""
    token_labels: Int[Tensor, "b i j"] | None = None
    """Labels of tokens made of the aux CAM, IGNORE outside the photograph; None in a plain pass."""
    probability: Float[Tensor, "b c p q"] | None = None
    """Softmax of the segmentation at half the image's size, with gradient; None when the energy is off."""
    filtered: Callable[[], Float[Tensor, "b c p q"]] | None = None
    """Waits for `probability` filtered by the dense kernel (K S'), without gradient; None when the energy is off."""
    student: Float[Tensor, "v b s e"] | None = None
    """Contrast head on the class tokens of view 1, view 2 and the local crops (v = 2 + crops); None when off."""
    teacher: Float[Tensor, "2 b s e"] | None = None
    """Teacher head on the class tokens of the two global views, without gradient; None when off."""
    flags: Int[Tensor, "b v"] | None = None
    """1 where a view shows foreground (both global views, local crops by the aux CAM), else 0; None when off."""
    anchors: Int[Tensor, "a 3"] | None = None
    """Image, token (counted along the rows) and label of the anchors of patch contrast in subspaces; None when off."""
    anchor_codes: Float[Tensor, "a s e"] | None = None
    """The anchors' tokens in the subspaces; None when off."""
    projection: Float[Tensor, "s e m"] | None = None
    """The subspaces' projections, rows of norm 1; None when their orthogonality is no term."""

    @property
    def cams(self) -> tuple[Float[Tensor, "b k h w"], ...]:
        """The multi-scale CAM of every layer."""
        return (self.cam, self.aux_cam, *self.extra_cams)
