"""Figures from records, logs and published numbers. No torch.

Each function returns a `Picture`: a matplotlib Figure that carries the words for those who cannot see it, and
shows itself in a notebook with them. Colours are Okabe and Ito's (classes, lines) and cividis (values).
"""

import base64
import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from matplotlib import colors, lines, patches, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsss.paths import UserError
from wsss.report import records
from wsss.report.benchmarks import published_rows
from wsss.report.records import Record

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW)
IGNORE = 255
GREY = 0.85
"""What is ignored."""


class Picture(Figure):
    """A figure with an alternative text, and the records that it shows."""

    alt: str = ""
    records: Sequence[Record] = ()

    def png(self, dpi: int = 110) -> bytes:
        """The figure as PNG."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
        return file.getvalue()

    def encoded(self) -> bytes:
        """The figure as PNG, or as JPEG where that takes less than two thirds of the bytes, as it does with
        photographs; lines and words stay sharp."""
        png, file = self.png(), io.BytesIO()
        with PIL.Image.open(io.BytesIO(png)) as image:
            image.convert("RGB").save(file, "jpeg", quality=85, subsampling=0, optimize=True)
        jpeg = file.getvalue()
        return jpeg if 3 * len(jpeg) < 2 * len(png) else png

    def svg(self) -> str:
        """The figure as an <svg> element with its alternative text: transparent, in the fonts of the page, what is
        black or dark grey in the colour of its text, so that it suits a light and a dark theme."""
        file = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.alt}):
            self.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue().partition("<svg")[2], flags=re.DOTALL)
        text = re.sub(r'<g id="[^"]*"', "<g", text)  # two figures of a page may not share ids
        text = re.sub(r"#([0-6][0-9a-f])\1\1\b", "currentColor", text)
        text = re.sub(r" font-family: [^;\"]*;?|<style.*?</style>", "", text, flags=re.DOTALL)
        narrow = " wsss-narrow" if self.get_figwidth() < 7 else ""  # legible on a phone as it is
        start = f'class="wsss-figure{narrow}" role="img" aria-label="{html.escape(self.alt)}"'
        return f'<svg {start} fill="currentColor" stroke-linejoin="round"{text}'

    def csv(self) -> str:
        """The points of every line that has a name (its gid, else its label): panel, series, x, y."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("panel", "series", "x", "y"))
        for axis in self.axes:
            for line in axis.get_lines():
                series = line.get_gid() or str(line.get_label())
                if not series.startswith("_"):  # matplotlib's own name of a line that has none
                    panel = ", ".join(filter(None, (axis.get_title(), axis.get_xlabel())))
                    writer.writerows((panel, series, f"{x:g}", f"{y:g}") for x, y in line.get_xydata())
        return file.getvalue()

    def legend_below(self, handles: Sequence[Artist], ncols: int = 3) -> None:
        """Name these lines and patches by their labels below all panels."""
        self.legend(handles=handles, loc="outside lower center", ncols=ncols, fontsize=8, frameon=False)

    def html(self) -> str:
        """An <img> element that holds the picture and its alternative text."""
        picture = self.encoded()
        source = f"data:image/{suffix(picture)};base64,{base64.b64encode(picture).decode()}"
        return f'<img class="wsss-figure" alt="{html.escape(self.alt)}" src="{source}">'

    def _ipython_display_(self) -> None:
        from IPython.display import display  # present wherever this is called

        display({"text/html": self.html(), "text/plain": self.alt}, raw=True)


def suffix(picture: bytes) -> str:
    """Whether an encoded picture is "png" or "jpeg"."""
    return "png" if picture.startswith(b"\x89PNG") else "jpeg"


def class_colours(mask: np.ndarray) -> np.ndarray:
    """Index mask (h, w) -> colours (h, w, 3) in 0..1: background black, IGNORE grey, classes by `colour`."""
    table = np.full((256, 3), GREY)
    table[0] = 0
    for index in range(1, 255):
        table[index] = colour(index)
    return table[mask]


def colour(index: int) -> np.ndarray:
    """The colour of class `index` >= 1: PALETTE in order, then those of `_further_colours`, which begin again after the
    classes of COCO."""
    known = _further_colours()
    return known[(index - 1) % len(known)]


@cache
def _further_colours(count: int = 90) -> np.ndarray:
    """PALETTE and, up to `count` colours (count, 3), each time that one which is furthest from all before it, from the
    black of the background and from the grey of what is ignored."""
    axes = np.meshgrid(np.arange(0, 1, 1 / 36), (0.35, 0.65, 1.0), (0.45, 0.7, 1.0), indexing="ij")
    candidates = colors.hsv_to_rgb(np.stack(axes, -1).reshape(-1, 3))
    taken = [np.zeros(3), np.full(3, GREY), *map(np.array, map(colors.to_rgb, PALETTE))]
    nearest = np.min([np.linalg.norm(candidates - one, axis=1) for one in taken], 0)
    while len(taken) < count + 2:
        taken.append(candidates[nearest.argmax()])
        nearest = np.minimum(nearest, np.linalg.norm(candidates - taken[-1], axis=1))
    return np.array(taken[2:])


def load_samples(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays of a run's cams.npz."""
    if not Path(path).is_file():  # OUTPUT/DATASET/VARIANT/SEED/cams.npz
        *_, variant, seed, _ = Path(path).absolute().parts
        raise UserError(
            f"there is no file of examples {path}; `wsss train {variant} --seed {seed}` writes it at the end of a run"
        )
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


PANELS = (
    ("image", "images"),
    ("aux CAM", "aux_cam"),
    ("CAM", "cam"),
    ("pseudo label", "pseudo_label"),
    ("prediction", "prediction"),
    ("truth", "truth"),
)


def cam_rows(samples: Mapping[str, np.ndarray], rows: int = 4) -> Picture:
    """Image, aux CAM, CAM (0..1, largest over present classes), pseudo label, prediction, truth: a row each.

    `samples` as a run writes them: images (n, h, w, 3), the others (n, h, w), uint8, and class_names.
    """
    rows = min(rows, len(samples["images"]))
    picture = Picture(figsize=(9, 1.55 * rows + 0.5), layout="constrained")
    grid = picture.subplots(rows, len(PANELS), squeeze=False)
    for i, axes in enumerate(grid):
        for axis, (title, name) in zip(axes, PANELS, strict=True):
            _show(axis, name, samples[name][i])
            if i == 0:
                axis.set_title(title, fontsize=9)
    names = [str(name) for name in samples["class_names"]]
    _class_legend(picture, names, samples["truth"][:rows])
    picture.alt = (
        f"{rows} images in rows: image, aux CAM, CAM, pseudo label, prediction and truth. "
        f"Classes: {', '.join(names[i] for i in _present(samples['truth'][:rows]))}."
    )
    return picture


def _show(axis: Axes, name: str, array: np.ndarray) -> None:
    axis.set_axis_off()
    if name.endswith("cam"):
        axis.imshow(array, cmap="cividis", vmin=0, vmax=255)
    else:
        axis.imshow(array if name == "images" else class_colours(array), interpolation="nearest")


def _present(masks: np.ndarray) -> list[int]:
    return [int(index) for index in np.unique(masks) if index not in (0, IGNORE)]


def _class_legend(picture: Picture, names: Sequence[str], masks: np.ndarray) -> None:
    shown = [(names[index], colour(index)) for index in _present(masks)]
    shown += [("background", "black"), ("ignored", str(GREY))]
    handles = [patches.Patch(color=value, label=name) for name, value in shown]
    picture.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)


def set_examples(root: Path | str, split: str = "train", count: int = 8) -> Picture:
    """The first images of a VOC-format set with their masks below, and their names."""
    root = Path(root)
    ids = (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()[:count]
    names = ["background", *(root / "classes.txt").read_text().splitlines()]
    masks = [np.array(PIL.Image.open(root / "SegmentationClass" / f"{name}.png")) for name in ids]
    picture = Picture(figsize=(9, 2.9), layout="constrained")
    for (above, below), name, mask in zip(picture.subplots(2, len(ids), squeeze=False).T, ids, masks, strict=True):
        above.imshow(PIL.Image.open(root / "JPEGImages" / f"{name}.jpg"))
        below.imshow(class_colours(mask), interpolation="nearest")
        above.set_axis_off(), below.set_axis_off()
    labels = np.concatenate([mask.ravel() for mask in masks])
    _class_legend(picture, names, labels)
    shown = ", ".join(names[i] for i in _present(labels))
    picture.alt = f"{len(ids)} images of the set, with their masks below. Classes shown: {shown}."
    return picture


KINDS = (
    ("CAM", "cam", BLUE, "-"),
    ("aux CAM", "aux_cam", VERMILION, "--"),
    ("segmentation", "segmentation", GREEN, ":"),
)


def learning_curves(log: Path | str) -> Picture:
    """Every term of the objective before its weight, that weight, and validation, over the steps of a log.jsonl."""
    rows = [json.loads(line) for line in Path(log).read_text().splitlines()]
    steps = [row for row in rows if "weights" in row]
    checks = [(row["step"], row["validation"]) for row in rows if "validation" in row]
    names, x = list(_terms(steps[-1])), [row["step"] for row in steps]
    picture = Picture(figsize=(9, 1.75 * (len(names) // 4 + 1) + 0.4), layout="constrained")
    panels = list(picture.subplots(len(names) // 4 + 1, 4, squeeze=False).flat)
    for axis, name in zip(panels, names, strict=False):
        axis.plot(x, [row.get(name) for row in steps], color=BLUE, linewidth=1)
        axis.set_title(name.replace("_", " "), fontsize=8)
        weights = axis.twinx()
        weights.fill_between(x, [row["weights"][name] for row in steps], color=ORANGE, alpha=0.3, linewidth=0)
        largest = max(row["weights"][name] for row in steps)
        weights.set_ylim(0, 1.05 * largest or 1)  # each to its own: weights of one run lie between .003 and 4
        weights.tick_params(labelsize=6, colors="#8a5f00")
    for label, name, value, style in KINDS:
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
    picture.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    last = "; ".join(f"{key.replace('_', ' ')} {number:.3f}" for key, number in _terms(steps[-1]).items())
    picture.alt = f"Terms of the objective and their weights over {x[-1]} steps, a panel each. At the end: {last}. "
    picture.alt += f"The last panel: mIoU at {len(checks)} validations."
    return picture


def _terms(row: Mapping[str, Any]) -> dict[str, float]:
    """The losses in a line of the log: the names that have a weight and were computed."""
    return {name: row[name] for name in row["weights"] if name in row}


def published_curves() -> Picture:
    """mIoU over steps in the base's published logs, VOC val and COCO val_part; not measured here."""
    picture, ends = Picture(figsize=(9, 5.2), layout="constrained"), []
    for axis, (run, own) in zip(picture.subplots(2, 2).flat, _base_logs().items(), strict=True):
        for label, name, value, style in KINDS:
            x, y = [int(r["step"]) / 1000 for r in own], [float(r[name]) for r in own]
            axis.plot(x, y, style, color=value, label=label)
        axis.set(title=run, xlabel="thousand steps", ylabel="mIoU, %")
        axis.legend(fontsize=8, frameon=False)
        last = ", ".join(f"{label} {own[-1][name]}" for label, name, *_ in KINDS)
        ends.append(f"{run}: {last}")
    picture.alt = f"mIoU over steps in the published logs of ToCo, four panels. At the end: {'; '.join(ends)}."
    return picture


def _base_logs() -> dict[str, list[dict[str, str]]]:
    """DATA, BACKBONE -> the mIoU rows of that published log of the base, by step."""
    logs: dict[str, list[dict[str, str]]] = {}
    for row in sorted(published_rows("toco_logs"), key=lambda row: int(row["step"])):
        if row["class"] == "mIoU":
            logs.setdefault(f"{row['dataset'].upper()}, {row['backbone']}", []).append(row)
    return dict(sorted(logs.items(), reverse=True))


BEHIND = ("-", "--", "-.", ":")
"""Line styles of the base's logs where they stand behind another run."""


def curves_beside_base(record: Record) -> Picture:
    """Validation mIoU of a run over its progress, a panel a kind, the base's published logs behind it in grey.

    The data sets differ, so levels do not compare.
    """
    run = f"{record.get('dataset_title', record['dataset'])}, seed {record['seed']}"
    picture, said = Picture(figsize=(9, 3.7), layout="constrained"), []
    panels = picture.subplots(1, len(KINDS), sharey=True)
    for axis, (label, name, value, _) in zip(panels, KINDS, strict=True):
        for style, (base, rows) in zip(BEHIND, _base_logs().items(), strict=True):
            x = [100 * int(row["step"]) / int(rows[-1]["step"]) for row in rows]
            y = [float(row[name]) for row in rows]
            axis.plot(x, y, style, color="0.6", linewidth=1.2, label=f"base: {base} (published)")
        x, y = zip(*_validations(record, name), strict=True)
        axis.plot(x, y, "o-", color=value, linewidth=2.2, markersize=4.5)
        axis.set(title=label, xlabel="progress of the run, %", xlim=(0, 102), ylim=(0, None))
        said.append(f"{label} {', '.join(f'{b:.1f} at {a:.0f} %' for a, b in zip(x, y, strict=True))}")
    panels[0].set_ylabel("mIoU on its own data set, %")
    handles = [lines.Line2D([], [], color=BLACK, marker="o", linewidth=2.2, label=f"this run: {run}")]
    picture.legend(
        handles=[*handles, *panels[0].get_lines()[: len(BEHIND)]],
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
        title="other data sets than this run's: shapes compare, levels do not",
        title_fontsize=8,
    )
    picture.alt = f"Validation mIoU over the progress of {run}, three panels: {'; '.join(said)}. Behind, in grey, the "
    picture.alt += "published logs of ToCo on VOC and COCO, other data sets, which are not comparable in level."
    return picture


def _validations(record: Record, kind: str) -> list[tuple[float, float]]:
    """(percent of the run, headline mIoU in percent) of the validations before the end, then of the record."""
    rows = [(row["step"], row["validation"].get(kind)) for row in record.get("validations", ())]
    found = [(100 * step / record["steps"], one) for step, one in rows if one is not None and step < record["steps"]]
    return [*found, (100.0, records.value(record, f"{kind}.miou_headline"))]


def evaluation_memory(bench: Mapping[str, Any]) -> Picture:
    """Resident memory over the images done, from what `wsss bench memory` printed; one worker is the process itself."""
    done, own, others = (np.array(bench[name]) for name in ("done", "process_mb", "workers_mb"))
    picture, said = Picture(figsize=(7, 3.4), layout="constrained"), []
    axis, tenth = picture.subplots(), done[-1] / 10
    rows = [("network and CRF, one process", own, BLUE, "-")]
    if np.any(others):
        workers = (f"its {bench['workers']} CRF workers", others, VERMILION, "--")
        rows = [("network's process", own, BLUE, "-"), workers]
    for label, value, color, style in rows:
        axis.plot(done, value / 1000, style, color=color, label=label)
        early, late = (value[(done >= n * tenth) & (done <= (n + 1) * tenth)].mean() / 1000 for n in (1, 9))
        said.append(f"{label} {early:.2f} GB in the second tenth of the list and {late:.2f} GB in the last")
    axis.set(xlabel=f"images done, of {bench['images']:,}", ylabel="resident memory, GB", xlim=(0, None))
    axis.set_ylim(0, 1.15 * max(*own, *others) / 1000)
    axis.legend(frameon=False, ncols=2, loc="upper right")
    picture.alt = f"Resident memory over {bench['images']:,} images: {'; '.join(said)}."
    return picture
