"""papermill for this project's notebooks: `papermill notebooks/NAME.ipynb` is a complete command. No torch.

papermill loads this module, its entry point `papermill.engine`, before it reads the command line. `complete` adds what
that line leaves out: the output runs/notebooks/NAME.ipynb, and the engine below. papermill has no hook for an output,
so `sys.argv` is changed; but only in the command papermill, and only for notebooks of this project. Import papermill
first: it loads this module.
"""

import ast
import difflib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from papermill.engines import NBClientEngine
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

from wsss import provenance
from wsss.paths import project_root

_QUESTIONS = {"-h", "--help", "--help-notebook", "--version"}
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def complete(arguments: Sequence[str]) -> list[str]:
    """Return papermill's arguments, with output and engine added if the first notebook is one of this project."""
    paths = [argument for argument in arguments if argument.endswith(".ipynb") or argument == "-"]
    ours = bool(paths) and Path(paths[0]).is_file() and Path(paths[0]).resolve().is_relative_to(project_root())
    if not ours or _QUESTIONS & set(arguments):
        return list(arguments)
    output = []
    if len(paths) == 1:
        target = project_root() / "runs" / "notebooks" / Path(paths[0]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        output = [os.path.relpath(target)]
        print(f"wsss: the executed notebook goes to {output[0]}", file=sys.stderr)
    after = arguments.index(paths[0]) + 1
    engine = [] if any(a.split("=")[0] == "--engine" for a in arguments) else ["--engine", "wsss"]
    return [*arguments[:after], *output, *arguments[after:], *engine]


def defaults(notebook: Any) -> dict[str, Any]:
    """Return names and default values of the cell tagged `parameters`, in order; None where it is no literal."""
    cell = next((c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), None)
    values = {}
    for line in ast.parse(cell.source).body if cell else []:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            try:
                values[line.targets[0].id] = ast.literal_eval(line.value)
            except ValueError:
                values[line.targets[0].id] = None
    return values


def settle(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Convert parameters to the types of the notebook's defaults: "1e-3" (YAML's text) to 0.001, 3 to "3".

    A whole number may be given as 1000.0. Raises click.ClickException for an unknown name, where papermill only warns,
    and for a value that cannot take the default's type.
    """
    settled = {}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}."
            raise click.ClickException(f"this notebook has no parameter {name!r}; {hint}")
        kind = type(known[name])
        try:
            if isinstance(value, bool) and kind in (int, float):  # a bool is an int to Python
                raise ValueError
            if kind not in _TYPES or isinstance(value, kind):
                settled[name] = value
            elif kind is bool:
                settled[name] = {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
            else:
                settled[name] = str(value) if kind is str else kind(float(value))
                if kind is int and settled[name] != float(value):
                    raise ValueError
        except (KeyError, ValueError, TypeError) as error:
            raise click.ClickException(f"parameter {name!r} takes {_TYPES[kind]}, not {value!r}.") from error
    return settled


class Engine(NBClientEngine):
    """papermill's own engine, with checked parameters, a safe output and a provenance stamp."""

    @classmethod
    def execute_notebook(
        cls, nb: Any, kernel_name: str, output_path: str | None = None, input_path: str = "", **options: Any
    ) -> Any:
        """Run under a temporary name beside the output; replace the output only after a complete run.

        A run that fails or is stopped leaves `NAME.failed.ipynb` beside the output.
        """
        from papermill.execute import raise_for_execution_errors  # not at the top: papermill is importing this module

        began, start = time.monotonic(), _started_in()
        nb = _prepared(nb, start / input_path)
        # log_level quiets a warning about TCP on this machine; widget state is megabytes that pages cannot use.
        options |= {"extra_arguments": ["--IPKernelApp.log_level=40"], "store_widget_state": False}
        options |= {"input_path": input_path}
        if output_path is None:  # papermill writes to standard output, or nowhere
            return _finished(super().execute_notebook(nb, kernel_name, None, **options), began)
        output = start / output_path
        running, failed = output.with_suffix(".running.ipynb"), output.with_suffix(".failed.ipynb")
        if not output.parent.is_dir():
            raise click.ClickException(f"the output folder {output.parent} does not exist; make it first.")
        try:
            nb = super().execute_notebook(nb, kernel_name, str(running), **options)
            raise_for_execution_errors(nb, str(running))
        except BaseException as error:
            if running.exists():
                running.replace(failed)
            if not isinstance(error, PapermillExecutionError):
                raise
            reason = error.evalue if error.ename == "UserError" else f"{error}"
            kept = f" {output.name} of an earlier run is unchanged." if output.exists() else ""
            raise click.ClickException(
                f"{reason}\n{input_path} stopped in cell {error.exec_count}; what ran is kept as {failed.name}.{kept}"
            ) from error
        running.replace(output)
        failed.unlink(missing_ok=True)
        return _finished(nb, began)  # papermill writes it to the output once more


def _started_in() -> Path:
    """Return the folder that papermill was started in; its option --cwd has moved the process since."""
    start = papermill_io.get_handler("local").cwd(None)  # the only way to read it also sets it
    papermill_io.get_handler("local").cwd(start)
    return Path(start or ".").resolve()


def _prepared(nb: Any, path: Path) -> Any:
    """Check and set the parameters of the notebook at `path`, and stamp it. The stamp names no path of this
    machine."""
    from papermill.parameterize import parameterize_notebook  # not at the top, as above

    known, given = defaults(nb), dict(nb.metadata.papermill.get("parameters", {}))
    if given:
        given = settle(given, known)
        nb = parameterize_notebook(nb, given, engine_name="wsss")
    inside = path.resolve().is_relative_to(project_root())
    name = path.resolve().relative_to(project_root()).as_posix() if inside else path.name
    nb.metadata.papermill.update(input_path=name, output_path="")
    nb.metadata.wsss = {"notebook": name, "parameters": known | given, **provenance.stamp()}
    return nb


def _finished(nb: Any, began: float) -> Any:
    """Add the seconds to the notebook's stamp. Of a widget that has HTML for pages without a kernel, keep only the
    HTML."""
    nb.metadata.wsss["seconds"] = round(time.monotonic() - began, 1)
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):
            output["data"].pop("application/vnd.jupyter.widget-view+json", None)
    return nb


# While Python looks up `python -m papermill`, argv[0] is "-m"; orig_argv has the module's name in its place.
if Path(sys.orig_argv[-len(sys.argv)] if sys.argv[0] == "-m" else sys.argv[0]).stem == "papermill":
    sys.argv[1:] = complete(sys.argv[1:])
