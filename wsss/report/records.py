"""Records: one JSON per finished run, with its per-image counts beside it, and captions that name them. No torch.

A record's path is ROOT/DATASET/VARIANT/SEED.json. `load` adds its path under "path"; `save` leaves it out.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss import paths, stored
from wsss.paths import UserError
from wsss.registry import BENCHMARKS, DATASETS

SCHEMA = 1
Record = dict[str, Any]
"""One finished run, as its JSON file holds it: the fields are listed in data/results/README.md."""

FIELDS: dict[str, type | tuple[type, ...]] = {
    "dataset": str,
    "variant": str,
    "preset": str,
    "seed": int,
    "split": str,
    "images": int,
    "fingerprint": dict,
    "protocol": dict,
    "results": dict,
    "config": dict,
    "commit": str,
    "dirty": bool,
    "device": str,
    "versions": dict,
    "steps": int,
    "seconds": dict,
    "date": str,
}
"""Fields of every record, and their types."""

# Fingerprints: the images and the truth that a number was measured on.


def fingerprint(ids: Sequence[str], mask_digests: Sequence[str]) -> dict[str, Any]:
    """Return the number of images, and the sha256 of the sorted ids and of the sorted (id, mask digest) pairs.

    `mask_digests` are hexadecimal, one for each id (`mask_digest`). Raises UserError for a repeated id.
    """
    if len(set(ids)) != len(ids):
        raise UserError("an image id occurs twice in the evaluated list; drop the copy, since each image counts once")
    pairs = sorted(zip(ids, mask_digests, strict=True))
    masks = hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in pairs).encode())
    return {"images": len(ids), "ids": ids_digest(ids), "masks": masks.hexdigest()}


def ids_digest(ids: Iterable[str]) -> str:
    """Return the sha256 of the sorted ids, joined by line feeds."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def mask_digest(mask: np.ndarray) -> str:
    """Return the sha256 of a mask (h, w) at its own size: of its class indices, not of the file's bytes."""
    head = "x".join(map(str, mask.shape)).encode()
    return hashlib.sha256(head + np.ascontiguousarray(mask, np.uint8).tobytes()).hexdigest()


def lines_digest(lines: Iterable[str]) -> str:
    """Return the sha256 of lines of text, each with its line feed."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


# Data: the classes, image labels, masks and photographs that a run belongs to.

DIGESTS = {
    "ids": "listed images",
    "classes": "classes",
    "labels": "image labels",
    "masks": "masks",
    "photographs": "photographs",
}
"""Digests of each list in `data` of a record (made by `data.identity`) -> what they are of."""
Digests = Mapping[str, Mapping[str, str]]
"""{"train": digests, "val": digests, "watched LIST": digests}; a missing digest is unknown."""


def data_of(record: Record) -> Digests:
    """Return the data a record belongs to; for an older record, what its fingerprint and class names tell."""
    names, mark = record["results"].get("segmentation", {}).get("iou", {}), record["fingerprint"]
    classes = {"classes": lines_digest(list(names)[1:])} if names else {}
    data, val = record.get("data", {}), {"ids": mark["ids"], "masks": mark["masks"]} | classes
    return {"train": {}, **data, "val": val | data.get("val", {})}


def check_data(data: Any, where: str) -> None:
    """Raise UserError, naming `where`, if `data` does not have digests by list."""
    whole = isinstance(data, Mapping) and {"train", "val"} <= data.keys()
    if not whole or not all(isinstance(of_list, Mapping) for of_list in data.values()):
        raise UserError(f"{where} holds no digests of train and val; move it away to continue without them")


def differences(first: Digests, second: Digests) -> str:
    """Return what is known to differ between two data: "the image labels of train, the masks of train and val".

    Empty if nothing is known to differ. Lists of different images differ in everything; for them only ids and classes
    are named.
    """
    named: dict[str, list[str]] = {}
    for name in first.keys() & second.keys():
        a, b = first[name], second[name]
        kinds = [kind for kind in DIGESTS if kind in a and kind in b and a[kind] != b[kind]]
        for kind in kinds if "ids" not in kinds else [kind for kind in kinds if kind in ("ids", "classes")]:
            named.setdefault(kind, []).append(name)
    of = {kind: f" of {' and '.join(sorted(names))}" * (kind != "classes") for kind, names in named.items()}
    return ", ".join(f"the {title}{of[kind]}" for kind, title in DIGESTS.items() if kind in named)


def split_ids(name: str) -> list[str]:
    """Read the ids of a benchmark's split ("voc-val", "coco-val-part"), from data/lists."""
    lists = {
        f"{dataset}-{split.replace('_', '-')}": f"{DATASETS[dataset].lists}/{split}.txt"
        for dataset in BENCHMARKS
        for split in DATASETS[dataset].splits
    }
    if name not in lists:
        raise UserError(f"there is no list of ids for the split {name}; there are {', '.join(sorted(lists))}")
    return (paths.project_root() / "data" / "lists" / lists[name]).read_text().split()


def require_split(record: Record, name: str) -> None:
    """Raise UserError unless the record was measured on exactly the images of the known split `name`.

    The masks of VOC and COCO are not part of this project, so their digest cannot be checked here.
    """
    ids, mark, where = split_ids(name), record["fingerprint"], describe(record)
    if not record["images"] == mark["images"] == len(ids):
        raise UserError(f"{where} has {record['images']} images, but {name} has {len(ids)}; leave it out")
    if mark["ids"] != ids_digest(ids):
        raise UserError(f"{where} was measured on other images than {name}; leave it out of this table")


# Reading and writing.


def _validate(record: Any, where: str) -> None:
    """Raise UserError, naming `where`, if a field is missing or of another type."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UserError(f"{where} is not a record of schema {SCHEMA}; write it again with `wsss evaluate`")
    for name, kind in FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise UserError(f"the record {where} lacks the field {name!r}; write it again with `wsss evaluate`")
    if not {"images", "ids", "masks"} <= set(record["fingerprint"]):
        raise UserError(f"the fingerprint of {where} is incomplete; write it again with `wsss evaluate`")
    if "data" in record:
        check_data(record["data"], f"the field data of {where}")


def load(path: Path | str) -> Record:
    """Load and check the record at `path`; its variant gets its current name. Raises UserError if it is no record."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the record {path} cannot be read ({error}); evaluate the run again") from error
    _validate(record, str(path))
    results = record["results"]
    whole = not record["config"].get("data", {}).get("headline")  # then the headline is the mean over all classes
    for kind, number in results.get("guesses", {}).items():
        if not isinstance(number, Mapping):  # an early record: the mean over all present classes
            results["guesses"][kind] = {"miou": number} | ({"miou_headline": number} if whole else {})
    return record | {"variant": stored.current_variant(record["variant"]), "path": str(path)}


def save(record: Record, path: Path | str) -> None:
    """Write a record, whole or not at all. Raises UserError before writing if it is no record, or if its measured masks
    are not those of its data."""
    record = {key: value for key, value in record.items() if key != "path"}
    _validate(record, str(path))
    masks = record["fingerprint"]["masks"]
    if data_of(record)["val"].get("masks", masks) != masks:
        raise UserError(f"masks of {record['split']} changed while {path} was measured; evaluate the run again")
    paths.write_json(Path(path), record)


def save_counts(path: Path | str, ids: Sequence[str], **counts: np.ndarray) -> None:
    """Write per-image counts beside a record, as SEED.npz: each is (images, classes, 3) of TP, FP, FN."""
    with paths.atomic(Path(path)) as temporary, open(temporary, "wb") as file:
        arrays = {name: count.astype(np.int32) for name, count in counts.items()}
        np.savez_compressed(file, ids=np.array(ids, dtype=str), **arrays)


def load_counts(record: Record) -> dict[str, np.ndarray]:
    """Load the per-image counts beside a loaded record; empty if there are none."""
    path = Path(record.get("path", "")).with_suffix(".npz") if record.get("path") else None
    if path is None or not path.is_file():
        return {}
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # NumPy raises half a dozen kinds for a file that is cut off or no .npz
        raise UserError(f"the counts {path} cannot be read ({error}); evaluate the run again") from error


def files(root: Path | str) -> list[Path]:
    """List the files ROOT/DATASET/VARIANT/NAME.json, sorted, without the hidden files of a system or an editor."""
    paths = sorted(Path(root).glob("*/*/*.json"))
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def find(*roots: Path | str) -> list[Record]:
    """Load all records ROOT/DATASET/VARIANT/SEED.json, and SEED.WORDS.json of other protocols, lists or weights.

    An earlier root wins over a later one, whose records of the same run are left out. Records of the same variant and
    protocol name that differ in protocol or data are left out, too, since no mean may hold both; a note says so.
    """
    kept: dict[tuple[str, str, int, str], Record] = {}
    firsts: dict[tuple[str, str, str], tuple[int, Record]] = {}
    left: list[str] = []
    for number, root in enumerate(roots):
        for path in files(root):
            record = load(path)
            first, known = firsts.setdefault((record["dataset"], record["variant"], _stem(record)), (number, record))
            protocol = "the protocol" * (known["protocol"] != record["protocol"])
            differ = (differences(data_of(known), data_of(record)) or protocol) if first != number else ""
            if not differ:
                kept.setdefault((record["dataset"], record["variant"], record["seed"], path.stem), record)
            left += [f"{path} and {known['path']} ({differ})"] * bool(differ)
    if left:
        paths.note(f"note: {len(left)} records are left out of tables because they differ, first {left[0]}")
    return [kept[key] for key in sorted(kept)]


def published() -> list[Record]:
    """Load the records of data/results."""
    return find(paths.project_root() / "data" / "results")


def describe(record: Record) -> str:
    """Return a record's name for messages: DATASET/VARIANT/SEED."""
    return f"{record['dataset']}/{record['variant']}/{record['seed']}"


def file_name(record: Record) -> str:
    """Return a record's name with the rest of its file's name: DATASET/VARIANT/SEED.voc-crf."""
    return describe(record) + _stem(record)


def _stem(record: Record) -> str:
    return Path(record["path"]).stem.removeprefix(str(record["seed"]))


def images(record: Record) -> str:
    """Return number of images and split, "1,449 val"."""
    return f"{record['images']:,} {record['split']}"


# Numbers of records.


def value(record: Record, key: str) -> Any:
    """Return the result at a dotted key, e.g. "segmentation.miou". Raises KeyError with the whole key."""
    node: Any = record["results"]
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise KeyError(f"{describe(record)} has no result {key}")
        node = node[part]
    return node


def has(record: Record, key: str) -> bool:
    """Return whether the record holds a result, not None, at a dotted key."""
    try:
        return value(record, key) is not None
    except KeyError:
        return False


def select(records: Iterable[Record], dataset: str, variant: str, protocol: str = "training") -> list[Record]:
    """Select the records of a variant and protocol, one for each seed.

    For the protocol of training only SEED.json counts: the run's validation list and its last weights.
    """
    wanted = (dataset, variant, protocol)
    chosen = [r for r in records if (r["dataset"], r["variant"], r["protocol"].get("name")) == wanted]
    if protocol != "training":
        return chosen
    return [r for r in chosen if Path(r.get("path", f"{r['seed']}.json")).stem == str(r["seed"])]


def comparable(groups: Sequence[Sequence[Record]]) -> list[list[Record]]:
    """Keep in each group the runs of the seeds that all groups share, on one processor; empty groups are ignored.

    The processor, with its number of threads, is the one with most such seeds. If the groups share no seed, each keeps
    the runs of its own best processor. Runs of one seed are equal to the last bit only on one kind of machine; on two
    kinds they differ as two seeds do.
    """
    common = [{pairing_key(record) for record in group} for group in groups if group]
    kept = set.intersection(*common) if common else set()
    if not kept:
        return [of_one_processor(group) for group in groups]
    first = next(group for group in groups if group)
    chosen = {pairing_key(record) for record in of_one_processor([r for r in first if pairing_key(r) in kept])}
    return [[r for r in group if pairing_key(r) in chosen] for group in groups]


def of_one_processor(records: Sequence[Record]) -> list[Record]:
    """Keep the records of the processor and number of threads with most records; a tie goes to the lowest seed.

    Means over seeds are taken over such records only.
    """
    groups: dict[Any, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        groups.setdefault(pairing_key(record)[1:], []).append(record)
    return max(groups.values(), key=len, default=[])


def pairing_key(record: Record) -> tuple[int, str, int | None, int]:
    """Return the key for pairing runs: (seed, device, threads, images that a process computes at once).

    Device and threads set the order of sums, and so their rounding. Losses are taken over the images at once.
    """
    optim = {"batch": 1, "accumulate": 1, **record["config"].get("optim", {})}
    at_once = optim["batch"] // (optim["accumulate"] * record.get("processes", 1))
    return record["seed"], record["device"], record.get("threads"), at_once


def processors(records: Iterable[Record]) -> str:
    """Return which seeds ran on which processor: "seeds 0, 1 on a CPU (1 thread); seed 3 on another"."""
    seeds: dict[tuple[str, int | None, int], set[int]] = {}
    of_sets: dict[str, set[int]] = {}
    for record in records:
        seed, *where = pairing_key(record)
        seeds.setdefault(tuple(where), set()).add(seed)
        of_sets.setdefault(record["dataset"], set()).add(where[-1])
    # Images at once are named only if they differ within a data set.
    parts, several = [], any(len(at_once) > 1 for at_once in of_sets.values())
    for (device, threads, at_once), known in sorted(seeds.items(), key=lambda item: min(item[1])):
        used = [f"{threads} thread{'s' * (threads > 1)}"] if threads else []
        used += [f"{at_once} image{'s' * (at_once > 1)} at once"] * several
        used = f" ({', '.join(used)})" if used else ""
        parts.append(f"seed{'s' * (len(known) > 1)} {', '.join(map(str, sorted(known)))} on {device}{used}")
    return "; ".join(parts)


def one(records: Iterable[Record], variant: str, seed: int) -> Record:
    """Return the only record of a variant and seed. Raises UserError if none or several data sets have it."""
    records = list(records)
    groups = [select(records, dataset, variant) for dataset in sorted({record["dataset"] for record in records})]
    matches = [record for group in groups for record in group if record["seed"] == seed]
    if len(matches) == 1:
        return matches[0]
    places = ", ".join(map(describe, matches)) or "none"
    raise UserError(
        f"looked for one record of {variant}, seed {seed}, found {places}; run `wsss train {variant} --seed {seed}`"
    )


# Captions: where a table, figure or notebook comes from.


def origin(runs: Iterable[Record]) -> str:
    """Return a sentence with the records (each once), variants, seeds, commits, time and devices; empty for none."""
    unique = {record["path"]: record for record in runs}.values()
    shown = sorted(unique, key=lambda r: (r["dataset"], r["variant"], r["seed"], _stem(r)))
    if not shown:
        return ""
    trainings = {(r["dataset"], r["variant"], r["seed"]): r for r in shown}
    minutes = sum(record["seconds"].get("train", 0) for record in trainings.values()) / 60
    named = {
        "record": (map(file_name, shown), 0),
        "variant": ((variant for _, variant, _ in trainings), 3),
        "seed": (map(str, sorted(seed for *_, seed in trainings)), 9),
        "commit": ((record["commit"] for record in shown), 3),
    }
    parts = []
    for kind, (names, few) in named.items():  # "commit a", "commits a, b", or of more than a few "5 commits"
        known = list(dict.fromkeys(names))
        plural = kind + "s" * (len(known) > 1)
        parts.append(f"{plural} {', '.join(known)}" if len(known) <= few else f"{len(known)} {plural}")
    devices = ", ".join(dict.fromkeys(record["device"] for record in shown))
    return f"From {'; '.join(parts)}; {minutes:,.0f} minutes of training on {devices}."


def notebook_origin(stamp: Mapping[str, Any]) -> str:
    """Return a sentence with name, seed, date, commit, time and device of an executed notebook, from its stamp."""
    return (
        f"From {stamp.get('notebook', 'a notebook')}, seed {stamp.get('parameters', {}).get('seed', '–')}; run "
        f"{stamp.get('date', 'without a date')} at commit {stamp.get('commit')} in {stamp.get('seconds', '–')} s on "
        f"{stamp.get('device', 'an unknown device')}."
    )
