"""Means, deviations and intervals over seeds and over images. No torch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Summary(NamedTuple):
    """A quantity over seeds; `sd` is the sample deviation, nan for one seed."""

    mean: float
    sd: float
    n: int


def summary(numbers: Sequence[float]) -> Summary:
    """Mean and sample deviation of at least one number."""
    array = np.asarray(numbers, dtype=float)
    return Summary(array.mean().item(), array.std(ddof=1).item() if len(array) > 1 else math.nan, len(array))


def prediction_interval(numbers: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval that holds one further draw: mean -+ t sd sqrt(1 + 1/n), with Student's t of n - 1 degrees.

    For normal draws; at least two numbers.
    """
    mean, sd, n = summary(numbers)
    half = student_quantile((1 + level) / 2, n - 1) * sd * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def student_quantile(probability: float, degrees: int, points: int = 200_001) -> float:
    """Quantile of Student's t: with t = sqrt(degrees) tan(a), its density in a is cos(a)^(degrees - 1)."""
    angle = np.linspace(-math.pi / 2, math.pi / 2, points)
    density = np.cos(angle).clip(0) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(np.interp(probability, mass / mass[-1], angle))


def bootstrap(numerators: np.ndarray, denominators: np.ndarray, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of sum(numerators) / sum(denominators), images (first axis) redrawn."""
    weights = _redraws(len(numerators), n, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (weights @ np.asarray(numerators, float)) / (weights @ np.asarray(denominators, float))
    low, high = np.nanpercentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def miou(counts: np.ndarray) -> float:
    """Mean IoU in percent of TP, FP, FN counts (..., classes, 3), over the classes present in the truth."""
    return float(_mean_iou(counts.reshape(-1, *counts.shape[-2:]).sum(0)[None])[0])


def bootstrap_miou(counts: np.ndarray, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean IoU (percent) of counts (images, classes, 3), images redrawn."""
    sums = np.tensordot(_redraws(len(counts), n, seed), counts.astype(float), axes=1)
    low, high = np.percentile(_mean_iou(sums), (2.5, 97.5))
    return float(low), float(high)


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    """(n, classes, 3) -> (n,) in percent."""
    present = sums[..., 0] + sums[..., 2] > 0
    union = np.where(present, sums.sum(-1), 1)
    return 100 * (np.where(present, sums[..., 0], 0) / union).sum(-1) / present.sum(-1)


def _redraws(images: int, n: int, seed: int) -> np.ndarray:
    """(n, images): how often each image is drawn in each of n samples with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=n)
