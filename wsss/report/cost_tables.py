"""Tables of the costs of the paper's runs (pages 'Run it', 'What runs cost'), each estimate with its basis. No
torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wsss import protocols
from wsss.config import Config
from wsss.presets import PRESETS
from wsss.registry import BENCHMARKS, DATASETS
from wsss.report import costs, gate, records
from wsss.report.experiments import EXPERIMENTS, SEEDS
from wsss.report.table import ABSENT, Table

_Bench = Mapping[str, Any]
"""A line that `wsss bench` printed, with the name of its file."""
_KINDS = ("", "-msc", "-csa", "-base", "-toco", "-plain", "-deit", "-deit-base", "-deit-toco")
"""Suffixes of the data set in the names of presets."""
_UNKNOWN = "not known"


def _launcher(dataset: str) -> str:
    """Return the command that starts as many processes as the base had GPUs."""
    return f"torchrun --nproc_per_node {costs.base_time(dataset).gpus} -m wsss"


def _base_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate what the base's authors state, and what follows from it. Uses no benches."""
    columns = [_base_column(dataset) for dataset in BENCHMARKS]
    names = columns[0].keys()
    rows = tuple((name, *(column[name] for column in columns), _DERIVED[name]) for name in names)
    titles = ("ToCo's run", *(dataset.upper() for dataset in BENCHMARKS), "where from")
    note = "Seconds and rate follow from the time, which includes loading of data, refinement, energy and validations."
    return Table("The base's runs, with costs computed from the time that its authors state", titles, rows, note)


def _base_column(dataset: str) -> dict[str, str]:
    config, stated = PRESETS[f"{dataset}-toco"], costs.base_time(dataset)
    run, images = costs.Run(config, repeated=True), config.optim.steps * config.optim.batch
    cells = (
        f"{stated.gpus} {stated.gpu}",
        f"{int(stated.hours)} h {round(60 * stated.hours) % 60:02d} min",
        f"{stated.gpus * stated.hours:.1f}",
        f"{config.optim.steps:,} x {config.optim.batch}",
        " / ".join(f"{count:,}" for count in run.tokens()),
        f"{run.step_tflop() / config.optim.batch:.2f}",
        f"{run.base().pflop():,.0f}",
        f"{stated.gpu_seconds / images:.2f}",
        f"{run.rate():.1f}",
    )
    return dict(zip(_DERIVED, cells, strict=True))


_DERIVED = {
    "GPUs": "stated: data/published/training_time.csv",
    "time": "stated: the same file",
    "GPU hours": "GPUs x time",
    "steps x images": "the base's schedule, as in the preset",
    "tokens forward / backward, an image and step": "counted; equal passes as often as the base computes them (D8)",
    "TFLOP an image and step": "counted for these tokens, every term in every step",
    "PFLOP in all": "steps x images x TFLOP an image and step",
    "GPU seconds an image and step": "GPU hours / (steps x images)",
    "TFLOP/s a GPU": "TFLOP an image and step / GPU seconds",
}
"""Line of the table of the base -> where it comes from."""


def _runs_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate the costs of the benchmarks' presets; presets of equal cost share a line. Uses no benches."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in (f"{dataset}{kind}" for dataset in BENCHMARKS for kind in _KINDS):
        config = PRESETS[name]
        run, stated = costs.Run(config), costs.base_time(config.data.name)
        low, high = run.hours()
        cells = (
            " / ".join(f"{count:,}" for count in run.tokens()),
            f"{run.step_tflop():.1f}",
            f"{run.pflop():,.0f}",
            f"{run.pflop() / run.base().pflop():.2f}",
            f"{low:.1f} to {high:.1f}",
            f"{stated.gpus * low:.0f} to {stated.gpus * high:.0f}",
        )
        groups.setdefault((config.data.name, *cells), []).append(name)
    rows = tuple((names[0], *cells) for (_, *cells), names in groups.items())
    columns = ("preset", "tokens forward / backward", "TFLOP a step", "PFLOP in all", "share of the base's")
    columns += ("hours, estimate", "GPU hours")
    gpus = ", ".join(f"{t.gpus} {t.gpu} for {d.upper()}" for d in BENCHMARKS for t in [costs.base_time(d)])
    same = "; ".join(f"{names[0]}: {', '.join(names[1:])}" for names in groups.values() if names[1:])
    commands = (f"{name.upper()} by `{_launcher(name)} train PRESET --seed 0`" for name in BENCHMARKS)
    note = f"{', '.join(commands)}. A line also holds for presets of equal cost: {same}. "
    note += f"Hours are estimated for the base's GPUs ({gpus}); nobody measured them. Lower bound: the base's stated "
    note += "hours x the share of its PFLOP, if time grows with operations. Upper bound: the stated hours, if nothing "
    note += "is gained. GPU hours = GPUs x hours, the time on one such GPU. PFLOP in all = steps x TFLOP a step; steps "
    note += "of classification alone need only the main pass. bfloat16, the default here, is not taken into account."
    return Table("Runs of the benchmarks, estimated", columns, rows, note)


def _ablations_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate the costs of the benchmarks' experiments, and their sum with every run once. Uses no benches."""
    rows = []
    for dataset in BENCHMARKS:
        experiments = {name: experiment for name, experiment in EXPERIMENTS.items() if experiment.dataset == dataset}
        sweep = f'wsss sweep {{}} --only-list True --launcher "{_launcher(dataset)}"'
        lines = [(item.title, sweep.format(name), item.rows) for name, item in experiments.items()]
        together = {row.variant: row for item in experiments.values() for row in item.rows}
        lines.append((f"all of {dataset.upper()}, each run once", ABSENT, tuple(together.values())))
        gpus = costs.base_time(dataset).gpus
        for title, command, runs in lines:
            low, high = costs.sweep_hours(runs)
            hours = (f"{low:,.0f} to {high:,.0f}", f"{gpus * low:,.0f} to {gpus * high:,.0f}")
            rows.append((title, command, str(len(runs)), str(len(runs) * len(SEEDS)), *hours))
    columns = ("experiment", "command", "rows", "runs", "hours, estimate", "GPU hours")
    note = f"Runs = rows x {len(SEEDS)} seeds. Hours: all runs one after the other on the base's GPUs; the bounds "
    note += "are sums over the runs, as in the table of runs. Rows without class token contrast or without any CAM "
    note += "need fewer passes. Final evaluations are not included. A run of several experiments is made only once."
    return Table("Experiments of the benchmarks, estimated", columns, tuple(rows), note)


def _evaluation_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate evaluations, a line each: counted operations, and the CRF as an `infer` record measured it."""
    of_voc = (bench for bench in benches if bench["bench"] == "infer" and bench["protocol"] == "voc")
    measured = next((bench for bench in of_voc if bench["crf"] and not bench.get("crf_merge")), None)
    rows = []
    for dataset, split in (("voc", "val"), ("voc", "test"), ("coco", "val")):
        config, images = PRESETS[dataset], len(records.split_ids(f"{dataset}-{split}"))
        size = (375, 500) if dataset == "voc" else (448, 448)
        passes = costs.evaluation_passes(*size, protocols.SCALES, costs.Run(config).vit.patch)
        label = f"{dataset.upper()} {split}, final, photographs of {size[1]} x {size[0]}"
        rows.append((label, *_evaluation(config, images, passes), *_crf(measured, dataset, images)))
    for dataset, split in (("voc", "val"), ("coco", "val-part")):
        config, images = PRESETS[dataset], len(records.split_ids(f"{dataset}-{split}"))
        passes = costs.Run(config).validation_passes()
        rows.append((f"{dataset.upper()} {split}, in training", *_evaluation(config, images, passes), ABSENT, ABSENT))
    columns = ("evaluation", "images", "TFLOP an image", "PFLOP", "minutes on one GPU, estimate")
    columns += ("CRF, core seconds an image", "CRF, core hours")
    rates = ", ".join(f"{name.upper()} {costs.Run(PRESETS[name]).rate():.1f} TFLOP/s" for name in BENCHMARKS)
    note = f"Minutes: PFLOP / the rate per GPU that the base reached in training ({rates}); nobody measured them. "
    if measured:
        size = f"{measured['width']} x {measured['height']}"
        note += f"CRF: measured on {measured['images']} drawn photographs of {size} with the 21 classes of VOC, on a "
        note += "CPU, where it always runs; core hours = images x core seconds. Divide them by the number of cores."
    return Table("Evaluations, estimated", columns, tuple(rows), note)


def _evaluation(config: Config, images: int, passes: Sequence[costs.Pass]) -> tuple[str, ...]:
    run = costs.Run(config)
    tflop = costs.tflop(passes, run.vit, DATASETS[config.data.name].classes)
    minutes = images * tflop / run.rate() / 60
    return f"{images:,}", f"{tflop:.2f}", f"{images * tflop / 1e3:,.1f}", f"{minutes:,.0f}"


def _crf(measured: _Bench | None, dataset: str, images: int) -> tuple[str, str]:
    if measured is None or measured["protocol"] != dataset:
        return _UNKNOWN, _UNKNOWN
    seconds = measured["crf_seconds"] / measured["images"]
    return f"{seconds:.1f}", f"{images * seconds / 3600:.1f}"


def _memory_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate measured training steps, a line each: peak memory, and the part kept from step to step."""
    rows = []
    for bench in benches:
        options = "-checkpointing" * bench.get("activation_checkpointing", False)
        if bench["bench"] == "step" and bench["file"] == f"{bench['preset']}-{bench['dtype']}{options}":
            micro = bench["batch"] // bench["accumulate"]
            how = "inputs of the blocks" if options else "all activations"
            cells = (bench["preset"], str(micro), str(bench["accumulate"]), bench["dtype"], how)
            whole, trained = costs.Run(PRESETS[bench["preset"]]).parameters()
            rows.append((*cells, f"{4 * (whole + 3 * trained) / 1e9:.1f}", f"{bench['peak_memory_gb']:.1f}"))
    columns = ("step", "images of a micro-batch", "micro-batches", "type", "kept for the backward pass")
    columns += ("weights, gradients, AdamW: GB", "peak, measured: GB")
    note = "Peak: the whole process, on a CPU, by `wsss bench step`. Weights, gradients and AdamW's two moments: "
    note += "4 bytes x (parameters + 3 x trained parameters). The memory on a GPU is not known: its kernels and "
    note += "its allocator differ."
    return Table("Memory of a process in training", columns, tuple(rows), note)


def _disk_table(benches: Sequence[_Bench]) -> Table:
    """Tabulate the size of a run's folder, a line for each data set. Uses no benches."""
    rows = []
    for dataset in BENCHMARKS:
        whole, trained = costs.Run(PRESETS[dataset]).parameters()
        weights, state = 4 * whole / 1e9, 8 * trained / 1e9
        rows.append((dataset, f"{weights:.2f}", f"{state:.2f}", f"{2 * weights + state:.1f}", f"{weights + state:.1f}"))
    columns = ("run of", "weights, GB", "optimizer, GB", "folder, GB", "more while a checkpoint is written, GB")
    note = "Weights: 4 bytes a parameter; optimizer: 8 a trained parameter. Folder = last weights + best weights + "
    note += "optimizer; a checkpoint is removed when the next one is complete. Predictions are index PNGs, not logits "
    note += "(D11); their size is not known."
    return Table("Disk space of a run, by arithmetic", columns, tuple(rows), note)


COST_TABLES: dict[str, Callable[[Sequence[_Bench]], Table]] = {
    "gate": lambda benches: gate.bounds_table(),
    "base": _base_table,
    "runs": _runs_table,
    "ablations": _ablations_table,
    "evaluation": _evaluation_table,
    "memory": _memory_table,
    "disk": _disk_table,
}
"""Tables of the pages on costs, by name."""
