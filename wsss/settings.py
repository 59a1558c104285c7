"""Settings of nested frozen dataclasses by dotted path: read, list, replace. Knows nothing of what they mean."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from wsss.paths import UserError, near

T = TypeVar("T")


def get(config: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of every leaf."""
    flat: dict[str, Any] = {}
    for row in dataclasses.fields(config):
        value = getattr(config, row.name)
        nested = dataclasses.is_dataclass(value)
        flat.update(flatten(value, f"{prefix}{row.name}.") if nested else {prefix + row.name: value})
    return flat


def override(config: T, changes: Mapping[str, Any]) -> T:
    """`config` with dotted paths replaced, e.g. {"patch_contrast.weight": 0}.

    Raises UserError for an unknown path (with the nearest one) or a value of the wrong kind.
    """
    known = flatten(config)
    for path in changes:
        if path not in known:
            raise UserError(f"there is no setting named {path}{near(path, known)}")
    return _replace(config, {path: value for path, value in changes.items()}, "")


def _replace(node: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    hints, new = get_type_hints(type(node)), {}
    for row in dataclasses.fields(node):
        value = getattr(node, row.name)
        if dataclasses.is_dataclass(value):
            inner = {k.partition(".")[2]: v for k, v in changes.items() if k.partition(".")[0] == row.name}
            new[row.name] = _replace(value, inner, f"{prefix}{row.name}.") if inner else value
        elif row.name in changes:
            new[row.name] = _coerce(changes[row.name], hints[row.name], prefix + row.name)
    return dataclasses.replace(node, **new)


def _coerce(value: Any, kind: Any, path: str) -> Any:
    """`value` as `kind`: numbers may come as text (YAML reads 1e-3 so), tuples as lists."""
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
    else:
        try:
            result = kind(value)
            if kind is not int or float(value) == result:
                return result
        except (TypeError, ValueError, OverflowError):
            pass
    raise UserError(f"{path} must be of type {getattr(kind, '__name__', kind)}, but is {value!r}; change --{path}")


def paths(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values as dotted path -> value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(paths(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat
