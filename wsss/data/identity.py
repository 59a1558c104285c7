"""Identity of a run's data: digests of the classes, image labels, masks and photographs of a list. No torch.

Digests of files are kept in the user's cache folder. They hold as long as the file keeps its size, times and inode.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wsss.config import Data
from wsss.data import pictures, voc
from wsss.paths import UserError, atomic, note, read_json, sha256, write_json
from wsss.process import cores
from wsss.report import records
from wsss.report.records import Digests

_ListDigests = dict[str, str]
"""Digests of one list by kind: see `records.DIGESTS`."""
_FILE = "data.json"
"""File in a run's folder: digests of the data that the run was started on, as in its record."""
WATCHED = "watched "
"""Prefix of a watched list's name."""
_VERSION = 2
"""Version of the cached digests; it must change when `pictures` decodes differently."""
_SETTLED = 2.0
"""Age in seconds from which a file's digest is cached: the time stamps of some file systems are no finer."""
_MANY = 2000
"""Number of files from which a progress bar is shown."""


def digests(split: voc.Split) -> _ListDigests:
    """Return the sha256 of a list's ids, class names, photograph files and, if opened, image labels and decoded masks.

    A digest depends neither on paths nor on the order of the list. Raises UserError for a file that cannot be decoded:
    once mended, it would make the run one on other data.
    """
    ids, classes = split.ids, split.kit.classes
    made = {"ids": records.ids_digest(ids), "classes": records.lines_digest(classes)}
    if split.labels is not None:
        made["labels"] = _of_pairs(ids, (" ".join(map(str, np.flatnonzero(row) + 1)) for row in split.labels))
    if split.masks:
        made["masks"] = _of_pairs(ids, _of_files("mask", split.masks, partial(_mask, len(classes))))
    made["photographs"] = _of_pairs(ids, _of_files("photograph", split.files, _photograph))
    return made


def of_run(folder: Path) -> Digests:
    """Return the digests of the data that the run at `folder` was started on; empty if unknown. Raises UserError."""
    path = folder / _FILE
    if path.is_file():
        data = read_json(path)
        records.check_data(data, str(path))
        return data
    path = folder.with_name(f"{folder.name}.json")
    return records.data_of(records.load(path)) if path.is_file() else {}


def require_same(folder: Path, data: Digests, root: Path) -> None:
    """Raise UserError if the run at `folder`, begun or finished, belongs to other data than `data`, the digests of
    `root`.

    If an older run does not tell, a note on stderr says so.
    """
    path = folder.with_name(f"{folder.name}.json")
    record = records.data_of(records.load(path)) if path.is_file() else {}
    known = of_run(folder)
    if differ := records.differences(known, data) or records.differences(record, data):
        raise UserError(
            f"the run in {folder} used other data than {root}: {differ} differ; choose another --output, or "
            "point --data.root at the data of that run"
        )
    if not known.get("train"):
        note(
            f"note: {folder} is too old to hold digests of its data, so it may have been trained on other images and "
            f"labels than those of {root}"
        )


def claim(folder: Path, data: Digests, begun: bool) -> Digests:
    """Write to the run's folder which data it belongs to, and return the digests for its record.

    If an older run has `begun` without this file, its training data stay unknown.
    """
    if not begun:
        write_json(folder / _FILE, data)
    return data if (folder / _FILE).is_file() else {**data, "train": {}}


@dataclass(frozen=True)
class Evaluated:
    """The data of an evaluation, compared with the data that its run was started on."""

    digests: _ListDigests
    """Digests of the evaluated list."""
    train: Mapping[str, str]
    """Digests of the list that the run was trained on; empty if unknown."""
    differ: str
    """Kinds that are known to differ from the run's data; empty if there are none."""

    def of_record(self) -> list[str]:
        """Return the suffix of the record's name; empty for the data of the run."""
        return [self._mark("ids", "labels", "masks", "photographs")] if self.differ else []

    def of_predictions(self) -> list[str]:
        """Return the suffix of the folder of predictions; empty for the photographs of the run."""
        return [self._mark("ids", "photographs")] * any(x in self.differ for x in ("photographs", "listed images"))

    def _mark(self, *kinds: str) -> str:
        return f"other-data-{records.lines_digest(self.digests.get(kind, '') for kind in kinds)[:8]}"

    def fields(self) -> dict[str, Any]:
        """Return the fields of the record."""
        other = {"other_data": self.differ} if self.differ else {}
        return {"data": {"train": self.train, "val": self.digests}, **other}


def evaluated(folder: Path, config: Data, listed: tuple[Path, str], measured: _ListDigests, path: Path) -> Evaluated:
    """Compare the digests `measured` of `listed`, a root and its list, with the data of the run at `folder`.

    A list that the run did not use is compared with the record at `path`. Then the run's validation list tells whether
    the root as a whole is the same. Raises UserError if the classes are not those of the run.
    """
    root, split = listed
    known = of_run(folder)
    used = {name[len(WATCHED) :]: row for name, row in known.items() if name.startswith(WATCHED)}
    used |= {config.train_split: known.get("train", {}), config.val_split: known.get("val", {})}
    before = records.data_of(records.load(path))["val"] if path.is_file() else {}
    kept, lists = {split: {**before, **used.get(split, {})}}, {split: measured}
    if split not in used:
        with suppress(UserError):  # a root of test images alone has no other list
            lists[config.val_split] = digests(voc.Split(root, config.val_split))
            kept[config.val_split] = used[config.val_split]
    classes = {row["classes"] for row in known.values() if "classes" in row}
    if classes - {measured["classes"]}:
        raise UserError(
            f"the classes of {root}, or their order, differ from those that {folder} was trained for; choose a data "
            "set with the same classes.txt"
        )
    return Evaluated(measured, known.get("train", {}), records.differences(kept, lists))


def _of_pairs(ids: Sequence[str], values: Iterable[str]) -> str:
    """Return the digest of ids and values in pairs, as `records.fingerprint` has it for masks."""
    return records.lines_digest(f"{name} {value}" for name, value in sorted(zip(ids, values, strict=True)))


def _photograph(path: Path) -> str:
    pictures.open_photograph(path)
    return sha256(path)


def _mask(classes: int, path: Path) -> str:
    return records.mask_digest(pictures.read_mask(path, None, classes))


def _of_files(kind: str, files: Sequence[Path], compute: Callable[[Path], str]) -> list[str]:
    """Return compute(file) of each file, from the cache if the file is unchanged.

    The cache is a JSON file for each folder and kind of digest: {name: [stamp, digest]}.
    """
    made: dict[Path, str] = {}
    for folder in dict.fromkeys(file.parent for file in files):
        members = [file for file in files if file.parent == folder]
        store, settled = _store(kind, folder), (time.time() - _SETTLED) * 1e9
        known = _load(store)
        try:
            stamps = {file: _stamp(file) for file in members}
            fresh = [file for file in members if known.get(file.name, [])[:1] != [stamps[file]]]
            # Threads, since a spawned process would run the caller's script again.
            with pictures.quiet(), ThreadPoolExecutor(cores()) as pool:
                values = pool.map(compute, fresh)
                bar = tqdm(values, f"digest {kind}s", len(fresh), unit="file", leave=False, disable=len(fresh) < _MANY)
                new = dict(zip(fresh, bar, strict=True))
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read ({error.strerror}); replace the file") from error
        kept = {file.name: [stamps[file], digest] for file, digest in new.items() if max(stamps[file][1:3]) < settled}
        if store and kept:
            with suppress(UserError, OSError), atomic(store) as scratch:  # without a cache only time is lost
                scratch.write_text(json.dumps(known | kept), encoding="utf-8")
        made |= {file: new[file] if file in new else known[file.name][1] for file in members}
    return [made[file] for file in files]


def _stamp(file: Path) -> list[int]:
    """Return the size, times and inode of a file.

    The time of change reveals a file that was put in another's place with the same size and date.
    """
    stat = os.stat(file)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _store(kind: str, folder: Path) -> Path | None:
    """Return the cache file of a folder; None if there is no home."""
    with suppress(RuntimeError):
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = records.lines_digest([kind, str(_VERSION), str(folder.resolve())])[:32]
        return Path(base) / "wsss" / "digests" / f"{name}.json"
    return None


def _load(store: Path | None) -> dict[str, list]:
    """Return a cache, {name: [stamp, digest]}; empty if the file cannot be read as one."""
    try:
        content = json.loads(store.read_text(encoding="utf-8")) if store else {}
    except (OSError, ValueError):
        return {}
    whole = isinstance(content, dict) and all(isinstance(row, list) and len(row) == 2 for row in content.values())
    return content if whole else {}
