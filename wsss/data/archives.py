"""Fetch official archives, continue an interrupted download, verify them, and open them as folders, packed or not.

The download is our own code: pooch and torchvision start from zero if a connection breaks, and these files have
gigabytes.
"""

import hashlib
import http.client
import lzma
import os
import re
import shutil
import struct
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from wsss.paths import UserError

_LARGEST = 16 << 20
"""Largest number of bytes of a file in an archive; no photograph, mask or annotation of VOC or SBD comes near."""
_DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError, struct.error)
_BROKEN = (OSError, http.client.HTTPException, EOFError)
"""Errors of a connection that fails; URLError and TimeoutError are OSErrors."""


@dataclass(frozen=True)
class Archive:
    """An official archive."""

    name: str
    url: str
    md5: str = ""
    """Empty if no checksum is known: then only the length that the server announces is verified."""


# Addresses and checksums: torchvision/datasets/voc.py (DATASET_YEAR_DICT["2012"]) and torchvision/datasets/sbd.py
# (SBDataset) of torchvision 0.29. It knows no address of the test photographs, which need an account.
OFFICIAL = {
    "voc": Archive(
        "VOCtrainval_11-May-2012.tar",
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "6cd6e144f989b92b3379bac3b3de84fd",
    ),
    "sbd": Archive(
        "benchmark.tgz",
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        "82b4d87ceb2ed10f6038a1cba92111cb",
    ),
}


class _Failed(Exception):
    """Failure of an attempt that may be tried again; the message says why."""


def fetch(archive: Archive, folder: Path, *, timeout: float = 30.0, attempts: int = 5, pause: float = 2.0) -> Path:
    """Fetch the archive to `folder` and return its path; a file that is there is used, and an unfinished part is
    continued.

    An attempt fails after `timeout` seconds without a byte. After `attempts` failures in a row that get no further, it
    gives up. It waits `pause` seconds after the first of them, and twice as long after each later one. Raises UserError
    if the server fails or the disk is full, and leaves NAME.part to continue from. A download with another md5 is
    deleted.
    """
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.is_file():
        if digest := _other_md5(archive, target):
            raise UserError(f"{target} has the md5 {digest}, not {archive.md5}; delete it, then fetch it again")
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        left, failures, furthest = _size(part), 0, _size(part)
        while True:
            try:
                _attempt(archive, part, timeout)
                if not left or not _other_md5(archive, part):
                    break
                part.unlink()  # its earlier bytes may be of another file: start from zero
                left = failures = furthest = 0
            except _Failed as error:
                failures = failures + 1 if _size(part) <= furthest else 1
                furthest = max(furthest, _size(part))
                if failures >= attempts:
                    raise UserError(
                        f"{archive.url} could not be fetched: {error}; {_size(part):,} bytes are kept in {part}; "
                        "run the command again to continue"
                    ) from error
                time.sleep(pause * 2 ** (failures - 1))
        if digest := _other_md5(archive, part):
            part.unlink()
            raise UserError(f"{archive.url} sent a file with the md5 {digest}, not {archive.md5}; it was deleted")
        os.replace(part, target)
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; run the command again to continue"
        ) from error
    if not archive.md5:
        print(f"{target}: no checksum is known, so only its length was verified")
    return target


def _other_md5(archive: Archive, path: Path) -> str:
    """Return the file's md5 if it is not the archive's known one, else nothing."""
    if not archive.md5:
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    return digest if digest != archive.md5 else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _attempt(archive: Archive, part: Path, timeout: float) -> None:
    """Request the missing bytes once. Raises _Failed if another attempt may help, else UserError."""
    start = _size(part)
    headers = {"User-Agent": "wsss", "Accept-Encoding": "identity"}  # compressed bytes would fit no range
    request = urllib.request.Request(archive.url, headers=headers | ({"Range": f"bytes={start}-"} if start else {}))
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing is missing, or the part is longer than the file
            if error.headers.get("Content-Range", "") == f"bytes */{start}":
                return
            part.unlink()
            raise _Failed("the part was longer than the file") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Failed(f"the server answers {error.code} {error.reason}") from error
        raise UserError(f"{archive.url} cannot be fetched: the server answers {error.code} {error.reason}") from error
    except _BROKEN as error:
        raise _Failed(_reason(error)) from error
    with response:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if response.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not span or int(span[1]) != start:
                raise _Failed("the server sent a range that was not asked for")
            total = None if span[2] == "*" else int(span[2])
        else:
            start = 0  # the server ignores Range and sends the whole file
        if total is None and not archive.md5:
            raise UserError(f"{archive.url} announces no length and no checksum is known, so it cannot be verified")
        _receive(response, part, start, total)


def _receive(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    """Write the body to the part from `start`. Raises _Failed if it ends early, UserError if the disk is too small."""
    # A part that is overwritten gives its own bytes back.
    free = shutil.disk_usage(part.parent).free + (_size(part) if not start else 0)
    if total is not None and total - start > free:
        raise UserError(f"cannot write {part}: {total - start:,} bytes are missing, but the disk has {free:,} free")
    with (
        part.open("r+b" if start else "wb") as file,
        tqdm(
            desc=f"download {part.stem}", initial=start, total=total, unit="B", unit_scale=True, unit_divisor=1024
        ) as bar,
    ):
        file.seek(start)
        file.truncate()
        while True:
            try:
                block = response.read1(1 << 18)
            except _BROKEN as error:
                raise _Failed(_reason(error)) from error
            if not block:
                break
            file.write(block)
            bar.update(len(block))
        end = file.tell()
    if total is not None and end != total:
        raise _Failed(f"the connection ended after {end:,} of the {total:,} bytes announced")


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "the server is silent"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


# Archives as folders.


@dataclass(frozen=True)
class _Kind:
    """A kind of download: its title, a folder that it must hold, and the files that are wanted."""

    title: str
    marker: str
    """The folder that it must hold."""
    wanted: re.Pattern[str]
    """Pattern of a whole path: group 1 leads to the set, group 2 is the file below it. Group 2 has neither .. nor a
    leading /, so unpacked files stay in their folder whatever the archive says."""


TRAINVAL = _Kind(
    "VOC 2012",
    "JPEGImages",
    re.compile(
        r"(.*/)?(JPEGImages/[\w-]+\.jpg|Annotations/[\w-]+\.xml|SegmentationClass/[\w-]+\.png"
        r"|ImageSets/Segmentation/[\w-]+\.txt)"
    ),
)
SBD = _Kind("SBD", "cls", re.compile(r"(.*dataset/)?(cls/[\w-]+\.mat|train\.txt|val\.txt)"))


def unpack(path: Path, kind: _Kind, scratch: Path) -> Path:
    """Return the folder with the files of a download.

    If `path` is a folder, this is the one below it (or itself) that holds the kind's marker. If `path` is a tar
    archive, packed or not, this is `scratch`, to which the wanted files are unpacked. Raises UserError for anything
    else, and for an archive that is damaged, leaves its folder, or holds links or devices in place of files.
    """
    if path.is_dir():
        for pattern in ("", "*/", "*/*/"):
            sets = [marker.parent for marker in sorted(path.glob(pattern + kind.marker)) if marker.is_dir()]
            if len(sets) > 1:
                raise UserError(
                    f"{path} holds more than one set, {sets[0]} and {sets[1]}; give the one of {kind.title}"
                )
            if sets:
                return sets[0]
        raise UserError(
            f"{path} holds no folder {kind.marker}, so it is not {kind.title} unpacked; name another folder"
        )
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the archive of {kind.title} or the folder that it unpacks to")
    leading: set[str] = set()
    for before, name, content in _wanted_files(path, kind, scratch):
        leading.add(before)
        if len(leading) > 1:
            raise UserError(f"{path} holds more than one set: {' and '.join(sorted(leading))}; give the one of 2012")
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(content)
    if not (scratch / kind.marker).is_dir():
        raise UserError(f"{path} holds no {kind.marker}, so it is not the archive of {kind.title}; download it again")
    return scratch


def place(origin: Path, target: Path) -> None:
    """Put `origin` at `target` too: a hard link if the disk allows it, else a copy."""
    try:
        os.link(origin.resolve(), target)  # to the file itself, not to a symbolic link
    except OSError:
        shutil.copyfile(origin, target)


def _wanted_files(path: Path, kind: _Kind, scratch: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield (path to the set, path below it, content) of each wanted file, in one pass."""
    try:
        with (
            path.open("rb") as raw,
            tarfile.open(fileobj=raw) as tar,
            tqdm(total=path.stat().st_size, desc=f"read {path.name}", unit="B", unit_scale=True, leave=False) as bar,
        ):
            for member in tar:
                bar.update(max(raw.tell() - bar.n, 0))
                wanted = kind.wanted.fullmatch(member.name.removeprefix("./"))
                try:
                    tarfile.data_filter(member, str(scratch))  # refuses paths and links out of the folder, and devices
                except tarfile.FilterError as error:
                    raise UserError(f"{path} is refused: {error}") from error
                if not wanted or member.isdir():
                    continue
                if not member.isreg():
                    raise UserError(f"{path} is refused: its member {member.name!r} is a link to {member.linkname!r}")
                if member.size > _LARGEST:
                    raise UserError(f"{path} is refused: its member {member.name!r} claims {member.size:,} bytes")
                content = tar.extractfile(member).read()
                if len(content) != member.size:
                    raise EOFError(f"{member.name} has {len(content)} of {member.size} bytes")
                yield wanted[1] or "", wanted[2], content
            # Is it whole? tarfile takes any odd block as the end, so a plain archive must end in its mark. A packed one
            # is read to its end, where its checksum is.
            if tar.fileobj is raw:
                raw.seek(tar.offset)
                if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no end mark")
            while tar.fileobj.read(1 << 20):
                pass
    except _DAMAGED as error:
        raise UserError(f"{path} is not a tar archive or is cut short ({error}); download it again") from error
