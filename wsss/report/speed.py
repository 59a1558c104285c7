"""Tables of measured times, from the files in data/results/bench: lines that `wsss bench` printed. No torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss.paths import UserError
from wsss.report import figures
from wsss.report.picture import Picture
from wsss.report.table import ABSENT, Table

_Bench = dict[str, Any]


def read(folder: Path, kind: str = "step") -> list[_Bench]:
    """Read the lines of `wsss bench KIND`, in the order of the files' names. Raises UserError for a file that is no
    line of any bench, or that is of this kind and not whole."""
    benches = []
    for path in sorted(folder.glob("*.json")):
        try:
            bench = json.loads(path.read_text(encoding="utf-8"))
            if bench["bench"] == kind:
                [table([bench]) for table in SPEED_TABLES[kind]]  # a missing field raises an error here
                benches.append(bench | {"file": path.stem})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path.name} is not a line of wsss bench {kind} ({type(error).__name__}: {error})"
            ) from error
    return benches


def _name(bench: _Bench) -> str:
    """Return the name of the measured step: preset, backbone, crop, batch, type and options that are on."""
    parts = [bench["preset"], bench["backbone"], f"crop {bench['crop']}", f"batch {bench['batch']}"]
    parts += [f"in {bench['accumulate']} parts"] * (bench.get("accumulate", 1) > 1)
    parts += [bench["dtype"], *(option.replace("_", " ") for option in _OPTIONS if bench.get(option))]
    return ", ".join(parts) + (f" ({bench['note']})" if bench.get("note") else "")


_OPTIONS = ("activation_checkpointing", "compile")
_MEASURES = {
    "s": lambda bench: f"{bench['seconds']:.2f}",
    "fastest to slowest": lambda bench: "{:.2f} to {:.2f}".format(*bench["spread"]) if "spread" in bench else ABSENT,
    "units": lambda bench: f"{bench['units']:.1f}",
    "GB": lambda bench: f"{bench['peak_memory_gb']:.1f}",
    "tokens forward": lambda bench: f"{bench['tokens']['forward']:,}",
    "tokens backward": lambda bench: f"{bench['tokens']['backward']:,}",
    "TFLOP": lambda bench: f"{bench['tflop']:.2f}",
    "utilisation": lambda bench: f"{bench['utilisation']:.0%}",
    "product, TFLOP/s": lambda bench: f"{_product_rate(bench):.2f}",
    "s of one unit": lambda bench: f"{bench['gemm_seconds']:.3f}",
    "on": lambda bench: f"{bench['device']}, {bench['threads']} threads",
    "commit": lambda bench: bench.get("commit") or ABSENT,
}


def _product_rate(bench: _Bench) -> float:
    """Return the TFLOP/s of the matrix product in the step's own type; utilisation is the step's share of this rate."""
    return bench["tflop"] / bench["seconds"] / bench["utilisation"]


def _steps_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate steps, a row each."""
    rows = tuple((_name(bench), *(show(bench) for show in _MEASURES.values())) for bench in benches)
    note = "product: of two 4,096 x 4,096 matrices, in the step's type and process; one unit is its time in float32."
    return Table("Training steps, measured", ("step", *_MEASURES), rows, note)


def _phases_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate steps by phases, in units: a row for each step, a column for each phase, in the order of a step."""
    phases = tuple(dict.fromkeys(phase for bench in benches for phase in bench["phases"]))
    rows = []
    for bench in benches:
        units = {phase: f"{seconds / bench['gemm_seconds']:.2f}" for phase, seconds in bench["phases"].items()}
        rows.append((_name(bench), *(units.get(phase, ABSENT) for phase in phases)))
    note = "Waiting for the energy's filter counts as main pass; in newer rows, as other losses."
    return Table("The same steps by phases, in units", ("step", *phases), tuple(rows), note)


_INFER = {
    "images a second": lambda bench: f"{bench['images_a_second']:.3f}",
    "s": lambda bench: f"{bench['seconds']:.1f}",
    "network, s": lambda bench: f"{bench['phases']['network']:.1f}",
    "resizing, reading, s": lambda bench: f"{bench['phases']['resizing'] + bench['phases']['reading and softmax']:.1f}",
    "waiting for CRF, s": lambda bench: f"{bench['phases']['crf']:.1f}",
    "CRF, core seconds": lambda bench: f"{bench['crf_seconds']:.1f}",
    "TFLOP": lambda bench: f"{bench['tflop']:.1f}",
    "ratio": lambda bench: f"{bench['ratio']:.2f}",
    "GB": lambda bench: f"{bench['peak_memory_gb']:.1f}",
    "s of one unit": lambda bench: f"{bench['gemm_seconds']:.3f}",
    "on": lambda bench: f"{bench['device']}, {bench['threads']} threads, {bench['workers']} CRF workers",
    "commit": lambda bench: bench.get("commit") or ABSENT,
}


def _infer_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate evaluations, a row each."""

    def label(bench: _Bench) -> str:
        size, note = f"{bench['width']}x{bench['height']}", f" ({bench['note']})" if bench.get("note") else ""
        merged = f", classes below {bench['crf_merge']:g} merged" if bench.get("crf_merge") else ""
        return f"{bench['images']} of {size}, {bench['protocol']}, {bench['backbone']}, {bench['dtype']}{merged}{note}"

    rows = tuple((label(bench), *(show(bench) for show in _INFER.values())) for bench in benches)
    return Table("Evaluations, measured", ("photographs", *_INFER), rows)


def _outside_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate the evaluations whose time outside the network was measured, a row each."""
    rows = []
    for bench in (bench for bench in benches if bench.get("outside")):
        merge, outside = f"merged below {bench['crf_merge']:g}" if bench.get("crf_merge") else "whole", bench["outside"]
        seconds = (f"{outside[way]:.2f}" for way in ("ours", "base"))
        rows.append((bench["protocol"], str(bench["classes"]), merge, *seconds, f"{outside['ratio']:.1f}"))
    columns = ("protocol", "classes", "CRF", "here, core s", "the base's way, core s", "ratio")
    note = "The base's way writes the combined logits to disk and runs the whole CRF in a second pass."
    return Table("Time outside the network, core seconds a photograph", columns, tuple(rows), note)


def _merge_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate merged CRFs: a row for each number of classes and each probability below which classes are merged."""
    rows, notes = [], []
    for bench in benches:
        for classes, measured in bench["classes"].items():
            whole = measured["whole_core_seconds"]
            for least, merged in measured["merge"].items():
                seconds, kept = merged["core_seconds"], f"{merged['classes_kept']:.1f}"
                equal = (f"{merged[key]:.5f}" for key in ("equal", "equal_in_worst"))
                rows.append((classes, least, *equal, kept, f"{whole:.2f}", f"{seconds:.2f}", f"{whole / seconds:.1f}"))
        scales, plural = ", ".join(f"{scale:g}" for scale in bench["scales"]), "s" * (bench["threads"] > 1)
        notes.append(
            f"{bench['photographs']} photographs of {bench.get('note', bench['data'])}, {bench['split']}, the model "
            f"{bench['model']}, scale {scales}, on {bench['device']}, {bench['threads']} thread{plural}."
        )
    columns = ("classes", "merged below", "pixels of equal label, %", "in the worst photograph, %", "classes kept")
    columns += ("whole CRF, core s", "merged, core s", "ratio")
    note = "Classes include background. Those beyond the model's own take its logits of the photographs that follow. "
    return Table("Dense CRF with merged classes beside the whole one", columns, tuple(rows), note + " ".join(notes))


SPEED_TABLES = {
    "step": (_steps_table, _phases_table),
    "infer": (_infer_table, _outside_table),
    "merge": (_merge_table,),
}
"""Bench -> its tables; their caption is that of the first."""


_WATERFALL = (
    ("the base's step, float32", "base-float32"),
    ("each pass of the encoder once; refinement by look-ups", "voc-toco-float32-pooled-crops"),
    ("crops by running sums; unfused attention for few tokens", "voc-toco-float32-unfused"),
    ("freed memory kept; AdamW fused; view 2 beside view 1", "voc-toco-float32"),
    ("bfloat16 (its freed memory given back)", "voc-toco-bfloat16-given-back"),
    ("freed memory kept; AdamW fused", "voc-toco-bfloat16-convolution"),
    ("patches as a linear layer; view 2 beside view 1", "voc-toco-bfloat16"),
    ("the same on a GPU", "voc-toco-bfloat16-gpu"),
)
"""Bars of the waterfall from top to bottom, each with its record."""


def waterfall(folder: Path) -> Picture:
    """Draw the units of a step: the base's, ours after each group of changes, and those of the operations alone. A bar
    without a record says so."""
    files = {name: folder / f"{name}.json" for _, name in _WATERFALL}
    known = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}
    picture, texts, before = Picture(figsize=(7.4, 4.2), layout="constrained"), [], None
    axis = picture.subplots()
    for row, (label, name) in enumerate(_WATERFALL):
        if name not in known:
            axis.text(1, row, "not measured", va="center", style="italic", color="0.35")
            texts.append(f"{label}: not measured")
            continue
        units = known[name]["units"]
        if before is not None and before > units:
            axis.barh(row, before - units, left=units, color="0.85")
        axis.barh(row, units, color=figures.BLUE if known[name]["dtype"] == "float32" else figures.ORANGE)
        axis.text(max(units, before or 0) + 1, row, f"{units:.1f}", va="center")
        texts.append(f"{label}: {units:.1f}")
        before = units
    picture.alt = f"Units of a training step, bar by bar: {'; '.join(texts)}."
    if last := known.get(_WATERFALL[-2][1]):  # on a CPU; the last bar is of a GPU
        floor = last["tflop"] / _product_rate(last) / last["gemm_seconds"]
        axis.axvline(floor, color=figures.BLACK, linestyle="--", linewidth=1)
        picture.alt += f" The operations alone, in bfloat16: {floor:.1f}."
    axis.set_yticks(range(len(_WATERFALL)), [label for label, _ in _WATERFALL])
    axis.set(xlabel="units: products of two 4,096 x 4,096 matrices in float32", ylim=(len(_WATERFALL) - 0.5, -0.5))
    axis.margins(x=0.15)
    return picture
