"""Figures from records, logs and published numbers. No torch.

Each function returns a `Picture`: a matplotlib Figure with an alternative text, which a notebook shows with it.
Colours are Okabe and Ito's (lines, the first classes) and cividis (values).
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from matplotlib import colors, lines, patches

from wsss.config import IGNORE
from wsss.paths import UserError
from wsss.report import records
from wsss.report.literature import published_rows
from wsss.report.picture import Picture
from wsss.report.records import Record

BLUE = "#0072B2"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
BLACK = "#000000"
_GREEN = "#009E73"
PALETTE = (BLUE, ORANGE, _GREEN, "#CC79A7", "#56B4E9", VERMILION, "#F0E442")
_CLASSES = (
    *PALETTE, "#2000DF", "#60FF80", "#DF0080", "#60BF20", "#DF20DF", "#FFBF80", "#804060", "#408020", "#FF6080",
    "#80FF20", "#806000", "#BF4040", "#BFFF80",
)  # fmt: skip
"""Colours of the first twenty classes. Those of the drawn set, and of VOC's cat, cow, dog, horse, person and sheep,
also differ for readers who do not see red, green or blue."""
_GREY = 0.85
"""Grey level of ignored pixels."""


def class_colours(mask: np.ndarray) -> np.ndarray:
    """Colour an index mask (h, w) -> (h, w, 3) in 0..1: background black, IGNORE grey, classes by their index.

    After 90 classes the colours repeat; COCO has 80.
    """
    table = np.full((256, 3), _GREY)
    table[:IGNORE] = _colours()[np.r_[0, np.arange(254) % 90 + 1]]
    return table[mask]


@cache
def _colours(count: int = 90) -> np.ndarray:
    """Return black and `count` colours, (count + 1, 3): first _CLASSES, then each time the candidate that is furthest
    from all colours before it and from the grey of ignored pixels."""
    axes = np.meshgrid(np.arange(0, 1, 1 / 36), (0.35, 0.65, 1.0), (0.45, 0.7, 1.0), indexing="ij")
    candidates = colors.hsv_to_rgb(np.stack(axes, -1).reshape(-1, 3))
    taken = [np.zeros(3), *map(np.array, map(colors.to_rgb, _CLASSES))]
    nearest = np.min([np.linalg.norm(candidates - colour, axis=1) for colour in (*taken, np.full(3, _GREY))], 0)
    while len(taken) <= count:
        taken.append(candidates[nearest.argmax()])
        nearest = np.minimum(nearest, np.linalg.norm(candidates - taken[-1], axis=1))
    return np.array(taken)


def load_samples(path: Path | str) -> dict[str, np.ndarray]:
    """Read the arrays of a run's cams.npz. Raises UserError if there is none."""
    if not Path(path).is_file():  # OUTPUT/DATASET/VARIANT/SEED/cams.npz
        *_, variant, seed, _ = Path(path).absolute().parts
        raise UserError(
            f"there is no file of examples {path}; `wsss train {variant} --seed {seed}` writes it at the end of a run"
        )
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


_PANELS = (
    ("image", "images"),
    ("aux CAM", "aux_cam"),
    ("CAM", "cam"),
    ("pseudo label", "pseudo_label"),
    ("prediction", "prediction"),
    ("truth", "truth"),
)


def cam_rows(samples: Mapping[str, np.ndarray], rows: int = 4) -> Picture:
    """Draw image, aux CAM, CAM (0..1, largest over present classes), pseudo label, prediction and truth, side by side.

    `samples` are what a run writes: images (n, h, w, 3), the others (n, h, w), uint8, and class_names.
    """
    rows = min(rows, len(samples["images"]))
    picture = Picture(figsize=(9, 1.55 * rows + 0.5), layout="constrained")
    for (row, column), axis in np.ndenumerate(picture.subplots(rows, len(_PANELS), squeeze=False)):
        title, name = _PANELS[column]
        array = samples[name][row]
        if name.endswith("cam"):
            axis.imshow(array, cmap="cividis", vmin=0, vmax=255)
        else:
            axis.imshow(array if name == "images" else class_colours(array), interpolation="nearest")
        axis.set_axis_off()
        if row == 0:
            axis.set_title(title, fontsize=9)
    names = _class_legend(picture, [str(name) for name in samples["class_names"]], samples["truth"][:rows])
    picture.alt = (
        f"{rows} images in rows: image, aux CAM, CAM, pseudo label, prediction and truth. Classes: {', '.join(names)}."
    )
    return picture


def explored_rows(content: Mapping[str, Any], names: Sequence[str]) -> Picture:
    """Draw photographs of an explorer's file with two models, a row each.

    A row has the photograph, the last layer's CAMs of its first class (0..1) and the segmentations. `content` is a
    payload of `wsss explore`; `names` are those of the photographs.
    """
    entries = [next(entry for entry in content["images"] if entry["name"] == name) for name in names]
    picture = Picture(figsize=(9, 1.35 * len(names) + 0.5), layout="constrained")
    masks = []
    for axes, entry in zip(picture.subplots(len(names), 5, squeeze=False), entries, strict=True):
        size, (first, *_) = entry["size"], entry["present"]
        axes[0].imshow(PIL.Image.open(io.BytesIO(base64.b64decode(entry["picture"].partition(",")[2]))))
        for place, view in enumerate(entry["variants"]):
            layer = view["layers"][0]
            maps = np.frombuffer(base64.b64decode(layer["data"]), np.uint8).reshape(-1, *layer["grid"])
            cam, extent = maps[view["shown"].index(first)], (0, size[1], size[0], 0)
            axes[1 + place].imshow(cam, cmap="cividis", vmin=0, vmax=255, extent=extent, interpolation="bilinear")
            masks.append(np.repeat(view["segmentation"][::2], view["segmentation"][1::2]))
            axes[3 + place].imshow(class_colours(masks[-1].reshape(size)), interpolation="nearest")
    heads = [f"{kind} ({view['name']})" for kind in ("CAM", "segmentation") for view in entries[0]["variants"]]
    for axis, title in zip(picture.axes, ["photograph", *heads], strict=False):
        axis.set_title(title, fontsize=9)
    for axis in picture.axes:
        axis.set_axis_off()
    shown = _class_legend(picture, content["classes"], np.concatenate(masks))
    picture.alt = f"{', '.join(names)}, in rows: photograph, {', '.join(heads)}. Classes: {', '.join(shown)}."
    return picture


def _class_legend(picture: Picture, names: Sequence[str], masks: np.ndarray, ncols: int = 6) -> list[str]:
    """Add a legend of the masks' colours below all panels; return the names of the classes in them."""
    present = [int(index) for index in np.unique(masks) if index not in (0, IGNORE)]
    shown = [(names[index], class_colours(np.array(index))) for index in present]
    shown += [("background", BLACK), ("ignored", str(_GREY))]
    picture.legend_below([patches.Patch(color=value, label=name) for name, value in shown], ncols)
    return [names[index] for index in present]


_SIDE_BY_SIDE = 4
"""Images of a row, few enough for a phone."""


def set_examples(root: Path | str, split: str = "train", count: int = 8) -> Picture:
    """Draw the first images of a VOC-format set with their masks below, four side by side, and name their classes."""
    root = Path(root)
    ids = (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()[:count]
    names = ["background", *(root / "classes.txt").read_text().splitlines()]
    masks = [np.array(PIL.Image.open(root / "SegmentationClass" / f"{name}.png")) for name in ids]
    rows = -(-len(ids) // _SIDE_BY_SIDE)
    picture = Picture(figsize=(6.4, 3.3 * rows + 0.6), layout="constrained")
    panels = picture.subplots(2 * rows, _SIDE_BY_SIDE, squeeze=False)
    for place, (name, mask) in enumerate(zip(ids, masks, strict=True)):
        row, column = divmod(place, _SIDE_BY_SIDE)
        panels[2 * row, column].imshow(PIL.Image.open(root / "JPEGImages" / f"{name}.jpg"))
        panels[2 * row + 1, column].imshow(class_colours(mask), interpolation="nearest")
    for axis in picture.axes:
        axis.set_axis_off()
    shown = _class_legend(picture, names, np.concatenate([mask.ravel() for mask in masks]), ncols=4)
    picture.alt = f"{len(ids)} images of the set, with their masks below. Classes shown: {', '.join(shown)}."
    return picture


_KINDS = (
    ("CAM", "cam", BLUE, "-"),
    ("aux CAM", "aux_cam", VERMILION, "--"),
    ("segmentation", "segmentation", _GREEN, ":"),
)


def learning_curves(log: Path | str) -> Picture:
    """Draw each unweighted term of the objective, its weight, and validation mIoU over the steps of a log.jsonl."""
    rows = [json.loads(line) for line in Path(log).read_text().splitlines()]
    steps = [row for row in rows if "weights" in row]
    checks = [(row["step"], row["validation"]) for row in rows if "validation" in row]
    names, x = [name for name in steps[-1]["weights"] if name in steps[-1]], [row["step"] for row in steps]
    picture = Picture(figsize=(9, 1.75 * (len(names) // 4 + 1) + 0.4), layout="constrained")
    panels = list(picture.subplots(len(names) // 4 + 1, 4, squeeze=False).flat)
    for axis, name in zip(panels, names, strict=False):
        axis.plot(x, [row.get(name) for row in steps], color=BLUE, linewidth=1)
        axis.set_title(name.replace("_", " "), fontsize=8)
        weights = axis.twinx()
        weights.fill_between(x, [row["weights"][name] for row in steps], color=ORANGE, alpha=0.3, linewidth=0)
        largest = max(row["weights"][name] for row in steps)
        weights.set_ylim(0, 1.05 * largest or 1)  # an axis each: weights of one run lie between .003 and 4
        weights.tick_params(labelsize=6, colors="#8a5f00")
    for label, name, value, style in _KINDS:
        numbers = [check[name] for _, check in checks]
        panels[len(names)].plot([step for step, _ in checks], numbers, style, marker="o", color=value, label=label)
    panels[len(names)].set_title("validation mIoU, %", fontsize=8)
    panels[len(names)].legend(fontsize=6, frameon=False)
    for axis in panels:
        axis.tick_params(labelsize=6)
    for axis in panels[len(names) + 1 :]:
        axis.set_axis_off()
    handles = [lines.Line2D([], [], color=BLUE, label="term (left axis)")]
    handles.append(patches.Patch(color=ORANGE, alpha=0.3, label="its weight (right axis)"))
    picture.legend_below(handles, ncols=2)
    last = "; ".join(f"{name.replace('_', ' ')} {steps[-1][name]:.3f}" for name in names)
    picture.alt = f"Terms of the objective and their weights over {x[-1]} steps, a panel each. At the end: {last}. "
    picture.alt += f"The last panel: mIoU at {len(checks)} validations."
    return picture


def published_curves() -> Picture:
    """Draw mIoU over steps from the base's published logs, on VOC val and COCO val_part; not measured here."""
    picture, ends = Picture(figsize=(7.4, 5.4), layout="constrained"), []
    for axis, (run, rows) in zip(picture.subplots(2, 2).flat, _base_logs().items(), strict=True):
        for label, name, value, style in _KINDS:
            x, y = [int(row["step"]) / 1000 for row in rows], [float(row[name]) for row in rows]
            axis.plot(x, y, style, color=value, label=label)
        axis.set(title=run, xlabel="thousand steps", ylabel="mIoU, %")
        last = ", ".join(f"{label} {rows[-1][name]}" for label, name, *_ in _KINDS)
        ends.append(f"{run}: {last}")
    picture.legend_below(picture.axes[0].get_lines())
    picture.alt = f"mIoU over steps in the published logs of ToCo, four panels. At the end: {'; '.join(ends)}."
    return picture


def _base_logs() -> dict[str, list[dict[str, str]]]:
    """Return the mIoU rows of the base's published logs: "DATA, BACKBONE" -> rows by step."""
    logs: dict[str, list[dict[str, str]]] = {}
    for row in sorted(published_rows("toco_logs"), key=lambda row: int(row["step"])):
        if row["class"] == "mIoU":
            backbone = row["backbone"].replace("vit-b", "ViT-B").replace("deit-b", "DeiT-B")
            logs.setdefault(f"{row['dataset'].upper()}, {backbone}", []).append(row)
    return dict(sorted(logs.items(), reverse=True))


def curves_beside_base(record: Record) -> Picture:
    """Draw validation mIoU over a run's progress, one panel per kind, with the base's published logs in grey.

    The data sets differ, so levels cannot be compared.
    """
    run = f"{record.get('dataset_title', record['dataset'])}, seed {record['seed']}"
    picture, parts = Picture(figsize=(9, 3.7), layout="constrained"), []
    panels = picture.subplots(1, len(_KINDS), sharey=True)
    for axis, (label, name, value, _) in zip(panels, _KINDS, strict=True):
        for style, (base, rows) in zip(("-", "--", "-.", ":"), _base_logs().items(), strict=True):
            x = [100 * int(row["step"]) / int(rows[-1]["step"]) for row in rows]
            y = [float(row[name]) for row in rows]
            axis.plot(x, y, style, color="0.6", linewidth=1.2, label=f"base: {base} (published)")
        checks = [(row["step"], row["validation"].get(name)) for row in record.get("validations", ())]
        points = [(100 * a / record["steps"], b) for a, b in checks if b is not None and a < record["steps"]]
        x, y = zip(*points, (100.0, records.value(record, f"{name}.miou_headline")), strict=True)
        axis.plot(x, y, "o-", color=value, linewidth=2.2, markersize=4.5)
        axis.set(title=label, xlabel="progress of the run, %", xlim=(0, 102), ylim=(0, None))
        parts.append(f"{label} {', '.join(f'{b:.1f} at {a:.0f} %' for a, b in zip(x, y, strict=True))}")
    panels[0].set_ylabel("mIoU on its own data set, %")
    handles = [lines.Line2D([], [], color=BLACK, marker="o", linewidth=2.2, label=f"this run: {run}")]
    picture.legend(
        handles=[*handles, *panels[0].get_lines()[:-1]],
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
        title="other data sets than this run's: compare shapes, not levels",
        title_fontsize=8,
    )
    picture.alt = f"Validation mIoU over the progress of {run}, three panels: {'; '.join(parts)}. In grey, the "
    picture.alt += "published logs of ToCo on VOC and COCO, other data sets: compare shapes, not levels."
    return picture


def evaluation_memory(bench: Mapping[str, Any]) -> Picture:
    """Draw resident memory over the images done, from what `wsss bench memory` printed.

    Without workers, one process computes network and CRF.
    """
    done, process, workers = (np.array(bench[name]) for name in ("done", "process_mb", "workers_mb"))
    picture, parts = Picture(figsize=(7, 3.4), layout="constrained"), []
    axis, tenth = picture.subplots(), done[-1] / 10
    rows = [("network and CRF, one process", process, BLUE, "-")]
    if np.any(workers):
        rows = [("network's process", process, BLUE, "-")]
        rows.append((f"its {bench['workers']} CRF workers", workers, VERMILION, "--"))
    for label, value, color, style in rows:
        axis.plot(done, value / 1000, style, color=color, label=label)
        early, late = (value[(done >= n * tenth) & (done <= (n + 1) * tenth)].mean() / 1000 for n in (1, 9))
        parts.append(f"{label} {early:.2f} GB in the second tenth of the list and {late:.2f} GB in the last")
    axis.set(xlabel=f"images done, of {bench['images']:,}", ylabel="resident memory, GB", xlim=(0, None))
    axis.set_ylim(0, 1.15 * max(*process, *workers) / 1000)
    axis.legend(frameon=False, ncols=2, loc="upper right")
    picture.alt = f"Resident memory over {bench['images']:,} images: {'; '.join(parts)}."
    return picture
