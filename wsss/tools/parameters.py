"""Parameters of a notebook: papermill only warns of an unknown name and injects values of any type."""

import ast
import difflib
from typing import Any

import click

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def defaults(notebook: Any) -> dict[str, Any]:
    """Names and default values in the cell tagged `parameters`, in order; None where it is no literal."""
    cell = next((c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), None)
    statements = ast.parse(cell.source).body if cell else []
    assigned = (s for s in statements if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name))
    return {s.targets[0].id: _literal(s.value) for s in assigned}


def settle(given: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Parameters as the notebook's defaults want them.

    Raises click.ClickException for a name that is not known, with the nearest one, and for a value that
    cannot be of the default's type.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}."
            raise click.ClickException(f"this notebook has no parameter {name!r}; {hint}")
    return {name: _as_default(name, value, known[name]) for name, value in given.items()}


def _as_default(name: str, value: Any, default: Any) -> Any:
    """value as the type of default: text to number, 1000.0 to 1000, 3 to "3"; unchanged for other types."""
    kind = type(default)
    if isinstance(value, kind) or kind not in (bool, int, float, str):
        return value
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        number = kind(value) if kind is str else float(value)
        converted = kind(number)
        if converted != number:
            raise ValueError
        return converted
    except (KeyError, ValueError, TypeError) as error:
        raise click.ClickException(f"parameter {name!r} takes {WORDS[kind]}, not {value!r}.") from error


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
