"""Downloads as folders: an unpacked one as it is, of a tar archive the files that are wanted; refusals in words."""

import lzma
import os
import posixpath
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from wsss.paths import UserError

LARGEST = 16 << 20
"""Bytes; no photograph, mask or annotation of VOC or SBD comes near."""
_DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError, struct.error)


@dataclass(frozen=True)
class Kind:
    """What a download is called, how it is known, and which of its files are wanted."""

    title: str
    """For sentences."""
    marker: str
    """The folder that it must hold."""
    wanted: re.Pattern[str]
    """Of a whole path: group 1 is what leads to the set, group 2 the file below it. Group 2 has neither .. nor a
    leading /, so what is unpacked stays where it belongs whatever the archive says."""


@dataclass(frozen=True)
class Source:
    """A download: the path that the user gave and the folder, unpacked, that holds the kind's marker."""

    path: Path
    folder: Path

    def rename(self, sentence: str) -> str:
        """A sentence about the folder as one about the path that the user gave."""
        return sentence.replace(str(self.folder), str(self.path)) if self.path.is_file() else sentence


VOC = Kind(
    "VOC 2012",
    "JPEGImages",
    re.compile(
        r"(.*/)?(JPEGImages/[\w-]+\.jpg|Annotations/[\w-]+\.xml|SegmentationClass/[\w-]+\.png"
        r"|ImageSets/Segmentation/[\w-]+\.txt)"
    ),
)
SBD = Kind("SBD", "cls", re.compile(r"(.*dataset/)?(cls/[\w-]+\.mat|train\.txt|val\.txt)"))


def source(path: Path, kind: Kind, scratch: Path) -> Source:
    """A download opened: a folder is searched for the kind's marker, of a tar archive (packed or not) the wanted files
    are unpacked to `scratch`. Raises UserError for anything else, and for an archive that is damaged, leaves its folder
    or holds links or devices in place of files."""
    path = Path(path)
    if path.is_dir():
        return Source(path, _find(path, kind))
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the archive of {kind.title} or the folder that it unpacks to")
    leading: set[str] = set()
    for before, name, content in _files(path, kind):
        leading.add(before)
        if len(leading) > 1:
            raise UserError(f"{path} holds more than one set: {' and '.join(sorted(leading))}; give the one of 2012")
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if not (scratch / kind.marker).is_dir():
        raise UserError(f"{path} holds no {kind.marker}, so it is not the archive of {kind.title}; download it again")
    return Source(path, scratch)


def place(origin: Path, target: Path) -> None:
    """`origin` at `target` too: a hard link where the disk allows it, else a copy."""
    try:
        os.link(origin.resolve(), target)
    except OSError:
        shutil.copyfile(origin, target)


def _find(path: Path, kind: Kind) -> Path:
    for pattern in ("", "*/", "*/*/"):
        found = [marker.parent for marker in sorted(path.glob(pattern + kind.marker)) if marker.is_dir()]
        if len(found) > 1:
            raise UserError(f"{path} holds more than one set, {found[0]} and {found[1]}; give the one of {kind.title}")
        if found:
            return found[0]
    raise UserError(f"{path} holds no folder {kind.marker}, so it is not {kind.title} unpacked; name another folder")


def _files(path: Path, kind: Kind) -> Iterator[tuple[str, str, bytes]]:
    """(what leads to the set, path below it, content) of each wanted file, in one pass."""
    try:
        with (
            path.open("rb") as raw,
            tarfile.open(fileobj=raw) as tar,
            tqdm(total=path.stat().st_size, desc=f"read {path.name}", unit="B", unit_scale=True, leave=False) as bar,
        ):
            for member in tar:
                bar.update(max(raw.tell() - bar.n, 0))
                found = kind.wanted.fullmatch(_safe_name(member, path))
                _refuse_links(member, path, bool(found))
                if found and member.isreg():
                    yield found[1] or "", found[2], _content(tar, member, path)
            _check_end(tar, raw)
    except _DAMAGED as error:
        raise UserError(f"{path} is no tar archive or is cut short ({error}); download it again") from error


def _check_end(tar: tarfile.TarFile, raw: BinaryIO) -> None:
    """A plain archive ends by its mark, since tarfile takes any odd block as the end; a packed one by its checksum."""
    if tar.fileobj is raw:
        raw.seek(tar.offset)
        if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark")
    while tar.fileobj and tar.fileobj.read(1 << 20):
        pass


def _safe_name(member: tarfile.TarInfo, path: Path) -> str:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise UserError(f"{path} is refused: its member {member.name!r} would be written outside the folder")
    return member.name.removeprefix("./")


def _refuse_links(member: tarfile.TarInfo, path: Path, wanted: bool) -> None:
    """Devices, links that lead out of the archive, and links in place of a wanted file; other links are not needed."""
    if member.issym() or member.islnk():
        start = posixpath.dirname(member.name) if member.issym() else ""
        end = posixpath.normpath(posixpath.join(start, member.linkname))
        if wanted or end.startswith(("/", "..")):
            raise UserError(f"{path} is refused: its member {member.name!r} is a link to {member.linkname!r}")
    elif not (member.isreg() or member.isdir()):
        raise UserError(f"{path} is refused: its member {member.name!r} is a device or pipe, not a file")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if member.size > LARGEST:
        raise UserError(f"{path} is refused: its member {member.name!r} claims {member.size:,} bytes")
    file = tar.extractfile(member)
    assert file is not None, "a regular file has content"
    content = file.read()
    if len(content) != member.size:
        raise EOFError(f"{member.name} has {len(content)} of {member.size} bytes")
    return content
