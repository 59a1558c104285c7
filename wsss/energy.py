"""The dense energy loss L_reg and its bilateral filter, which needs no compiled extension beside pydensecrf.

Everything here has half the image's size, rounded down. S is halved bilinearly; image, labels and valid pixels are
halved by taking every second pixel.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, UInt8
from pydensecrf import densecrf, eigen
from torch import Tensor

from wsss import host
from wsss.cam import upcast
from wsss.config import IGNORE
from wsss.paths import UserError
from wsss.process import leave_stop_to_parent, obey_parent

_THREAD = ThreadPoolExecutor(1, "energy")  # one thread only: `start` says why
_Copies = Callable[[], tuple[Tensor, ...]]
"""A call that waits until a batch's pixels, values and lattice are on the host, and returns them."""


def half_probability(log_probability: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c p q"]:
    """Return the probabilities S, halved bilinearly: the mean of 2 x 2 pixels.

    Differentiable. The last row or column of an odd size is dropped.
    """
    return F.avg_pool2d(log_probability.exp(), 2)


def start(
    image: UInt8[Tensor, "b 3 h w"],
    probability: Float[Tensor, "b c p q"],
    valid: Bool[Tensor, "b h w"],
    sigmas: tuple[float, float] = (100.0, 15.0),
    across_box: bool = False,
) -> Callable[[], Float32[Tensor, "b c p q"]]:
    """Begin `filtered` in a worker thread; return a call that waits for the result, on S's device.

    pydensecrf holds the interpreter's lock while it works (about 20 ms an image). So images are filtered one after
    another, and a second thread would gain nothing. On a CPU only work outside the lock overlaps: one long
    operation, a backward pass. The host of an accelerator has to hand out work all the time, so there the thread lets
    another process filter. The returned call raises the worker's errors. Raises ValueError if a sigma is not positive.
    """
    if min(sigmas) <= 0:
        raise ValueError(f"the energy's sigmas must be positive, not {sigmas[0]} and {sigmas[1]}")
    pixels = _half(image).permute(0, 2, 3, 1).contiguous()
    half_valid = _half(valid)
    inside = probability.detach().float() * half_valid[:, None]
    lattice = torch.ones_like(half_valid) if across_box else half_valid
    work = _filter_batch if host.may_ask(inside) else _filter_apart
    # The reach in pixels halves with the image; the reach in colours does not.
    future = _THREAD.submit(work, host.fetch(pixels, inside, lattice), sigmas[0] / 2, sigmas[1])
    return lambda: future.result().to(inside.device, non_blocking=True)


def filtered(
    image: UInt8[Tensor, "b 3 h w"],
    probability: Float[Tensor, "b c p q"],
    valid: Bool[Tensor, "b h w"],
    sigmas: tuple[float, float] = (100.0, 15.0),
    across_box: bool = False,
) -> Float32[Tensor, "b c p q"]:
    """Return K S' of every image and class (E1): S' = S where pixels are valid and 0 elsewhere.

    K is the permutohedral lattice's Gaussian of position (`sigmas[0]` full-size pixels) and colour (`sigmas[1]` of
    255), not normalised. No gradient. The lattice (Adams et al. 2010) is the base's, bit for bit. It gives .4 to .65 of
    the exact Gaussian sum where colours are smooth, and is symmetric to .3 %. It is built of the valid pixels. With
    `across_box` it is built of all, so padding changes K a little, as in the base (Deviations D17). K S' is 0 outside
    the lattice.
    """
    return start(image, probability, valid, sigmas, across_box)()


def energy_loss(
    probability: Float[Tensor, "b c p q"],
    filtered: Float[Tensor, "b c p q"],
    labels: Int[Tensor, "b h w"],
    valid: Bool[Tensor, "b h w"],
    weight: float = 1e-7,
) -> Float[Tensor, ""]:
    """Return the dense energy L_reg (E2, E3): -weight / B times the sum of gate * S' * K S', with `filtered` = K S'.

    The gate is max(0, 1 - max_k S_k), but 1 where the label is IGNORE and 0 outside the photograph. Gate and K S'
    are constants. S enters twice and K is taken as symmetric, so the gradient is -2 weight / B * gate * K S'.
    """
    # The base's gate: sure pixels are left alone, pixels without a label always count.
    doubt = (1 - probability.detach().amax(1)).clamp(min=0)
    gate = torch.where(_half(labels) == IGNORE, 1.0, doubt) * _half(valid)
    total = (gate[:, None] * filtered.detach() * upcast(probability)).sum()
    # The value of `total` with twice its gradient, because S enters on both sides of K.
    return -weight / len(labels) * (2 * total - total.detach())


def _half(plane: Tensor) -> Tensor:
    """Take every second pixel of the last two axes; the last of an odd side is dropped."""
    height, width = (side // 2 * 2 for side in plane.shape[-2:])
    return plane[..., :height:2, :width:2]


def _filter_batch(copies: _Copies, sigma_xy: float, sigma_rgb: float) -> Float32[Tensor, "b c p q"]:
    return _filter_tensors(*copies(), sigma_xy, sigma_rgb)


def _filter_apart(copies: _Copies, sigma_xy: float, sigma_rgb: float) -> Float32[Tensor, "b c p q"]:
    """Filter a batch in another process."""
    # Tensors travel in PyTorch's shared memory; arrays would be pickled through a pipe.
    tensors = copies()
    pinned = tensors[0].is_pinned()  # ask now, before the tensors move to shared memory
    try:
        result = _process().submit(_filter_tensors, *tensors, sigma_xy, sigma_rgb).result()
    except BrokenProcessPool as error:
        raise UserError("the process of the energy's filter was killed, perhaps because memory ran out") from error
    return result.pin_memory() if pinned else result


@cache
def _process() -> ProcessPoolExecutor:
    """Return the filter's one process, started at the first call; a fork would copy the locks of running threads."""
    return ProcessPoolExecutor(1, get_context("spawn"), _begin)


def _begin() -> None:
    """Set up the filter's process. It ignores a stop, because its parent still needs it for the last step."""
    obey_parent()
    leave_stop_to_parent()


def _filter_tensors(
    pixels: UInt8[Tensor, "b p q 3"],
    values: Float32[Tensor, "b c p q"],
    lattice: Bool[Tensor, "b p q"],
    sigma_xy: float,
    sigma_rgb: float,
) -> Float32[Tensor, "b c p q"]:
    """Filter every image within the rectangle that its lattice spans."""
    out = torch.zeros_like(values)
    arrays = (out.numpy(), pixels.numpy(), values.numpy(), lattice.numpy())
    for place, image, value, used in zip(*arrays, strict=True):
        rows, columns = (np.flatnonzero(used.any(axis)) for axis in (1, 0))
        if rows.size:  # without a valid pixel the result stays 0
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            place[:, *part] = _bilateral(image[part], value[:, *part], sigma_xy, sigma_rgb)
    return out


def _bilateral(
    image: UInt8[np.ndarray, "p q 3"], values: Float32[np.ndarray, "c p q"], sigma_xy: float, sigma_rgb: float
) -> Float32[np.ndarray, "c p q"]:
    """Filter one image with the lattice inside pydensecrf, which is reached by one mean-field step.

    With Potts weight -1, no unary energy and no normalisation, the step leaves the filtered values in its second
    scratch matrix, before any exponential. We make that matrix from an array, because only then can it be read back.
    """
    classes, height, width = values.shape
    field = densecrf.DenseCRF2D(width, height, classes)
    kind = {"kernel": densecrf.KernelType.DIAG_KERNEL, "normalization": densecrf.NormalizationType.NO_NORMALIZATION}
    field.addPairwiseBilateral(sigma_xy, sigma_rgb, np.ascontiguousarray(image), -1.0, **kind)  # -1: Potts weight
    flat = np.ascontiguousarray(values.reshape(classes, -1))
    out = eigen.matrixXf(np.zeros_like(flat))
    field.stepInference(eigen.matrixXf(flat), eigen.MatrixXf(), out)
    return np.array(out, np.float32, order="C").reshape(values.shape)
