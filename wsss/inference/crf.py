"""Dense CRF, the last step of the final evaluation. Imports only NumPy and pydensecrf, so that workers start fast."""

import numpy as np
from jaxtyping import Float, Float32, UInt8
from pydensecrf import densecrf

from wsss.paths import UserError

_CLIP = 1e-5  # so that -log stays finite


def dense_crf(
    image: UInt8[np.ndarray, "h w 3"],
    probability: Float[np.ndarray, "c p q"],
    iterations: int = 10,
    gaussian: tuple[float, float] = (1.0, 1.0),
    bilateral: tuple[float, float, float] = (121.0, 5.0, 4.0),
    *,
    merge: float | None = None,
) -> Float32[np.ndarray, "c p q"]:
    """Return the mean-field marginals Q after `iterations` steps of a dense CRF (Kraehenbuehl and Koltun 2011).

    The unary energy is -log of the probability, clipped to [1e-5, 1]. The Potts terms are symmetrically normalised.
    `gaussian` is (sigma in pixels, weight), `bilateral` is (sigma in pixels, sigma in grey levels of 255, weight). The
    defaults are the base's. With no iterations the result is the clipped probability, normalised.

    `merge`: the classes whose probability is below it at every pixel take part as one class. It has the sum of their
    probabilities, and they share its marginal in proportion to these. The time of an iteration grows with the number
    of classes, and few of 81 occur in an image. None: the whole CRF.
    Raises ValueError if image and probability do not fit or a sigma is not positive, UserError if a probability is
    not a finite number.
    """
    _check(image, probability)
    if min(gaussian[0], *bilateral[:2]) <= 0:
        raise ValueError(f"dense CRF: sigmas must be positive, not {gaussian[0]} and {bilateral[:2]}")
    rare = probability.max((1, 2)) < (-np.inf if merge is None else merge)
    if rare.sum() > 1:  # one class alone has none to be merged with
        shares = np.clip(probability[rare], _CLIP, 1.0)
        joined = shares.sum(0)
        q = dense_crf(image, np.concatenate([probability[~rare], joined[None]]), iterations, gaussian, bilateral)
        whole = np.empty(probability.shape, np.float32)
        whole[~rare], whole[rare] = q[:-1], shares * (q[-1] / joined)
        return whole
    classes, height, width = probability.shape
    field = densecrf.DenseCRF2D(width, height, classes)
    energy = -np.log(np.clip(probability, _CLIP, 1.0)).astype(np.float32)
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(classes, -1)))
    kind = {"kernel": densecrf.KernelType.DIAG_KERNEL, "normalization": densecrf.NormalizationType.NORMALIZE_SYMMETRIC}
    field.addPairwiseGaussian(gaussian[0], gaussian[1], **kind)
    writable = np.require(image, requirements=["C", "W"])  # pydensecrf takes no read-only array
    field.addPairwiseBilateral(bilateral[0], bilateral[1], writable, bilateral[2], **kind)
    q, *scratch = field.startInference()
    for _ in range(iterations):  # step by step: pydensecrf holds the GIL, and Python sees a signal between two steps
        field.stepInference(q, *scratch)
    return np.array(q, np.float32, order="C").reshape(probability.shape)


def _check(image: np.ndarray, probability: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"dense CRF: the image must be uint8 (h, w, 3), not {image.dtype} {image.shape}")
    if probability.ndim != 3 or probability.shape[1:] != image.shape[:2] or not probability.size:
        raise ValueError(f"dense CRF: probability {probability.shape} does not fit the image {image.shape}")
    if not np.isfinite(probability).all():
        raise UserError("dense CRF: a probability is not a finite number; the network that gave it has diverged")
