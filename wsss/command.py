"""Run commands: tyro fills a typed dataclass from the command line; every fault becomes one sentence and an exit
code."""

import contextlib
import importlib
import io
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import tyro

from wsss import settings
from wsss.paths import Echo, UserError, did_you_mean, is_first
from wsss.process import Interrupted, clean_exit


@dataclass(frozen=True)
class Group:
    """Commands by name, and the usage text that is printed if no name is given."""

    usage: str
    commands: Mapping[str, Any]
    """Targets of `run`."""
    kind: str = "command"
    """Word for a name in error messages."""


def main(command: str, target: Any, arguments: Sequence[str] | None = None) -> int:
    """Run `target` with the arguments after `command` (None: those of the command line) and return the exit code.

    The target returns an exit code or a text to print. An error that a user can act on is one sentence on stderr.
    """
    try:
        with clean_exit():
            outcome = run(command, target, list(sys.argv[1:] if arguments is None else arguments))
        if isinstance(outcome, str) and is_first():
            print(outcome)
        return outcome if isinstance(outcome, int) else 0
    except Echo:  # the process that failed has printed its error
        return 1
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output, e.g. `head`, has closed it
        # Python flushes stdout once more at its exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # here and below 128 + the number of the signal, as shells report it
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}; existing files are unchanged")
    except Interrupted as stopped:
        print(f"wsss: {stopped}", file=sys.stderr)
        return 143
    except KeyboardInterrupt as stopped:
        print(f"wsss: {str(stopped) or 'stopped'}", file=sys.stderr)
        return 130


def _fail(sentence: str) -> int:
    print(f"wsss: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 1


def run(command: str, target: Any, arguments: Sequence[str]) -> int | str | None:
    """Call the command that the arguments name and return its answer. Raises UserError.

    A target is one of:

    * a frozen dataclass: its fields are the flags, their docstrings are the help, and its instance is called
    * an instance of such a class: its values are the defaults
    * a Group of targets
    * MODULE:NAME of one of these, imported only when needed
    """
    if isinstance(target, str):
        module, _, name = target.partition(":")
        target = getattr(importlib.import_module(module), name)
    if not isinstance(target, Group):
        return parse(target, arguments, command)()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(target.usage)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in target.commands:
        nearest = did_you_mean(name, target.commands)
        raise UserError(f"there is no {target.kind} named {name}{nearest}; see {command} --help")
    return run(f"{command} {name}", target.commands[name], rest)


def parse(target: Any, arguments: Sequence[str], command: str) -> Any:
    """Return an instance of the dataclass `target`, filled from the arguments after `command`. Raises UserError.

    If `target` is itself an instance, its values are the defaults. A switch alone means True. Numbers of a tuple may be
    joined by commas; texts only if `target` is an instance.
    """
    kind = target if isinstance(target, type) else type(target)
    options: dict[str, Any] = {} if kind is target else {"default": target}
    kinds, printed = settings.kinds(kind), io.StringIO()
    spelled = _spelled(arguments, kinds, only_flags=kind is not target)
    try:
        with contextlib.redirect_stderr(printed):
            value, rest = tyro.cli(
                kind,
                args=spelled,
                prog=command,
                config=(tyro.conf.FlagConversionOff,),  # --X True and --X False, no --no-X
                return_unknown_args=True,
                **options,
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(f"{_sentence(printed.getvalue())}; see {command} --help") from None
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]} is not a setting; write settings as --NAME VALUE")
    if rest:
        settings.require_known(rest[0].lstrip("-").partition("=")[0].replace("-", "_"), kinds)
    return value


_SWITCH = ("True", "False", "None")


def _spelled(arguments: Sequence[str], kinds: Mapping[str, Any], only_flags: bool) -> list[str]:
    """Rewrite the arguments as tyro reads them: True after a lone switch, and comma lists of numbers split.

    With `only_flags` the command has no positional arguments. Then the word after a switch is its value, and texts may
    be joined by commas, too.
    """
    spelled: list[str] = []
    path, kind = "", None
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        values = [argument]
        if argument.startswith("--"):
            path = name[2:].replace("-", "_")
            types = settings.types(kinds.get(path))
            kind = kinds[path] if types & {tuple, bool, NoneType} else None  # tyro reads all others as they are
            spelled.append(name if kind else argument)
            values = [value] if kind and equals else []
            alone = not only_flags or not following or following.startswith("--")
            if bool in types and not equals and alone and settings.texts(following, kind)[0] not in _SWITCH:
                values = ["True"]
        for text in values:
            whole = kind is None or (str in types and not only_flags)
            spelled += [text] if whole else settings.texts(text, kind)
            kind = kind if kind and tuple in types else None  # all others take one value
    return spelled


def _sentence(printed: str) -> str:
    """Return the error sentence from tyro's box, which is drawn with lines or with blanks.

    The sentence stands between the title, which may have a rule below it, and the next rule. Lines that are indented
    far explain options and are left out.
    """
    lines = [line.rstrip(" │").lstrip("│") for line in re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if line.strip() and set(line.strip()) <= set("─-╰╯")]
    body = lines[1 : rules[1]] if rules[:1] == [0] and rules[1:] else lines[: rules[0] if rules else None]
    return " ".join(line.strip() for line in body if not line.startswith(" " * 8)).strip().rstrip(".")
