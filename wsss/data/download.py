"""Fetching the official archives: progress, resumed by Range requests, length and md5 verified, moved when whole."""

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wsss.paths import UserError

BLOCK = 1 << 18
_BROKEN = (OSError, http.client.HTTPException, EOFError)
"""What a connection that fails raises; URLError and TimeoutError are OSErrors."""


@dataclass(frozen=True)
class Archive:
    """An official archive."""

    name: str
    url: str
    md5: str = ""
    """Empty where no checksum is known: then only the length that the server announces is verified."""


# Addresses and checksums: torchvision/datasets/voc.py (DATASET_YEAR_DICT["2012"]) and torchvision/datasets/sbd.py
# (SBDataset) of torchvision 0.29. It knows no address of the test photographs, which need an account.
VOC = Archive(
    "VOCtrainval_11-May-2012.tar",
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
)
SBD = Archive(
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server."""

    timeout: float = 30.0
    """Seconds without a byte."""
    attempts: int = 5
    """Failures in a row that do not get further than before."""
    pause: float = 2.0
    """Seconds before the second attempt; doubled for each that follows."""


class _Failed(Exception):
    """An attempt that may be tried again, and why it failed."""


def fetch(archive: Archive, folder: Path, patience: Patience | None = None) -> Path:
    """The archive in `folder`, fetched if it is not there; a part that an earlier try left is continued.

    Raises UserError, and leaves NAME.part to continue from, if the server fails or the disk is full; a file with
    another md5 is deleted.
    """
    patience = patience or Patience()
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.is_file():
        if archive.md5 and (found := _md5(target)) != archive.md5:
            raise UserError(f"{target} has the md5 {found}, not {archive.md5}; delete it, then fetch it again")
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        continued = part.is_file() and part.stat().st_size > 0
        _complete(archive, part, patience)
        if continued and archive.md5 and _md5(part) != archive.md5:
            part.unlink()  # what was there may have been another file's
            _complete(archive, part, patience)
        if archive.md5 and (found := _md5(part)) != archive.md5:
            part.unlink()
            raise UserError(f"{archive.url} sent a file with the md5 {found}, not {archive.md5}; it was deleted")
        os.replace(part, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; the same command continues") from error
    if not archive.md5:
        print(f"{target}: no checksum is known, so only its length was verified")
    return target


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _complete(archive: Archive, part: Path, patience: Patience) -> None:
    """Attempts until the part is whole."""
    failures, furthest = 0, _size(part)
    while True:
        try:
            return _attempt(archive, part, patience.timeout)
        except _Failed as error:
            failures = failures + 1 if _size(part) <= furthest else 1
            furthest = max(furthest, _size(part))
            if failures >= patience.attempts:
                raise UserError(
                    f"{archive.url} could not be fetched: {error}; {_size(part):,} bytes are kept in {part}, the same "
                    "command continues"
                ) from error
            time.sleep(patience.pause * 2 ** (failures - 1))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _attempt(archive: Archive, part: Path, timeout: float) -> None:
    """One request for what is missing. Raises _Failed where another may help, UserError where none can."""
    offset = _size(part)
    headers = {"User-Agent": "wsss", "Accept-Encoding": "identity"}
    request = urllib.request.Request(archive.url, headers=headers | ({"Range": f"bytes={offset}-"} if offset else {}))
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # nothing is missing, or the part is longer than the file
            return _past_the_end(str(error.headers.get("Content-Range", "")), part)
        if error.code in (408, 429) or error.code >= 500:
            raise _Failed(f"the server answers {error.code} {error.reason}") from error
        raise UserError(f"{archive.url} cannot be fetched: the server answers {error.code} {error.reason}") from error
    except _BROKEN as error:
        raise _Failed(_words(error)) from error
    with response:
        start, total = _extent(response, offset)
        if total is None and not archive.md5:
            raise UserError(f"{archive.url} announces no length and no checksum is known, so it cannot be verified")
        _refuse_small_disk(part, start, total)
        _receive(response, part, start, total)


def _past_the_end(span: str, part: Path) -> None:
    """The server has nothing after the part: it is whole, or is no part of this file and goes."""
    if span != f"bytes */{_size(part)}":
        part.unlink()
        raise _Failed("the part was longer than the file")


def _extent(response: Any, offset: int) -> tuple[int, int | None]:
    """(where the body starts in the file, length of the whole file if announced)."""
    length = response.headers.get("Content-Length", "")
    if response.status != 206:  # the server ignores Range and starts anew
        return 0, int(length) if length.isdecimal() else None
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not span or int(span[1]) != offset:
        raise _Failed("the server sends another range than was asked for")
    return offset, None if span[2] == "*" else int(span[2])


def _refuse_small_disk(part: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free + (_size(part) if not start else 0)
    if total is not None and total - start > free:
        raise UserError(f"cannot write {part}: {total - start:,} bytes are to come, but the disk has {free:,} left")


def _receive(response: Any, part: Path, start: int, total: int | None) -> None:
    """The body to the part from `start`; _Failed if it ends early or never comes."""
    with (
        part.open("r+b" if start else "wb") as file,
        tqdm(
            desc=f"download {part.stem}", initial=start, total=total, unit="B", unit_scale=True, unit_divisor=1024
        ) as bar,
    ):
        file.seek(start)
        file.truncate()
        while block := _read(response):
            file.write(block)
            bar.update(len(block))
        end = file.tell()
    if total is not None and end != total:
        raise _Failed(f"the connection ended after {end:,} of the {total:,} bytes announced")


def _read(response: Any) -> bytes:
    try:
        return response.read1(BLOCK)
    except _BROKEN as error:
        raise _Failed(_words(error)) from error


def _words(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "the server is silent"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
