"""The method restated as slow loops over plain numbers, from its description alone; it imports nothing of the package.

Arrays are numpy float64 with the axes the package's tensors have. IGNORE is 255.
"""

import math

import numpy as np

IGNORE = 255


def inside(box, row, column):
    """Whether a pixel lies in the half-open box (top, bottom, left, right)."""
    top, bottom, left, right = box
    return top <= row < bottom and left <= column < right


def token_mask(box, patch, grid):
    """(i, j): whether all pixels of a token lie in the box."""
    found = np.zeros(grid, bool)
    for i, j in np.ndindex(*grid):
        pixels = [(i * patch + a, j * patch + b) for a in range(patch) for b in range(patch)]
        found[i, j] = all(inside(box, *pixel) for pixel in pixels)
    return found


def bilinear(plane, size):
    """(i, j) -> size: half-pixel centres, borders repeated, no antialiasing."""
    plane, out = np.asarray(plane, float), np.empty(size)
    for row, column in np.ndindex(*size):
        y = max((row + 0.5) * plane.shape[0] / size[0] - 0.5, 0)
        x = max((column + 0.5) * plane.shape[1] / size[1] - 0.5, 0)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
        above = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
        below = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
        out[row, column] = above * (1 - y + top) + below * (y - top)
    return out


def cam_scores(tokens, weight, grid):
    """(b, n, d), (k, d) -> (b, k, i, j)."""
    out = np.zeros((len(tokens), len(weight), *grid))
    for b, k, i, j in np.ndindex(*out.shape):
        out[b, k, i, j] = sum(f * w for f, w in zip(tokens[b, i * grid[1] + j], weight[k], strict=True))
    return out


def normalise(raw, valid=None):
    """(x - min) / (max(x - min) + 1e-5) of the positive part, for each class of each image. With `valid`, min and max
    are over valid places, and other places are clipped to 0..1."""
    out = np.zeros(raw.shape)
    for b, k in np.ndindex(*raw.shape[:2]):
        plane = np.maximum(raw[b, k], 0)
        seen = plane if valid is None else plane[valid[b]]
        low = seen.min() if seen.size else 0.0
        high = seen.max() if seen.size else 0.0
        scaled = (plane - low) / (high - low + 1e-5)
        out[b, k] = scaled if valid is None else np.clip(scaled, 0, 1)
    return out


def training_labels(cam, label, box, low, high):
    """(b, k, h, w) -> (b, h, w)."""
    out = np.full((len(cam), *cam.shape[2:]), IGNORE)
    for b, row, column in np.ndindex(*out.shape):
        values = [cam[b, k, row, column] * label[b, k] for k in range(cam.shape[1])]
        if not inside(box[b], row, column):
            continue
        if max(values) <= low:
            out[b, row, column] = 0
        elif max(values) > high:
            out[b, row, column] = 1 + values.index(max(values))
    return out


def evaluation_labels(cam, label, background):
    """(b, k, h, w) -> (b, h, w)."""
    out = np.zeros((len(cam), *cam.shape[2:]), int)
    for b, row, column in np.ndindex(*out.shape):
        values = [cam[b, k, row, column] * label[b, k] for k in range(cam.shape[1])]
        if max(values) > background:
            out[b, row, column] = 1 + values.index(max(values))
    return out


def foreground_certainty(cam, label, low, high):
    """(b, k, h, w) -> (b, h, w) of 0, 1, 2."""
    out = np.zeros((len(cam), *cam.shape[2:]), int)
    for b, row, column in np.ndindex(*out.shape):
        value = max(cam[b, k, row, column] * label[b, k] for k in range(cam.shape[1]))
        out[b, row, column] = 0 if value <= low else 2 if value >= high else 1
    return out


def crop_flag(codes, inside_mask, top, left, size, padding=False):
    """1 unless the mean roi code of the crop is at most 0.2; padding counts only with `padding`."""
    total = counted = 0
    for row in range(top, top + size):
        for column in range(left, left + size):
            if padding or inside_mask[row, column]:
                total += codes[row, column]
                counted += 1
    return 0 if total <= 0.2 * counted else 1


def affinity(labels):
    """(b, i, j) -> (b, n, n) of 1, 0, IGNORE."""
    flat = labels.reshape(len(labels), -1)
    out = np.zeros((*flat.shape, flat.shape[1]), int)
    for b, i, j in np.ndindex(*out.shape):
        one, two = flat[b, i], flat[b, j]
        out[b, i, j] = IGNORE if i == j or IGNORE in (one, two) else int(one == two)
    return out


def cosine(one, two):
    return float(one @ two) / (math.sqrt(one @ one) * math.sqrt(two @ two))


def patch_contrast(tokens, pairs):
    """L_ptc."""
    sums, counts = {0: 0.0, 1: 0.0}, {0: 0, 1: 0}
    for b, i, j in np.ndindex(*pairs.shape):
        if pairs[b, i, j] != IGNORE:
            sums[pairs[b, i, j]] += abs(cosine(tokens[b, i], tokens[b, j]))
            counts[pairs[b, i, j]] += 1
    return 0.5 * (1 - sums[1] / (counts[1] + 1)) + 0.5 * sums[0] / (counts[0] + 1)


def class_contrast(student, teacher, flags, temperature, epsilon=0.0, extra=False):
    """L_ctc; with epsilon 1e-4 and `extra`, the predecessor's form."""
    images, total = student.shape[1], 0.0
    for b in range(images):
        positive = [v for v in range(len(student)) if flags[b, v]]
        negative = [v for v in range(len(student)) if not flags[b, v]]
        value = 0.0
        for q in teacher[:, b]:
            e = [math.exp(float(q @ s) / temperature) for s in student[:, b]]
            mass = sum(e[v] for v in negative)
            value += sum(-math.log(e[v] / (e[v] + mass + epsilon)) for v in positive)
            if extra:
                value -= math.log(1 / (1 + mass + epsilon))
        total += value / (2 * (len(positive) + epsilon))
    return total / images


def classification(logits, label):
    total = 0.0
    for b, k in np.ndindex(*logits.shape):
        probability = 1 / (1 + math.exp(-logits[b, k]))
        total -= label[b, k] * math.log(probability) + (1 - label[b, k]) * math.log(1 - probability)
    return total / logits.size


def segmentation(logits, labels):
    """L_seg: half the mean over background pixels and half that over foreground pixels; an empty group counts 0."""
    planes = [[bilinear(plane, labels.shape[1:]) for plane in image] for image in logits]
    sums, counts = [0.0, 0.0], [0, 0]
    for b, row, column in np.ndindex(*labels.shape):
        label = labels[b, row, column]
        if label != IGNORE:
            scores = [plane[row, column] for plane in planes[b]]
            group = int(label != 0)
            sums[group] += math.log(sum(math.exp(s) for s in scores)) - scores[label]
            counts[group] += 1
    return 0.5 * sum(total / count for total, count in zip(sums, counts, strict=True) if count)


def learning_rate(step, steps=20_000, warmup=1_500, rate=6e-5):
    """The rate of optimizer step `step`, counted from 0."""
    if step < warmup:
        return rate * (1 - (1 - step / warmup) * (1 - 1e-6))
    return rate * (1 - step / steps) ** 0.9


def confusion(truth, prediction, classes):
    matrix = np.zeros((classes, classes), int)
    for one, two in zip(truth.ravel(), prediction.ravel(), strict=True):
        if one != IGNORE:
            matrix[one, two] += 1
    return matrix


def segmentation_scores(truth, prediction, classes):
    """IoU by class (None where the truth has none), mean IoU, pixel and mean accuracy, in percent."""
    seen = [(t, p) for t, p in zip(truth.ravel(), prediction.ravel(), strict=True) if t != IGNORE]
    overlap, accuracy = [], []
    for c in range(classes):
        hit = sum(t == c and p == c for t, p in seen)
        either = sum(t == c or p == c for t, p in seen)
        present = sum(t == c for t, _ in seen)
        overlap.append(100 * hit / either if present else None)
        accuracy.append(100 * hit / present if present else None)
    known = [x for x in overlap if x is not None]
    mean_accuracy = [x for x in accuracy if x is not None]
    return {
        "iou": overlap,
        "miou": sum(known) / len(known),
        "pixel_accuracy": 100 * sum(t == p for t, p in seen) / len(seen),
        "mean_accuracy": sum(mean_accuracy) / len(mean_accuracy),
    }


def average_precision(label, score):
    """Mean over positives of the precision at their rank (no ties)."""
    order = sorted(range(len(score)), key=lambda m: -score[m])
    hits, total = 0, 0.0
    for rank, m in enumerate(order, 1):
        if label[m]:
            hits += 1
            total += hits / rank
    return total / hits


def f1(label, found):
    """2 P R / (P + R) of one class."""
    hit = sum(bool(a and b) for a, b in zip(label, found, strict=True))
    return 2 * hit / (sum(map(bool, label)) + sum(map(bool, found)))
