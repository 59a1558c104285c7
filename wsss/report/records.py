"""Records: one JSON per finished run, with its per-image counts beside it. No torch.

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
from wsss.report.statistics import Summary, summary
from wsss.report.statistics import bootstrap as bootstrap
from wsss.report.statistics import bootstrap_miou as bootstrap_miou

SCHEMA = 1
Record = dict[str, Any]

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
"""What every record holds, and of which type."""

# Fingerprints: which images, and which truth, a number was measured on.


def fingerprint(ids: Sequence[str], mask_digests: Sequence[str]) -> dict[str, Any]:
    """Number of images, sha256 of the sorted ids and of the sorted (id, mask digest) pairs.

    `mask_digests` are hexadecimal, one an id (`mask_digest`). Raises UserError for a repeated id.
    """
    if len(set(ids)) != len(ids):
        raise UserError("an image id occurs twice in the evaluated list; drop the copy, since each image counts once")
    pairs = sorted(zip(ids, mask_digests, strict=True))
    masks = hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in pairs).encode())
    return {"images": len(ids), "ids": ids_digest(ids), "masks": masks.hexdigest()}


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 of the sorted ids, joined by line feeds."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def mask_digest(mask: np.ndarray) -> str:
    """sha256 of a mask (h, w) of class indices at its own size: of the indices, not of the file's bytes."""
    head = "x".join(map(str, mask.shape)).encode()
    return hashlib.sha256(head + np.ascontiguousarray(mask, np.uint8).tobytes()).hexdigest()


def lines_digest(lines: Iterable[str]) -> str:
    """sha256 of lines of text, each with its line feed."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


# Data: to which classes, image labels, masks and photographs a run belongs.

DATA = {
    "ids": "listed images",
    "classes": "classes",
    "labels": "image labels",
    "masks": "masks",
    "photographs": "photographs",
}
"""Digests that `data` of a record has for each list (`data.identity` makes them), and what they are of."""
Data = Mapping[str, Mapping[str, str]]
"""{"train": digests, "val": digests, "watched LIST": digests}; a digest that is not there is unknown."""


def data_of(record: Record) -> Data:
    """The data a record belongs to; of an older one what its fingerprint and its class names tell."""
    names, mark = record["results"].get("segmentation", {}).get("iou", {}), record["fingerprint"]
    classes = {"classes": lines_digest(list(names)[1:])} if names else {}
    data, val = record.get("data", {}), {"ids": mark["ids"], "masks": mark["masks"]} | classes
    return {"train": {}, **data, "val": val | data.get("val", {})}


def check_data(data: Any, where: str) -> None:
    """Raises UserError, naming `where`, if `data` are no digests by list."""
    whole = isinstance(data, Mapping) and {"train", "val"} <= data.keys()
    if not whole or not all(isinstance(of_list, Mapping) for of_list in data.values()):
        raise UserError(f"{where} holds no digests of train and val; move it away to go on without them")


def differences(one: Data, other: Data) -> str:
    """What is known to differ between two data, "the image labels of train, the masks of train and val"; empty where
    nothing is. What is of other images differs anyhow, and is left out."""
    named: dict[str, list[str]] = {}
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        kinds = [kind for kind in DATA if kind in a and kind in b and a[kind] != b[kind]]
        for kind in kinds if "ids" not in kinds else [kind for kind in kinds if kind in ("ids", "classes")]:
            named.setdefault(kind, []).append(name)
    of = {kind: f" of {' and '.join(sorted(names))}" * (kind != "classes") for kind, names in named.items()}
    return ", ".join(f"the {words}{of[kind]}" for kind, words in DATA.items() if kind in named)


def split_ids(name: str) -> list[str]:
    """The ids of a benchmark's split ("voc-val", "coco-val-part"), from data/lists."""
    lists = {
        f"{dataset}-{split.replace('_', '-')}": f"{DATASETS[dataset].lists}/{split}.txt"
        for dataset in BENCHMARKS
        for split in DATASETS[dataset].splits
    }
    if name not in lists:
        raise UserError(f"there is no list of ids for the split {name}; known are {', '.join(sorted(lists))}")
    return (paths.project_root() / "data" / "lists" / lists[name]).read_text().split()


def require_split(record: Record, name: str) -> None:
    """Raises UserError unless the record was measured on exactly the images of the known split `name`.

    The masks of VOC and COCO are not part of this project, so their digest cannot be checked here.
    """
    ids, mark, where = split_ids(name), record["fingerprint"], describe(record)
    if not record["images"] == mark["images"] == len(ids):
        raise UserError(f"{where} has {record['images']} images, but {name} has {len(ids)}; leave it out")
    if mark["ids"] != ids_digest(ids):
        raise UserError(f"{where} was measured on other images than {name}; leave it out of this table")


# Reading and writing.


def validate(record: Any, where: str) -> None:
    """Raises UserError, naming `where`, if a field is missing or of another type."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UserError(f"{where} is not a record of schema {SCHEMA}; write it anew with `wsss evaluate`")
    for name, kind in FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise UserError(f"the record {where} lacks the field {name!r}; write it anew with `wsss evaluate`")
    if not {"images", "ids", "masks"} <= set(record["fingerprint"]):
        raise UserError(f"the fingerprint of {where} is not whole; write it anew with `wsss evaluate`")
    if "data" in record:
        check_data(record["data"], f"the field data of {where}")


def load(path: Path | str) -> Record:
    """The record at `path`, checked, its variant in today's words; raises UserError if it is none."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the record {path} cannot be read ({error}); evaluate the run again") from error
    validate(record, str(path))
    today = {"variant": stored.current_variant(record["variant"]), "results": _with_guesses(record)}
    return record | today | {"path": str(path)}


def _with_guesses(record: Record) -> dict[str, Any]:
    """The results, the guesses in today's form: a number is the mean over all present classes, and over the headline
    classes as well where no classes are named so; else the latter was not measured."""
    whole = not record["config"].get("data", {}).get("headline")
    guesses = {
        kind: number
        if isinstance(number, Mapping)
        else {"miou": number, **({"miou_headline": number} if whole else {})}
        for kind, number in record["results"].get("guesses", {}).items()
    }
    return record["results"] | ({"guesses": guesses} if guesses else {})


def save(record: Record, path: Path | str) -> None:
    """Write a record, whole or not at all; raises UserError before writing if it is not one, or if the masks that were
    measured are not those that its data name."""
    record = {key: value for key, value in record.items() if key != "path"}
    validate(record, str(path))
    masks = record["fingerprint"]["masks"]
    if data_of(record)["val"].get("masks", masks) != masks:
        raise UserError(f"masks of {record['split']} changed while {path} was measured; evaluate the run anew")
    paths.write_json(Path(path), record)


def save_counts(path: Path | str, ids: Sequence[str], **counts: np.ndarray) -> None:
    """Per-image counts beside a record: each (images, classes, 3) of TP, FP, FN, as SEED.npz."""
    with paths.atomic(Path(path)) as temporary, open(temporary, "wb") as file:
        arrays = {name: count.astype(np.int32) for name, count in counts.items()}
        np.savez_compressed(file, ids=np.array(ids, dtype=str), **arrays)


def load_counts(record: Record) -> dict[str, np.ndarray]:
    """The per-image counts beside a loaded record; empty if there are none."""
    path = Path(record.get("path", "")).with_suffix(".npz") if record.get("path") else None
    if path is None or not path.is_file():
        return {}
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy has half a dozen kinds for a file that is cut off or of another kind
        raise UserError(f"the counts {path} cannot be read ({error}); evaluate the run again") from error


def find(*roots: Path | str) -> list[Record]:
    """All records ROOT/DATASET/VARIANT/SEED.json, and SEED.WORDS.json of other protocols, lists or weights, sorted.

    The first root wins over the others: their records of the same run are left out, and so are those of the same
    variant and protocol name that were made otherwise (protocol or data), since they must not be averaged; these are
    said on stderr.
    """
    found: dict[tuple[str, str, int, str], Record] = {}
    firsts: dict[tuple[str, str, str], tuple[int, Record]] = {}
    left: list[str] = []
    for number, root in enumerate(roots):
        for path in sorted(Path(root).glob("*/*/*.json")):
            if any(part.startswith(".") for part in path.relative_to(root).parts):
                continue  # what a system or an editor keeps beside the files
            record = load(path)
            first, known = firsts.setdefault((record["dataset"], record["variant"], _stem(record)), (number, record))
            protocol = "the protocol" * (known["protocol"] != record["protocol"])
            differ = (differences(data_of(known), data_of(record)) or protocol) if first != number else ""
            if not differ:
                found.setdefault((record["dataset"], record["variant"], record["seed"], path.stem), record)
            left += [f"{path} and {known['path']} ({differ})"] * bool(differ)
    if left:
        paths.note(f"note: {len(left)} records are left out of tables; first differ {left[0]}")
    return [found[key] for key in sorted(found)]


def _stem(record: Record) -> str:
    """What the name of a record's file says beside its seed."""
    return Path(record["path"]).stem.removeprefix(str(record["seed"]))


def published() -> list[Record]:
    """The records of data/results."""
    return find(paths.project_root() / "data" / "results")


def describe(record: Record) -> str:
    """A record's name in messages: DATASET/VARIANT/SEED."""
    return f"{record['dataset']}/{record['variant']}/{record['seed']}"


# Numbers of records.


def value(record: Record, key: str) -> Any:
    """The result at a dotted key, e.g. "segmentation.miou"; raises KeyError with the whole key."""
    node: Any = record["results"]
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise KeyError(f"{describe(record)} has no result {key}")
        node = node[part]
    return node


def has(record: Record, key: str) -> bool:
    """Whether the record holds a result at a dotted key."""
    try:
        return value(record, key) is not None
    except KeyError:
        return False


def select(records: Iterable[Record], dataset: str, variant: str, protocol: str = "training") -> list[Record]:
    """The records of one variant, by its name today or an earlier one, that were evaluated by `protocol`, one a seed.

    Of those in training's way the run's own, on its validation list and with its last weights.
    """
    variant = stored.current_variant(variant)
    own = [
        r for r in records if (r["dataset"], r["variant"], r["protocol"].get("name")) == (dataset, variant, protocol)
    ]
    return [r for r in own if protocol != "training" or Path(r.get("path", f"{r['seed']}.json")).stem == str(r["seed"])]


def comparable(groups: Sequence[Sequence[Record]]) -> list[list[Record]]:
    """Of each group the runs of one processor whose seed is in every group that has runs at all: of the processor, with
    one number of threads, that has most such seeds. Of each group its own where nothing is common to all.

    Runs of one seed start alike to the last bit on one kind of machine alone; on two they differ as two seeds do.
    """
    common = [{draw(record) for record in group} for group in groups if group]
    kept = set.intersection(*common) if common else set()
    if not kept:
        return [of_one_processor(group) for group in groups]
    first = next(group for group in groups if group)
    chosen = {draw(record) for record in of_one_processor([r for r in first if draw(r) in kept])}
    return [[r for r in group if draw(r) in chosen] for group in groups]


def of_one_processor(records: Sequence[Record]) -> list[Record]:
    """Those of the processor, with one number of threads, that most of the records are of; of two with as many, the one
    of the lowest seed. A mean over seeds is taken of no others."""
    groups: dict[Any, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        groups.setdefault(draw(record)[1:], []).append(record)
    return max(groups.values(), key=len, default=[])


def draw(record: Record) -> tuple[int, str, int | None]:
    """Key for pairing runs: seed and, since sums in another order come out otherwise, processor and threads."""
    return record["seed"], record["device"], record.get("threads")


def processors(records: Iterable[Record]) -> str:
    """Which seeds ran on which processor: "seeds 0, 1 on a CPU with 1 thread, seed 3 on another"."""
    seeds: dict[tuple[str, int | None], set[int]] = {}
    for record in records:
        seed, *where = draw(record)
        seeds.setdefault(tuple(where), set()).add(seed)
    parts = []
    for (device, threads), known in sorted(seeds.items(), key=lambda item: min(item[1])):
        used = f" ({threads} thread{'s' * (threads > 1)})" if threads else ""
        parts.append(f"seed{'s' * (len(known) > 1)} {', '.join(map(str, sorted(known)))} on {device}{used}")
    return "; ".join(parts)


def one(records: Iterable[Record], variant: str, seed: int) -> Record:
    """The one record of a variant and seed; raises UserError if there is none, or one in each of several data sets."""
    records = list(records)
    groups = [select(records, dataset, variant) for dataset in sorted({record["dataset"] for record in records})]
    found = [record for group in groups for record in group if record["seed"] == seed]
    if len(found) == 1:
        return found[0]
    places = ", ".join(map(describe, found)) or "none"
    raise UserError(
        f"looked for one record of {variant}, seed {seed}, found {places}; run `wsss train {variant} --seed {seed}`"
    )


def summarise(records: Sequence[Record], key: str) -> Summary:
    """Mean and sample deviation of one result over seeds.

    Raises UserError if a seed occurs twice or the records differ in images, masks, protocol, processor, threads or,
    where both know it, in any other of their data.
    """
    if not records:
        raise UserError(f"there is no record to take {key} from; run the preset first")
    for record in records[1:]:
        pair = f"{describe(record)} and {describe(records[0])}"
        for name in ("fingerprint", "protocol"):
            if record[name] != records[0][name]:
                raise UserError(f"{pair} differ in {name}; do not average them")
        if differ := differences(data_of(record), data_of(records[0])):
            raise UserError(f"{pair} differ in their data ({differ}); do not average them")
    if len({draw(record)[1:] for record in records}) > 1:
        raise UserError(f"the seeds of {describe(records[0])} ran on several processors; take a mean over one of them")
    if len({record["seed"] for record in records}) != len(records):
        raise UserError(f"a seed occurs twice among the records of {describe(records[0])}; keep one of them")
    return summary([value(record, key) for record in records])
