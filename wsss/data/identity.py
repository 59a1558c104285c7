"""Which data a run belongs to: digests of the classes, image labels, masks and photographs of a list. No torch.

Digests of files are kept in the user's cache folder and hold as long as the file's size, times and inode do.
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
"""File in a run's folder: digests of the data that it was started on, as in its record."""
WATCHED = "watched "
"""Prefix of a watched list's name."""
_VERSION = 2
"""Version of the cached digests; it changes when `pictures` decodes otherwise."""
_SETTLED = 2.0
"""Seconds after which a file counts as written: the time stamps of some file systems are no finer."""
_MANY = 2000
"""Files from which on a progress bar is shown."""


def digests(split: voc.Split) -> _ListDigests:
    """sha256 of a list's ids, class names and the bytes of its photographs, and of what else was opened: image labels,
    decoded masks.

    No digest hangs on a path or on the order of the list. Raises UserError for a file that cannot be decoded: a run
    that began on a damaged file would, once that is mended, be one on other data.
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
    """Read the digests of the data that the run at `folder` was started on; empty if unknown. Raises UserError."""
    path = folder / _FILE
    if path.is_file():
        data = read_json(path)
        records.check_data(data, str(path))
        return data
    path = folder.with_name(f"{folder.name}.json")
    return records.data_of(records.load(path)) if path.is_file() else {}


def require_same(folder: Path, data: Digests, root: Path) -> None:
    """Raise UserError where the run at `folder`, begun or finished, belongs to other data than `data`, those of `root`;
    a note on stderr where an older run does not tell."""
    path = folder.with_name(f"{folder.name}.json")
    record = records.data_of(records.load(path)) if path.is_file() else {}
    known = of_run(folder)
    if differ := records.differences(known, data) or records.differences(record, data):
        raise UserError(
            f"{folder} holds a run on other data than those of {root}: {differ} differ; choose another --output, or "
            "point --data.root at the data of that run"
        )
    if not known.get("train"):
        note(
            f"note: {folder} was made before runs kept digests of their data: whether its training images and labels "
            f"are those of {root} is unknown"
        )


def claim(folder: Path, data: Digests, begun: bool) -> Digests:
    """Keep in the run's folder to which data it belongs; returns what its record says of them. What an older run that
    has `begun` was trained on stays unknown."""
    if not begun:
        write_json(folder / _FILE, data)
    return data if (folder / _FILE).is_file() else {**data, "train": {}}


@dataclass(frozen=True)
class Evaluated:
    """The data of an evaluation, beside those that its run was started on."""

    digests: _ListDigests
    """Digests of the evaluated list."""
    train: Mapping[str, str]
    """Digests of the list that the run was trained on; empty if unknown."""
    differ: str
    """Kinds that differ from the run's data; empty if none is known to."""

    def of_record(self) -> list[str]:
        """Suffix of the record's name; empty for the data of the run."""
        return [self._mark("ids", "labels", "masks", "photographs")] if self.differ else []

    def of_predictions(self) -> list[str]:
        """Suffix of the folder of predictions; empty for the photographs of the run."""
        return [self._mark("ids", "photographs")] * any(x in self.differ for x in ("photographs", "listed images"))

    def _mark(self, *kinds: str) -> str:
        return f"other-data-{records.lines_digest(self.digests.get(kind, '') for kind in kinds)[:8]}"

    def fields(self) -> dict[str, Any]:
        """Fields of the record."""
        other = {"other_data": self.differ} if self.differ else {}
        return {"data": {"train": self.train, "val": self.digests}, **other}


def evaluated(folder: Path, config: Data, listed: tuple[Path, str], measured: _ListDigests, path: Path) -> Evaluated:
    """Hold the digests `measured` of `listed`, a root and its list, against the data of the run at `folder`; of a list
    that the run did not use, against the record at `path` and, by the run's validation list, the root as a whole.

    Raises UserError where the classes are not those of the run.
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
            f"{root} has other classes than {folder} was trained for, or has them in another order; choose a set whose "
            "classes.txt names the same"
        )
    return Evaluated(measured, known.get("train", {}), records.differences(kept, lists))


def _of_pairs(ids: Sequence[str], values: Iterable[str]) -> str:
    """Digest of ids and values in pairs, as for the masks of `records.fingerprint`."""
    return records.lines_digest(f"{name} {value}" for name, value in sorted(zip(ids, values, strict=True)))


def _photograph(path: Path) -> str:
    pictures.open_photograph(path)
    return sha256(path)


def _mask(classes: int, path: Path) -> str:
    return records.mask_digest(pictures.read_mask(path, None, classes))


def _of_files(kind: str, files: Sequence[Path], compute: Callable[[Path], str]) -> list[str]:
    """compute(file) of each, from the cache where the file is as it was: a JSON file for each folder and kind of
    digest, {name: [stamp, digest]}."""
    made: dict[Path, str] = {}
    for folder in dict.fromkeys(file.parent for file in files):
        members = [file for file in files if file.parent == folder]
        store, settled = _store(kind, folder), (time.time() - _SETTLED) * 1e9
        known = _load(store)
        try:
            stamps = {file: _stamp(file) for file in members}
            fresh = [file for file in members if known.get(file.name, [])[:1] != [stamps[file]]]
            # Threads, since a process of its own would run the caller's script again.
            with pictures.quiet(), ThreadPoolExecutor(cores()) as pool:
                values = pool.map(compute, fresh)
                bar = tqdm(values, f"digest {kind}s", len(fresh), unit="file", leave=False, disable=len(fresh) < _MANY)
                new = dict(zip(fresh, bar, strict=True))
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read ({error.strerror}); replace the file") from error
        kept = {file.name: [stamps[file], digest] for file, digest in new.items() if max(stamps[file][1:3]) < settled}
        if store and kept:
            with suppress(UserError, OSError), atomic(store) as scratch:  # it costs only time
                scratch.write_text(json.dumps(known | kept), encoding="utf-8")
        made |= {file: new[file] if file in new else known[file.name][1] for file in members}
    return [made[file] for file in files]


def _stamp(file: Path) -> list[int]:
    """Size, times and inode: the time of change tells a file that was put in another's place with its size and date."""
    stat = os.stat(file)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _store(kind: str, folder: Path) -> Path | None:
    """Find the cache file of a folder; None where there is no home."""
    with suppress(RuntimeError):
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = records.lines_digest([kind, str(_VERSION), str(folder.resolve())])[:32]
        return Path(base) / "wsss" / "digests" / f"{name}.json"
    return None


def _load(store: Path | None) -> dict[str, list]:
    """{name: [stamp, digest]}; empty where it cannot be read as that."""
    try:
        content = json.loads(store.read_text(encoding="utf-8")) if store else {}
    except (OSError, ValueError):
        return {}
    whole = isinstance(content, dict) and all(isinstance(row, list) and len(row) == 2 for row in content.values())
    return content if whole else {}
