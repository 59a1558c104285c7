"""Settings of nested frozen dataclasses by dotted path: read, list, replace, check. Knows nothing of what they mean."""

import dataclasses
import functools
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from wsss import renamed
from wsss.paths import UserError, did_you_mean

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Bound:
    """Least and largest number that a field may be; of a tuple, each of its numbers."""

    low: int | float
    high: int | float
    rising: bool = False
    """The numbers of a tuple must not fall."""


@dataclasses.dataclass(frozen=True)
class Fraction(Bound):
    """Bound of a fraction of a run's steps."""

    low: int | float = 0
    high: int | float = 1


def get(config: Any, path: str) -> Any:
    """Value at a dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def flatten(config: Any) -> dict[str, Any]:
    """Dotted path -> value of every leaf."""
    return {path: get(config, path) for path in kinds(type(config))}


@functools.cache
def kinds(kind: Any) -> dict[str, Any]:
    """Dotted path -> annotated type of every leaf, in the order of the fields."""
    flat: dict[str, Any] = {}
    for name, inner in hints(kind).items():
        nested = kinds(inner) if dataclasses.is_dataclass(inner) else None
        flat.update({name: inner} if nested is None else {f"{name}.{path}": leaf for path, leaf in nested.items()})
    return flat


@functools.cache
def hints(kind: Any) -> dict[str, Any]:
    """Field -> its type, with its bound, in the order of the fields."""
    known = get_type_hints(kind, include_extras=True)
    return {row.name: known[row.name] for row in dataclasses.fields(kind)}


def elements(kind: Any) -> tuple[type, ...]:
    """The types of a tuple's elements, without those of an ellipsis; (bool,) of a switch; () of all else."""
    if get_origin(kind) is Annotated:
        return elements(get_args(kind)[0])
    if get_origin(kind) in (types.UnionType, Union):
        return tuple(part for inner in get_args(kind) for part in elements(inner))
    if get_origin(kind) is tuple:
        return tuple(part for part in get_args(kind) if part is not ...)
    return (bool,) if kind is bool else ()


def is_optional(kind: Any) -> bool:
    """Whether a field may be None."""
    return type(None) in get_args(get_args(kind)[0] if get_origin(kind) is Annotated else kind)


def bound_of(kind: Any) -> Bound | None:
    """The bound that a field is annotated with."""
    return next((extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Bound)), None)


def check(config: Any, steps: int = 0) -> None:
    """UserError for the first setting that is no choice or outside its bound, NaN included; `steps` of the run explain
    a fraction."""
    for path, kind in kinds(type(config)).items():
        value = get(config, path)
        if get_origin(kind) is Literal:
            _choice(value, kind, path)
        bound = bound_of(kind)
        if bound is None or value is None:
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(bound.low <= x <= bound.high for x in numbers):
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UserError(f"{path} is {shown}, but {_limits(bound, value, kind, steps)}; change --{path}")
        if bound.rising and list(numbers) != sorted(numbers):
            raise UserError(f"{path} is {value}, but must be a range, low before high; change --{path}")


def _limits(bound: Bound, value: Any, kind: Any, steps: int) -> str:
    """Second half of the sentence about a value outside its bound."""
    if isinstance(bound, Fraction) and 1 < value <= steps:
        return f"it is a fraction of the run: {value:g} of {steps} steps is {value / steps:g}"
    limits = f"must lie between {bound.low:g} and {bound.high:g}"
    limits = f"is a fraction of the run and {limits}" if isinstance(bound, Fraction) else limits
    return limits + " or be None, which is automatic" * is_optional(kind)


def override(config: T, changes: Mapping[str, Any]) -> T:
    """`config` with dotted paths replaced, e.g. {"patch_contrast.weight": 0}.

    Raises UserError for an unknown path (with the nearest one, or with what an old one is called today) or a value of
    the wrong kind.
    """
    known = kinds(type(config))
    for path, value in changes.items():
        if path not in known:
            raise UserError(unknown(path, value, known))
    return _replace(config, changes, "")


def unknown(path: str, value: Any, known: Iterable[str]) -> str:
    """Sentence about a setting that does not exist: its replacement today, or the nearest name."""
    return renamed.advice(path, value) or f"there is no setting named {path}{did_you_mean(path, known)}"


def _replace(node: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    new = {}
    for name, kind in hints(type(node)).items():
        value = getattr(node, name)
        if dataclasses.is_dataclass(value):
            inner = {k.partition(".")[2]: v for k, v in changes.items() if k.partition(".")[0] == name}
            new[name] = _replace(value, inner, f"{prefix}{name}.") if inner else value
        elif name in changes:
            new[name] = _coerce(changes[name], kind, prefix + name)
    return dataclasses.replace(node, **new)


def _coerce(value: Any, kind: Any, path: str) -> Any:
    """`value` as `kind`: numbers may come as text (YAML reads 1e-3 so), tuples as lists."""
    if get_origin(kind) is Annotated:
        return _coerce(value, get_args(kind)[0], path)
    if get_origin(kind) in (types.UnionType, Union):  # X | None
        return None if value in (None, "None", "none") else _coerce(value, get_args(kind)[0], path)
    if get_origin(kind) is Literal:
        return _choice(value, kind, path)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        items = [x for x in value.split(",") if x] if isinstance(value, str) else value
        items = list(items) if isinstance(items, Sequence) else [items]
        kinds = [parts[0]] * len(items) if parts[-1] is ... else list(parts)
        if len(items) == len(kinds):
            return tuple(_coerce(item, one, path) for item, one in zip(items, kinds, strict=True))
    elif kind is bool:
        known = {"true": True, "false": False, "1": True, "0": False}
        if str(value).lower() in known:
            return known[str(value).lower()]
    elif kind is not str or isinstance(value, str):
        try:
            result = kind(value)
            if kind is not int or float(value) == result:
                return result
        except (TypeError, ValueError, OverflowError):
            pass
    raise UserError(f"{path} must be of type {getattr(kind, '__name__', kind)}, but is {value!r}; change --{path}")


def _choice(value: Any, kind: Any, path: str) -> Any:
    if value in get_args(kind):
        return value
    raise UserError(f"{path} is {value!r}, but must be one of {', '.join(get_args(kind))}; change --{path}")


def paths(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values as dotted path -> value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(paths(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat
