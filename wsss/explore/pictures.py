"""Pictures of what models see, for pages that are read rather than played with. No torch."""

from collections.abc import Sequence

import numpy as np
import seaborn
from jaxtyping import Float, UInt8
from matplotlib import patches
from matplotlib.axes import Axes
from PIL import Image

from wsss import metrics
from wsss.explore.payload import LayerCam, Scene, View, unit
from wsss.paths import UserError
from wsss.report import figures
from wsss.report.figures import class_colours
from wsss.report.picture import Picture


def comparison(scenes: Sequence[Scene]) -> Picture:
    """Draw one column per image. Rows: the image, its truth if known, and for every model its CAM by layer (several
    scales, the largest over the image's classes). If its decoder was trained, the refined pseudo label and the
    prediction follow. All scenes must be of the same models."""
    columns = [_cells(scene, any(other.truth is not None for other in scenes)) for scene in scenes]
    titles = [title for title, _, _ in columns[0]]
    picture = Picture(figsize=(1.2 * len(scenes) + 1.8, 1.2 * len(titles)), layout="constrained")
    grid = picture.subplots(len(titles), len(scenes), squeeze=False)
    for axes, cells in zip(grid.T, columns, strict=True):
        for axis, (_, array, is_label) in zip(axes, cells, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if array is not None:
                axis.imshow(class_colours(array) if is_label else array, cmap="cividis", vmin=0, vmax=1)
    for axis, title in zip(grid[:, 0], titles, strict=True):
        axis.set_ylabel(title.replace(": ", ":\n"), rotation=0, ha="right", va="center", fontsize=8)
    picture.alt = f"{len(scenes)} images in columns; rows: {', '.join(titles)}."
    return picture


_Cell = tuple[str, np.ndarray | None, bool]
"""Title, array, and whether it is a label map."""


def _cells(scene: Scene, with_truth: bool) -> list[_Cell]:
    cells: list[_Cell] = [("image", scene.pixels, False), *[("truth", scene.truth, True)] * with_truth]
    size = scene.pixels.shape[:2]
    for view in scene.views:
        for layer in reversed(view.layers[:2]):
            maps = [layer.maps[view.shown.index(label)] for label in scene.present]
            small = Image.fromarray(np.max(maps, 0).astype(np.float32))
            large = np.asarray(small.resize(size[::-1], Image.Resampling.BILINEAR))
            cells.append((f"{view.name}: CAM, {layer.name.split()[0]}", large, False))
        if view.segmentation is not None:
            cells += [
                (f"{view.name}: pseudo label", view.pseudo_label, True),
                (f"{view.name}: prediction", view.segmentation, True),
            ]
    return cells


def like_a_patch(scene: Scene, place: tuple[int, int] | None = None) -> Picture:
    """Draw how similar all patches are to one, by the tokens and by the codes of each subspace, one row per model.

    `place` is row and column of the patch; None: the patch inside the object with the last model's largest CAM.
    """
    place = place or peak(scene)
    columns = max(len(view.codes) for view in scene.views) + 1
    picture = Picture(figsize=(1.5 * columns, 1.75 * len(scene.views)), layout="constrained")
    grid, means = picture.subplots(len(scene.views), columns, squeeze=False), []
    for axes, view in zip(grid, scene.views, strict=True):
        _image(axes[0], scene, view, place, view.name)
        for axis in axes[1:]:
            axis.set_axis_off()
        for axis, (name, rows) in zip(axes[1:], view.codes.items(), strict=False):
            values = likeness(rows, place[0] * view.grid[1] + place[1])
            axis.imshow(values.reshape(view.grid), cmap="cividis", vmin=0, vmax=1)
            _mark(axis, place)
            axis.set_title(name, fontsize=8)
            means.append(f"{view.name}, {name}: {_inside(scene, view, values)}")
    picture.alt = (
        f"Cosine of the patch in row {place[0] + 1}, column {place[1] + 1} of {scene.name} with all patches, dark 0 or "
        f"less, bright 1. Mean over patches of its class and over the others: {'; '.join(means)}."
    )
    return picture


def peak(scene: Scene) -> tuple[int, int]:
    """Return the patch inside the object where the last model's CAM of the image's first class is largest."""
    view, label = scene.views[-1], scene.present[0]
    if scene.truth is None or label not in view.shown:
        raise UserError(f"{scene.name} has no truth; name the patch")
    values = _on_grid(view.layers[0], view, label).ravel()
    inside = metrics.token_labels(scene.truth, view.grid) == label
    best = int(np.where(inside, values, -1.0).argmax())
    return best // view.grid[1], best % view.grid[1]


def likeness(rows: Float[np.ndarray, "n d"], index: int) -> Float[np.ndarray, " n"]:
    """Return the cosine of one row with every row."""
    directions = unit(rows)
    return directions @ directions[index]


def _inside(scene: Scene, view: View, values: Float[np.ndarray, " n"]) -> str:
    labels = metrics.token_labels(scene.truth, view.grid) if scene.truth is not None else np.zeros(len(values))
    inside = labels == scene.present[0]
    means = (values[where].mean() if where.any() else np.nan for where in (inside, ~inside))
    return " and ".join(f"{mean:.2f}" for mean in means)


def gram(scenes: Sequence[Scene]) -> Picture:
    """Draw how the dimensions of the subspaces' codes correlate over the patches of all scenes, one panel per model
    with subspaces. The scenes may have the same network before training as their first model."""
    views = [view for view in scenes[0].views if _subspaces(view)]
    if not views or any(scene.truth is None for scene in scenes):
        raise UserError("none of these models has subspaces, or an image has no truth")
    picture, shares = Picture(figsize=(4.2 * len(views), 4.1), layout="constrained"), []
    for axis, view in zip(picture.subplots(1, len(views), squeeze=False)[0], views, strict=True):
        values, redundancy = _correlation(scenes, view.name)
        scale = {"cmap": "cividis", "vmin": 0, "vmax": 1, "square": True, "rasterized": True}
        bar = {"cbar": view is views[-1], "cbar_kws": {"shrink": 0.8, "label": "|correlation|"}}
        seaborn.heatmap(np.abs(values), ax=axis, **scale, **bar)
        subspaces = len(_subspaces(view))
        width = len(values) // subspaces
        for edge in range(1, subspaces):
            axis.axhline(edge * width, color="white", linewidth=1)
            axis.axvline(edge * width, color="white", linewidth=1)
        middles, numbers = [(k + 0.5) * width for k in range(subspaces)], range(1, subspaces + 1)
        axis.set_xticks(middles, numbers), axis.set_yticks(middles, numbers)
        axis.set_title(f"{view.name}: redundancy {redundancy:.1f} %", fontsize=9)
        axis.set(xlabel="subspace", ylabel="subspace")
        shares.append(f"{view.name} {redundancy:.1f} %")
    picture.alt = (
        f"Absolute correlations of all dimensions of the codes over the patches of {len(scenes)} images, centred by "
        f"label; lines divide the subspaces. Redundancy: {'; '.join(shares)}."
    )
    return picture


def _subspaces(view: View) -> list[Float[np.ndarray, "n d"]]:
    """Return the codes in each subspace; none for a model that trains fewer than two subspaces."""
    return [rows for name, rows in view.codes.items() if name.startswith("subspace")]


def _correlation(scenes: Sequence[Scene], name: str) -> tuple[Float[np.ndarray, "q q"], float]:
    sums: dict[str, np.ndarray] = {}
    for scene in scenes:
        view = next(view for view in scene.views if view.name == name)
        codes = np.concatenate(_subspaces(view), 1)
        labels = metrics.token_labels(scene.truth, view.grid)
        for kind, value in metrics.code_sums(codes, labels, 255).items():  # 255: any label but IGNORE is below
            sums[kind] = sums.get(kind, 0) + value
    return metrics.correlation(**sums), metrics.redundancy(**sums, subspaces=len(_subspaces(view)))


def layers(scene: Scene) -> Picture:
    """Draw the CAMs of the aux and the last layer, their difference, and by each CAM the affinity of all pairs of
    patches, one row per model. Patches of the object come first in the affinities."""
    picture, shares = Picture(figsize=(9, 1.75 * len(scene.views)), layout="constrained"), []
    for axes, view in zip(picture.subplots(len(scene.views), 6, squeeze=False), scene.views, strict=True):
        _image(axes[0], scene, view, None, view.name)
        last, aux = (np.stack([_on_grid(layer, view, label) for label in scene.present]) for layer in view.layers[:2])
        order = _object_first(scene, view)
        affinities = [affinity(maps)[order][:, order] for maps in (aux, last)]
        shown = [aux.max(0), last.max(0), np.abs(aux - last).max(0), *affinities]
        titles = ("CAM, aux", "CAM, last", "difference", "affinity, aux", "affinity, last")
        for axis, values, title in zip(axes[1:], shown, titles, strict=True):
            axis.imshow(values, cmap="cividis", vmin=0, vmax=1)
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
        pairs = len(order) * max(len(order) - 1, 1)  # of different patches
        apart = [np.abs(aux - last).mean(), np.abs(affinities[0] - affinities[1]).sum() / pairs]
        shares.append(f"{view.name} {100 * apart[0]:.1f} % and {100 * apart[1]:.1f} %")
    picture.alt = (
        f"CAMs of two layers for {scene.name}, dark 0, bright 1, and the affinities of all pairs of patches. Mean "
        f"difference of the CAMs, and of the affinities: {'; '.join(shares)}."
    )
    return picture


def affinity(maps: Float[np.ndarray, "k i j"]) -> Float[np.ndarray, "n n"]:
    """Return the cosine of [1 - max_k M ; M] at every pair of patches, as in Module B."""
    vectors = np.concatenate([1 - maps.max(0, keepdims=True), maps]).reshape(len(maps) + 1, -1)
    directions = unit(vectors.T)
    return directions @ directions.T


def _on_grid(layer: LayerCam, view: View, label: int) -> Float[np.ndarray, "i j"]:
    """Return the CAM of several scales at the middle of every patch."""
    maps = layer.maps[view.shown.index(label)]
    finer = maps.shape[0] // view.grid[0]
    return maps[finer // 2 :: finer, finer // 2 :: finer]


def _object_first(scene: Scene, view: View) -> UInt8[np.ndarray, " n"] | np.ndarray:
    if scene.truth is None:
        return np.arange(view.grid[0] * view.grid[1])
    labels = metrics.token_labels(scene.truth, view.grid).astype(int)
    return np.argsort(np.where(np.isin(labels, scene.present), labels, 256), kind="stable")  # 256: all others last


def _image(axis: Axes, scene: Scene, view: View, place: tuple[int, int] | None, title: str) -> None:
    rows, columns = view.grid
    axis.imshow(scene.pixels, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()
    if place:
        _mark(axis, place)


def _mark(axis: Axes, place: tuple[int, int]) -> None:
    """Outline a patch."""
    corner = (place[1] - 0.5, place[0] - 0.5)
    axis.add_patch(patches.Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=2.2))
    axis.add_patch(patches.Rectangle(corner, 1, 1, fill=False, edgecolor=figures.VERMILION, linewidth=1.2))
