"""What every command of the command line shares: words to a dataclass, by tyro; every fault is one sentence."""

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from wsss import renamed, settings
from wsss.paths import UserError, note

T = TypeVar("T")
SWITCH = {"true": "True", "1": "True", "false": "False", "0": "False", "none": "None"}
"""Values of a switch, as tyro spells them."""


def parse(kind: Callable[..., T], words: Sequence[str], command: str, default: T | None = None) -> T:
    """`kind`, a dataclass whose docstrings are the help, filled from the words after `wsss COMMAND`.

    A switch may stand alone for True; numbers of a tuple, and with a `default` its words, may be joined by commas. What
    once stood for automatic (`--model.depth 0`) is None, and a line on stderr says so. Raises UserError.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    kinds, printed = settings.kinds(kind), io.StringIO()
    spelled = _spelled(_automatic(words, kinds), kinds, bare=default is not None)
    try:
        with contextlib.redirect_stderr(printed):
            value, unknown = tyro.cli(
                kind,
                args=spelled,
                prog=f"wsss {command}",
                config=(tyro.conf.FlagConversionOff,),
                return_unknown_args=True,
                **options,
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(f"{_sentence(printed.getvalue())}; see wsss {command} --help") from None
    if unknown:
        raise UserError(_unknown(unknown, kinds))
    return value


def _spelled(words: Sequence[str], kinds: Mapping[str, Any], bare: bool) -> list[str]:
    """The words as tyro takes them: True after a switch that stands alone, tuples without commas.

    `bare`: the command has no words but settings, so that a word after a switch is its value, and words may be joined
    by commas as numbers are.
    """
    spelled: list[str] = []
    kind: tuple[type, ...] = ()
    for word, after in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        values = [word]
        if word.startswith("--"):
            kind = settings.elements(kinds.get(name[2:].replace("-", "_")))
            spelled.append(name if kind else word)
            values = [value] if kind and equals else []
            ends = not after or after.startswith("--") or not bare
            if bool in kind and not equals and ends and after.lower() not in SWITCH:
                values = ["True"]
        for text in values:
            if bool in kind:
                spelled.append(SWITCH.get(text.lower(), text))
                kind = ()  # a switch has one value
            elif {int, float, str} & set(kind) and (bare or str not in kind):
                plain = text if str in kind else text.strip("()[] ")  # as the names of variants have them
                spelled += [part.strip() for part in plain.split(",") if part.strip()]
            else:
                spelled.append(text)
    return spelled


def _automatic(words: Sequence[str], kinds: Mapping[str, Any]) -> list[str]:
    """The words with None for what stood for it in earlier versions, and for "none"."""
    new = list(words)
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        path, value = name[2:].replace("-", "_"), value if equals else "".join(words[place + 1 : place + 2])
        if not name.startswith("--") or not settings.is_optional(kinds.get(path)):
            continue
        old = renamed.replacement(path, value) == {path: None}
        if old and value != "None":
            note(f"note: --{path} {value} is automatic, which is None today")
        if old or value in ("none", "NONE"):
            new[place : place + 2 - bool(equals)] = [f"{name}=None"] if equals else [name, "None"]
    return new


def _sentence(printed: str) -> str:
    """What tyro says in a box of lines or of blanks: what stands between its title, perhaps ruled off, and its next
    rule, without the explanations of options, which stand far in."""
    lines = [line.rstrip(" │").lstrip("│") for line in re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if line.strip() and set(line.strip()) <= set("─-╰╯")]
    body = lines[1 : rules[1]] if rules[:1] == [0] and rules[1:] else lines[: rules[0] if rules else None]
    return " ".join(line.strip() for line in body if not line.startswith(" " * 8)).strip().rstrip(".")


def _unknown(words: Sequence[str], kinds: Mapping[str, Any]) -> str:
    """The sentence about words that are no setting."""
    if not words[0].startswith("-"):
        return f"{words[0]} is no setting; settings are written --NAME VALUE"
    name, _, value = words[0].lstrip("-").partition("=")
    return settings.unknown(name.replace("-", "_"), value or ",".join(words[1:2]), kinds)
