"""What all commands share: tyro turns words into a typed dataclass; every fault is one sentence and an exit code."""

import contextlib
import importlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeVar

import tyro

from wsss import settings
from wsss.interrupt import Interrupted
from wsss.paths import Echo, UserError, did_you_mean, is_first, note

T = TypeVar("T")
Outcome = int | str | None
"""An exit code, or what is to be printed."""


@dataclass(frozen=True)
class Group:
    """Commands by name, and the usage that is printed where none is named."""

    usage: str
    commands: Mapping[str, Any]
    """Of each a Target."""


Target = Group | type | Callable[[Sequence[str]], Outcome] | str
"""What does the work: a frozen dataclass, whose fields are the flags, whose docstrings are their help, and which is
called; a function of the words; a group of commands; or one of them as MODULE:NAME, which is imported when needed."""


def main(command: str, target: Target, words: Sequence[str] | None = None) -> int:
    """Do what the words after `command` say (None: those of the command line) and return the exit code.

    Each error that a user can act on is one sentence on stderr.
    """
    try:
        outcome = run(command, target, list(sys.argv[1:] if words is None else words))
        if isinstance(outcome, str) and is_first():
            print(outcome)
        return outcome if isinstance(outcome, int) else 0
    except Echo:
        return 1
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}; what was there is untouched")
    except Interrupted as stopped:
        print(f"wsss: {stopped}", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("wsss: stopped", file=sys.stderr)
        return 130


def _fail(sentence: str) -> int:
    print(f"wsss: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 1


def run(command: str, target: Target, words: Sequence[str]) -> Outcome:
    """Do what the words after `command` say. Raises UserError."""
    if isinstance(target, str):
        module, _, name = target.partition(":")
        target = getattr(importlib.import_module(module), name)
    if isinstance(target, type):
        return parse(target, words, command)()
    if not isinstance(target, Group):
        return target(words)
    if not words or words[0] in ("-h", "--help"):
        print(target.usage)
        return 0 if words else 2
    if words[0] not in target.commands:
        nearest = did_you_mean(words[0], target.commands)
        raise UserError(f"there is no command named {words[0]}{nearest}; see {command} --help")
    return run(f"{command} {words[0]}", target.commands[words[0]], words[1:])


def parse(kind: Callable[..., T], words: Sequence[str], command: str, default: T | None = None) -> T:
    """Fill `kind`, a dataclass whose docstrings are the help, from the words after `command`.

    A switch may stand alone for True; numbers of a tuple, and with a `default` its words, may be joined by commas. What
    once stood for automatic (`--model.depth 0`) is None, and a line on stderr says so. Raises UserError.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    kinds, printed = settings.kinds(kind), io.StringIO()
    spelled = _spelled(words, kinds, bare=default is not None)  # before stderr is tyro's alone, since it may print
    try:
        with contextlib.redirect_stderr(printed):
            value, rest = tyro.cli(
                kind,
                args=spelled,
                prog=command,
                config=(tyro.conf.FlagConversionOff,),
                return_unknown_args=True,
                **options,
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(f"{_sentence(printed.getvalue())}; see {command} --help") from None
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]} is no setting; settings are written --NAME VALUE")
    if rest:
        name, _, value = rest[0].lstrip("-").partition("=")
        raise UserError(settings.unknown(name.replace("-", "_"), value or ",".join(rest[1:2]), kinds))
    return value


def _spelled(words: Sequence[str], kinds: Mapping[str, Any], bare: bool) -> list[str]:
    """Spell the words as tyro takes them: True after a switch that stands alone, numbers that commas join apart, None
    for what once stood for automatic.

    `bare`: the command has no words but settings, so that a word after a switch is its value, and words may be joined
    by commas as numbers are.
    """
    spelled: list[str] = []
    path, kind = "", None
    for word, after in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        values = [word]
        if word.startswith("--"):
            path = name[2:].replace("-", "_")
            made_of = settings.types(kinds.get(path))
            kind = kinds[path] if made_of & {tuple, bool, NoneType} else None
            spelled.append(name if kind else word)
            values = [value] if kind and equals else []
            alone = not bare or not after or after.startswith("--")
            if bool in made_of and not equals and alone and settings.texts(after, kind)[0] not in _SWITCH:
                values = ["True"]
        for text in values:
            if kind and settings.replacement(path, text) == {path: None}:
                note(f"note: --{path} {text} is automatic, which is None today")
                text = "None"
            whole = kind is None or (str in made_of and not bare)
            spelled += [text] if whole else settings.texts(text, kind)
            kind = kind if kind and tuple in made_of else None  # all others have one value
    return spelled


_SWITCH = ("True", "False", "None")


def _sentence(printed: str) -> str:
    """Take the sentence out of tyro's box, which is drawn in lines or in blanks.

    It stands between the title, which may be ruled off, and the next rule. Explanations of options are indented far
    and left out.
    """
    lines = [line.rstrip(" │").lstrip("│") for line in re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if line.strip() and set(line.strip()) <= set("─-╰╯")]
    body = lines[1 : rules[1]] if rules[:1] == [0] and rules[1:] else lines[: rules[0] if rules else None]
    return " ".join(line.strip() for line in body if not line.startswith(" " * 8)).strip().rstrip(".")
