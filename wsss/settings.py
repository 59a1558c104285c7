"""Settings of nested frozen dataclasses by dotted path: read, list, replace, check."""

import dataclasses
import functools
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from tyro.constructors import ConstructorRegistry, PrimitiveTypeInfo

from wsss.paths import UserError, did_you_mean

_T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Bound:
    """Smallest and largest value of a field; for a tuple, of each of its numbers."""

    low: int | float
    high: int | float
    rising: bool = False
    """Whether the numbers of a tuple must be in ascending order."""


@dataclasses.dataclass(frozen=True)
class Fraction(Bound):
    """Bound of a fraction of a run's steps."""

    low: int | float = 0
    high: int | float = 1


def get(config: Any, path: str) -> Any:
    """Return the value at a dotted path."""
    return functools.reduce(getattr, path.split("."), config)


def flatten(config: Any) -> dict[str, Any]:
    """Map the dotted path of every leaf to its value."""
    return {path: get(config, path) for path in kinds(type(config))}


@functools.cache
def kinds(kind: Any) -> dict[str, Any]:
    """Map the dotted path of every leaf to its annotated type, in the order of the fields."""
    flat: dict[str, Any] = {}
    hints = get_type_hints(kind, include_extras=True)
    for name in (field.name for field in dataclasses.fields(kind)):
        inner = hints[name]
        nested = kinds(inner) if dataclasses.is_dataclass(inner) else None
        flat |= {name: inner} if nested is None else {f"{name}.{path}": leaf for path, leaf in nested.items()}
    return flat


def types(kind: Any) -> frozenset[type]:
    """Split a leaf's type into plain ones: tuple, float and NoneType for `tuple[float, ...] | None`."""
    if get_origin(kind) is Annotated:
        return types(get_args(kind)[0])
    if get_origin(kind) in (None, Literal):
        return frozenset({kind} if isinstance(kind, type) else ())
    return frozenset({tuple} & {get_origin(kind)}).union(*map(types, get_args(kind)))


def bound_of(kind: Any) -> Bound | None:
    """Return the bound that a field is annotated with, or None."""
    return next((extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Bound)), None)


def check(config: Any, steps: int = 0) -> None:
    """Raise UserError for the first setting that is none of its choices or outside its bound; NaN is outside of every
    bound.

    With the `steps` of the run, a number of steps given as a fraction is recognised: the error says which fraction it
    is.
    """
    for path, kind in kinds(type(config)).items():
        value, bound = get(config, path), bound_of(kind)
        if get_origin(kind) is Literal:
            _convert(value, kind, path)
        if bound is None or value is None:
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(bound.low <= x <= bound.high for x in numbers):
            shown = f"{value:g}" if isinstance(value, float) else value
            limits = f"must lie between {bound.low:g} and {bound.high:g}"
            if isinstance(bound, Fraction):
                limits = f"is a fraction of the run and {limits}"
                if 1 < value <= steps:
                    limits = f"it is a fraction of the run: {value:g} of {steps} steps is {value / steps:g}"
            limits += " or be None, which is automatic" * (NoneType in types(kind) and not limits.startswith("it"))
            raise UserError(f"{path} is {shown}, but {limits}; change --{path}")
        if bound.rising and list(numbers) != sorted(numbers):
            raise UserError(f"{path} is {value}, but must be a range, low before high; change --{path}")


def override(config: _T, changes: Mapping[str, Any]) -> _T:
    """Return `config` with settings replaced by dotted path, e.g. {"patch_contrast.weight": 0}.

    Raises UserError for a value of the wrong kind, and for an unknown path (the error names the nearest one).
    """
    known = kinds(type(config))
    for path in changes:
        require_known(path, known)
    return _replace(config, {path: _convert(value, known[path], path) for path, value in changes.items()})


def require_known(path: str, known: Mapping[str, Any]) -> None:
    """Raise UserError if no setting is named `path`; the error names the nearest one."""
    if path not in known:
        raise UserError(f"there is no setting named {path}{did_you_mean(path, known)}")


def _replace(config: _T, changes: Mapping[str, Any]) -> _T:
    new: dict[str, Any] = {path: value for path, value in changes.items() if "." not in path}
    for name in {path.partition(".")[0] for path in changes} - set(new):
        inner = {path.partition(".")[2]: value for path, value in changes.items() if path.startswith(f"{name}.")}
        new[name] = _replace(getattr(config, name), inner)
    return dataclasses.replace(config, **new)


@functools.cache
def _spec(kind: Any) -> Any:
    """Return tyro's rule to read a value of this type from words."""
    return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))


def texts(value: Any, kind: Any) -> list[str]:
    """Return the words from which tyro reads a value of this type.

    The value may be a list, or a text with commas as in names of variants. A switch may be 1 or true, None may be none.
    """
    made_of, parts = types(kind), [value]
    if isinstance(value, list | tuple):
        parts = value
    elif tuple in made_of and made_of & {int, float, str}:
        plain = str(value) if str in made_of else str(value).strip("()[] ")
        parts = [part.strip() for part in plain.removesuffix(",").split(",")] if plain else []
    if int in made_of:  # 8 / 2 is 4.0, which tyro refuses
        parts = [int(part) if isinstance(part, float) and part.is_integer() else part for part in parts]
    known = {"none": "None"} if NoneType in made_of else {}
    if bool in made_of:
        known |= {"true": "True", "1": "True", "false": "False", "0": "False"}
    return [known.get(str(part).lower(), str(part)) for part in parts]


def _convert(value: Any, kind: Any, path: str) -> Any:
    """Convert `value` to the type of the setting `path`, as on the command line. Raises UserError."""
    spec, spelled, made_of = _spec(kind), texts(value, kind), types(kind)
    typed = value if isinstance(value, list | tuple) else [value]
    try:
        if str in made_of and not all(type(part) in made_of for part in typed):
            raise ValueError("a number is no word, though it can be written as one")
        if spec.choices and not set(spelled) <= set(spec.choices):
            raise ValueError("no choice")
        return spec.instance_from_str(spelled)
    except ValueError:
        if get_origin(kind) is Literal:
            choices = ", ".join(get_args(kind))
            raise UserError(f"{path} is {value!r}, but must be one of {choices}; change --{path}") from None
        plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        name = plain.__name__ if isinstance(plain, type) else plain
        raise UserError(f"{path} must be of type {name}, but is {value!r}; change --{path}") from None


def paths(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested plain values into {dotted path: value}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= paths(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
