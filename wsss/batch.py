"""What flows: a batch of training views into the method, an output of the network out of it."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Batch:
    """Training views of b photographs; shapes as the field's names say."""

    ids: list[str]
    """Names of the photographs, for messages and records."""
    image: Float[Tensor, "b 3 h w"]
    """View 1, the main input, normalised with ImageNet's mean and deviation."""
    label: Float[Tensor, "b k"]
    """Image-level labels, multi-hot, without background."""
    box: Int[Tensor, "b 4"]
    """Rows and columns (top, bottom, left, right; half open) of view 1 that show the photograph, not padding."""
    view: Float[Tensor, "b 3 h w"] | None
    """View 2: a random resized crop of the unscaled photograph; None where class token contrast is off."""
    local: Float[Tensor, "b 3 h w"] | None
    """The crop of view 1 with colours of its own: the source of local crops; None with view 2."""


@dataclass
class Output:
    """What the network says about a batch; the same in every mode, with the optional fields documented."""

    tokens: Float[Tensor, "b n d"]
    """Patch tokens after the last norm (F^12)."""
    aux_tokens: Float[Tensor, "b n d"]
    """Patch tokens after the aux block (F^10), no norm."""
    class_token: Float[Tensor, "b d"]
    """Class token after the last norm."""
    grid: tuple[int, int]
    """Rows and columns of the token grid, rows * columns = n."""
    patch: int
    """Side of a token's patch in pixels."""
    logits: Float[Tensor, "b k"]
    """Classifier on the channel-wise maximum of the patch tokens."""
    aux_logits: Float[Tensor, "b k"]
    """The same on the aux tokens."""
    segmentation: Float[Tensor, "b c i j"] | None = None
    """Decoder logits on the token grid, background first; None where only CAMs were asked for."""
    cam: Float[Tensor, "b k h w"] | None = None
    """Normalised multi-scale CAM of the last layer at image size, without gradient; None in a plain pass."""
    aux_cam: Float[Tensor, "b k h w"] | None = None
    """The same of the aux layer."""
    student: Float[Tensor, "v b p"] | None = None
    """Contrast head on the class tokens of view 1, view 2 and the local crops (v = 2 + crops); None when off."""
    teacher: Float[Tensor, "2 b p"] | None = None
    """Teacher head on the class tokens of the two global views, without gradient; None when off."""
    flags: Int[Tensor, "b v"] | None = None
    """1 where a view shows foreground (both global views, local crops by the aux CAM), else 0; None when off."""
