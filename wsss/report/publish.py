"""Publishing: from runs/ to data/results and book/runs. No torch."""

import json
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from wsss import paths
from wsss.paths import UserError
from wsss.report import records

_DIRTY = "on a tree with uncommitted changes (commit, then run it again)"


def publish(source: Path | str, target: Path | str, only: Sequence[str] = ()) -> list[Path]:
    """Copy finished records of SOURCE to TARGET/data/results and executed notebooks to TARGET/book/runs; return the new
    files.

    `only` are patterns of DATASET/VARIANT; empty: all. All or nothing: raises UserError before anything is copied if a
    record comes from a tree with uncommitted changes, or has other data than the records it would stand beside. So it
    does if a notebook failed, or ran on such a tree.
    """
    source, target = Path(source), Path(target)
    chosen = [
        record
        for record in records.find(source)
        if any(fnmatch(f"{record['dataset']}/{record['variant']}", pattern) for pattern in only or "*")
    ]
    notebooks = sorted((source / "notebooks").glob("*.ipynb"))
    by = (
        (record, "was evaluated" if not record["dirty"] else "was run")
        for record in chosen
        if record["dirty"] or record.get("evaluated_by", {}).get("dirty")
    )
    faults = [f"{records.file_name(record)} {how} {_DIRTY}" for record, how in by]
    faults += _data_faults(chosen, records.find(target / "data" / "results"))
    faults += [fault for path in notebooks if (fault := _notebook_fault(path))]
    if faults or not (chosen or notebooks):
        raise UserError("nothing was published: " + ("; ".join(faults) or f"{source} holds no finished run"))
    files = {Path(r["path"]): target / "data" / "results" / Path(r["path"]).relative_to(source) for r in chosen}
    counts = {old.with_suffix(".npz"): new.with_suffix(".npz") for old, new in files.items()}
    files |= {old: new for old, new in counts.items() if old.exists()}
    files |= {path: target / "book" / "runs" / path.name for path in notebooks}
    for old, new in files.items():
        with paths.atomic(new) as temporary:
            shutil.copyfile(old, temporary)
    return list(files.values())


def _data_faults(chosen: Sequence[records.Record], published: Sequence[records.Record]) -> list[str]:
    """Return a sentence for each chosen record whose data differ from those of another record, chosen or published, of
    the same set and lists: one table would show both. Records with `other_data` are left out, since they say themselves
    that their data are not those of their run."""
    replaced = set(map(records.file_name, chosen))
    firsts: dict[tuple[str, str, str], records.Record] = {}
    faults = []
    for record in (*(r for r in published if records.file_name(r) not in replaced), *chosen):
        if "data" not in record or "other_data" in record:
            continue
        lists = record["dataset"], record["config"].get("data", {}).get("train_split", ""), record["split"]
        first = firsts.setdefault(lists, record)
        if differ := records.differences(records.data_of(first), records.data_of(record)):
            pair = f"{records.describe(record)} used other data than {records.describe(first)}"
            faults.append(f"{pair} ({differ} differ: publish runs on one set of data)")
    return faults


def _notebook_fault(path: Path) -> str:
    if path.name.endswith((".failed.ipynb", ".running.ipynb")):
        return f"{path.name} did not finish (run it again)"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    meta = notebook["metadata"]
    if meta.get("papermill", {}).get("exception") or any(out["output_type"] == "error" for out in outputs):
        return f"{path.name} failed (fix it, then run it again)"
    if meta.get("wsss", {}).get("dirty"):
        return f"{path.name} was run {_DIRTY}"
    return ""
