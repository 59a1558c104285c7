"""Names of images and classes: one rule each, for every list, label file and folder.

* Names are compared in Unicode's composed form (NFC), whatever the file system or the editor wrote.
* A file or folder whose name begins with a dot does not belong to a data set.
* An id is a file's path below its folder, without suffix; it may hold folders and blanks.
* A line of a list is an id if such a file exists. Otherwise "#" and a comment may follow the id; or, on all lines, 1, 0
  or -1, as in VOC's lists of a class.
* Names of classes differ in more than case, blanks, "_" and "-", and none is the background. "#" begins a comment on
  their lines, too. Numbers before the names must be the classes' own.
"""

import functools
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from wsss.config import IGNORE
from wsss.paths import UserError, did_you_mean

PHOTOGRAPHS = (".jpg", ".png", ".jpeg")
"""Suffixes of a data set's photographs, in any case; if an id has several files, the first suffix counts."""
MASKS = (".png",)
_LONGEST_ID = 200
"""Largest number of characters of an id; file systems refuse names of more than 255 bytes."""
_BACKGROUND = {"background", "bg", "ignore", "ignored", "void", "unlabeled", "unlabelled", "dontcare", "none", "null"}
"""Names that are no class, compared by their small letters alone: "0: __Background__" is one of them, "void/background"
is two."""
_BESIDE = {"area", "class", "label", "or", "pixels", "region"}
"""Words that may stand beside those and make no class either: "ignore_region"."""
_NUMBERED = re.compile(r"(\d+)\s*[:;,.)=\s-]\s*\D.*")
_FLAG = re.compile(r"(\S.*?)\s+-?[01]")
_COMMENT = re.compile(r"(^|\s+)#.*")


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped. Raises UserError if the file is no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its name") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as text ({error}); save it as UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


# Files.


def hidden(path: Path | str) -> bool:
    """Return whether a relative path or a part of it begins with a dot."""
    return any(part.startswith(".") for part in Path(path).parts)


def files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return id -> file, sorted by id, of the files at any depth with one of the `suffixes`."""
    ranked: list[tuple[str, int, str]] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        above = "" if Path(parent) == folder else Path(parent).relative_to(folder).as_posix() + "/"
        for name in names:
            stem, suffix = os.path.splitext(above + name)
            if not name.startswith(".") and suffix.lower() in suffixes:
                ranked.append((composed(stem), suffixes.index(suffix.lower()), stem + suffix))
    first = {name: relative for name, _, relative in sorted(ranked, reverse=True)}
    return {name: folder / relative for name, relative in sorted(first.items())}


def find(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    """Return the file of an id, or None."""
    for suffix in suffixes:  # the usual case, without listing the whole folder
        if (path := folder / (name + suffix)).is_file():
            return path
    return _files(folder, tuple(suffixes), folder.stat().st_mtime_ns).get(composed(name)) if folder.is_dir() else None


@functools.lru_cache(maxsize=16)
def _files(folder: Path, suffixes: Sequence[str], _changed: int) -> Mapping[str, Path]:  # a changed folder is reread
    return files(folder, suffixes)


# Ids.


def read_ids(path: Path, folder: Path, suffixes: Sequence[str] = PHOTOGRAPHS) -> list[str]:
    """Return the ids of a list in its order; they name files of `folder`.

    An id without blanks may lack its file. Raises UserError if the list is empty, repeats an id or holds a line that is
    none.
    """
    lines = read_lines(path)
    flagged = all(_FLAG.fullmatch(line) and not find(folder, line, suffixes) for line in lines)
    ids = [name for line in lines if (name := _id(path, line, flagged, (folder, suffixes)))]
    if not ids:
        raise UserError(f"the list {path} is empty; put one image id on each line")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))
        raise UserError(f"the list {path} names {twice} more than once; keep one line of it")
    return ids


def _id(path: Path, line: str, flagged: bool, place: tuple[Path, Sequence[str]]) -> str:
    """Return the id of a line; nothing for a comment. Raises UserError."""
    if len(line.split()) == 1 and can_be_id(line) and not line.startswith("#"):
        return composed(line)
    flag = _FLAG.fullmatch(line)
    for name in (line, _COMMENT.sub("", line), flag[1] if flag and flagged else line):
        if can_be_id(name) and find(place[0], name, place[1]):
            return composed(name)
    if line.startswith("#"):
        return ""
    if not can_be_id(line):
        raise UserError(
            f"the list {path} names {line[:20]!r}, which is not an image id; put one on each line: a path below "
            f"{place[0].name}, without suffix, of parts that do not begin with a dot"
        )
    raise UserError(
        f"the list {path} names {line!r}, but {place[0]} holds no such file; an id with blanks must fill its "
        "line: the file's name without suffix"
    )


def can_be_id(name: str) -> bool:
    """Return whether a name may be an id: neither absolute, nor above its folder, nor hidden, nor too long, nor of odd
    letters."""
    plain = all(letter.isprintable() or letter.isspace() for letter in name)
    return plain and len(name) <= _LONGEST_ID and all(name.split("/")) and not hidden(name)


def label_lines(path: Path, ids: Collection[str]) -> tuple[dict[str, str], str]:
    """Read a file of image labels: return id -> the rest of its line, and a sentence on images with two lines.

    The id is the longest beginning of the line that is one of `ids`, else the line's first word.
    """
    rows: dict[str, str] = {}
    twice: dict[str, None] = {}
    blanks = any(len(name.split()) > 1 for name in ids)
    for line in read_lines(path):
        ends = [len(line.split(maxsplit=1)[0])]
        if blanks:
            ends = [len(line), *(gap.start() for gap in reversed(list(re.finditer(r"\s+", line))))]
        end = next((end for end in ends if composed(line[:end]) in ids), ends[-1])
        name = composed(line[:end])
        twice |= {name: None} if name in rows else {}
        rows[name] = line[end:].strip()
    many = f"{path} names {len(twice)} images more than once, first {next(iter(twice))}" if twice else ""
    return rows, many


# Classes.


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the foreground classes, one per line; the first is the class of the value 1. Raises UserError."""
    lines = [name for line in read_lines(path) if (name := class_name(_COMMENT.sub("", line)))]
    classes = check_classes(lines, str(path), "that line")
    numbers = [int(match[1]) for name in classes if (match := _NUMBERED.fullmatch(name))]
    places = list(range(1, len(classes) + 1))
    if numbers != places and sorted(numbers) in (places, [place - 1 for place in places]):
        wrong = next(place for place in places if numbers[place - 1] != place)
        raise UserError(
            f"{path} numbers its classes, but only their order counts: {classes[wrong - 1]!r} is the class of the "
            f"value {wrong}; order the names by their values in the masks, from 1, and remove the numbers"
        )
    return classes


def class_name(text: str) -> str:
    """Return a class name in composed form, its words separated by single blanks."""
    return " ".join(composed(text).split())


def unknown_class(name: str, classes: Collection[str]) -> str:
    """Return half a sentence on a name that is none of the `classes`, with advice."""
    return f"the class {name!r}, which is not among the classes{did_you_mean(name, classes) or '; correct it'}"


def check_classes(classes: Sequence[str], where: str, entry: str) -> tuple[str, ...]:
    """Return `classes`. Raises UserError unless they are 1 to 254 names that differ, without background.

    `where` is the file that names them, `entry` the thing to take out of it to drop a class.
    """
    background = next(filter(_is_background, classes), "")
    if background:
        raise UserError(
            f"{where} names {background!r}, which is not a class; remove {entry}, since the values 0 (background) and "
            f"{IGNORE} (ignored) need no names, and put the class of the value 1 first"
        )
    plain = {_plain(name): name for name in classes}
    if not classes or len(plain) < len(classes) or len(classes) >= IGNORE:
        alike = next(((plain[_plain(name)], name) for name in classes if plain[_plain(name)] != name), ())
        same = f" ({alike[0]!r} and {alike[1]!r} are alike)" if alike else ""
        raise UserError(f"{where} must name 1 to 254 different classes, without background{same}; correct it")
    return tuple(classes)


def _is_background(name: str) -> bool:
    """Return whether the name, or each of its words, is one of _BACKGROUND."""
    parts = re.findall(r"[^\W\d_]+", name.casefold())
    return "".join(parts) in _BACKGROUND or (set(parts) <= _BACKGROUND | _BESIDE and not set(parts) <= _BESIDE)


def _plain(name: str) -> str:
    """Return a class name without case, blanks, "_" and "-"; names with the same rest are alike."""
    return re.sub(r"[\s_-]+", "", composed(name).casefold())


def parse_classes(text: str, classes: tuple[str, ...]) -> list[str]:
    """Return the class names in `text`, separated by blanks; a name may hold blanks itself.

    Raises ValueError that says what is wrong.
    """
    pieces = composed(text).split()
    longest = max((name.count(" ") + 1 for name in classes), default=1)
    ways = list(islice(_ways(pieces, classes, longest), 2))
    if len(ways) == 1:
        return ways[0]
    if ways:
        raise ValueError(f"classes that can be read as {ways[0]} and as {ways[1]}; write _ for blanks in names")
    known = {word for name in classes for word in name.split()}
    unknown = next((piece for piece in pieces if piece not in known), " ".join(pieces))
    raise ValueError(unknown_class(unknown, classes))


def _ways(pieces: Sequence[str], classes: Collection[str], longest: int) -> Iterator[list[str]]:
    """Yield all readings of the pieces as class names, the longer name first."""
    if not pieces:
        yield []
    for count in range(min(longest, len(pieces)), 0, -1):
        if (name := " ".join(pieces[:count])) in classes:
            yield from ([name, *rest] for rest in _ways(pieces[count:], classes, longest))
