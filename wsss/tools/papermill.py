"""What papermill needs to run this project's notebooks by one plain line.

papermill loads its `papermill.engine` entry points before it reads the command line, so this module can

* fill in what `papermill notebooks/NAME.ipynb` leaves out: the output, `runs/notebooks/NAME.ipynb`, and the
  engine below (`complete`);
* refuse a parameter that the notebook does not have, which papermill only warns about, and turn `1e-3`,
  which YAML reads as text, into the number that the notebook's default asks for (`wsss.tools.parameters`);
* keep a failed run from replacing a good output, run in the interpreter that papermill itself runs in, and
  stamp where the result comes from into the notebook (`Engine`).

Other people's notebooks are left alone. It imports no torch. Import papermill first; it loads this module.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill.engines import NBClientEngine
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

from wsss import provenance
from wsss.paths import UserError
from wsss.tools import sources
from wsss.tools.parameters import defaults, settle

PAIRS = {"-p", "--parameters", "-r", "--parameters_raw"}
FLAGS = {
    *("--inject-input-path", "--inject-output-path", "--inject-paths", "--prepare-only", "--prepare-execute"),
    *("--request-save-on-cell-execute", "--no-request-save-on-cell-execute", "--progress-bar"),
    *("--no-progress-bar", "--log-output", "--no-log-output", "--report-mode", "--no-report-mode"),
}
QUIET = ["--IPKernelApp.log_level=40"]  # else each run warns that its kernel listens on this machine's TCP
ONLY_ASK = {"-h", "--help", "--help-notebook", "--version"}


# ---- the command line


def project_of(notebook: Path) -> Path | None:
    """Root of the project that a notebook belongs to: the folder above it with `_config.yml` and `wsss`."""
    parents = notebook.resolve().parents
    return next((p for p in parents if (p / "_config.yml").is_file() and (p / "wsss").is_dir()), None)


def complete(arguments: Sequence[str]) -> list[str]:
    """papermill's arguments with engine and output filled in, if they name a notebook of this project.

    The same list comes back for anything else: questions (`--help`), `-`, other people's notebooks.
    """
    arguments = list(arguments)
    places = _positionals(arguments)
    if not places or ONLY_ASK & set(arguments) or "-" in (arguments[i] for i in places):
        return arguments
    notebook = Path(arguments[places[0]])
    root = project_of(notebook)
    if root is None or notebook.suffix != ".ipynb" or not notebook.is_file():
        return arguments
    engine = [] if any(a.split("=")[0] == "--engine" for a in arguments) else ["--engine", "wsss"]
    if len(places) == 1:
        output = root / "runs" / "notebooks" / notebook.name
        output.parent.mkdir(parents=True, exist_ok=True)
        arguments.insert(places[0] + 1, os.path.relpath(output))
        print(f"wsss: the executed notebook goes to {os.path.relpath(output)}", file=sys.stderr)
    return arguments + engine


def _positionals(arguments: Sequence[str]) -> list[int]:
    """Where the arguments stand that are neither options nor values of options."""
    places, skip = [], 0
    for i, argument in enumerate(arguments):
        if skip:
            skip -= 1
        elif not argument.startswith("-") or argument == "-":
            places.append(i)
        elif argument in PAIRS:
            skip = 2
        elif argument not in FLAGS and "=" not in argument:
            skip = 1
    return places


def _is_papermill(program: str) -> bool:
    """True for the `papermill` command and for `python -m papermill` (while Python still looks it up)."""
    if program == "-m":
        return "papermill" in sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1]
    return Path(program).stem == "papermill"


# ---- running


class OwnInterpreter(KernelSpecManager):
    """Every kernel is the interpreter that papermill runs in, whatever kernels are installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """This interpreter, under any name."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict(QUIET))


class KernelManager(AsyncKernelManager):
    """Starts kernels by `OwnInterpreter`."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return OwnInterpreter(parent=self)


class Engine(NBClientEngine):
    """papermill's own engine, with checked parameters, a safe output and a provenance stamp."""

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """The name in the notebook, or python3."""
        return name or nb.metadata.get("kernelspec", {}).get("name") or "python3"

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """The language in the notebook, or python."""
        return language or "python"

    @classmethod
    def execute_notebook(
        cls, nb: Any, kernel_name: str, output_path: str | None = None, input_path: str = "", **options: Any
    ) -> Any:
        """Run under a temporary name beside the output, which is replaced only by a run that came through.

        A run that fails or is stopped leaves `NAME.failed.ipynb` beside it.
        """
        nb = _with_settled_parameters(nb)
        if output_path is None:  # papermill writes to standard output, or nowhere
            return super().execute_notebook(nb, kernel_name, None, input_path=input_path, **options)
        output = _start_folder() / output_path
        running, failed = output.with_suffix(".running.ipynb"), output.with_suffix(".failed.ipynb")
        if not output.parent.is_dir():
            raise click.ClickException(f"the output folder {output.parent} does not exist; make it first.")
        try:
            done = super().execute_notebook(nb, kernel_name, str(running), input_path=input_path, **options)
            _raise_errors(done, str(running))
        except BaseException as error:
            if running.exists():
                running.replace(failed)
            raise _in_words(error, input_path, failed.name, output) from error
        running.replace(output)
        failed.unlink(missing_ok=True)
        return done

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, input_path: str = "", **options: Any) -> None:
        """Stamp, run, add the seconds. Paths in the metadata are relative to the project."""
        notebook = _start_folder() / input_path
        root = project_of(notebook) or notebook.parent
        source = sources.source_hash(nb_man.nb)
        known, metadata = defaults(nb_man.nb), nb_man.nb.metadata
        name = os.path.relpath(notebook, root)
        metadata.papermill.update(input_path=name, output_path="")
        metadata.wsss = {
            "notebook": name,
            "source": source,
            "parameters": known | dict(metadata.papermill.parameters),
            "package": sources.package_hash(),
            **_records_read(nb_man.nb, root),
            **provenance.stamp(),
        }
        options |= {"kernel_manager_class": KernelManager, "store_widget_state": False}
        super().execute_managed_notebook(nb_man, kernel_name, **options)
        _without_widgets(nb_man.nb)
        metadata.wsss["seconds"] = round((nb_man.now() - nb_man.start_time).total_seconds(), 1)


def _without_widgets(nb: Any) -> None:
    """Keep of a widget that has an element for pages without a kernel this element alone."""
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):
            output["data"].pop("application/vnd.jupyter.widget-view+json", None)


def _records_read(nb: Any, root: Path) -> dict[str, Any]:
    """Records that a notebook which imports wsss.report.results finds: its output's or runs/, then the published."""
    if "wsss.report.results" not in sources.code_imports(nb):
        return {}
    output = nb.metadata.papermill.parameters.get("output") or root / "runs"
    try:
        return {"records": sources.records(_start_folder() / output, root / "data" / "results")}
    except (UserError, OSError):  # the notebook itself says what is wrong with them
        return {}


def _with_settled_parameters(nb: Any) -> Any:
    """The notebook with its injected cell written anew from checked parameters."""
    from papermill.parameterize import parameterize_notebook  # not at the top: it is importing us

    given = dict(nb.metadata.papermill.get("parameters", {}))
    if not given:
        return nb
    return parameterize_notebook(nb, settle(given, defaults(nb)), engine_name="wsss")


def _raise_errors(nb: Any, path: str) -> None:
    """papermill's own check: marks the failing cell in the file at path and raises."""
    from papermill.execute import raise_for_execution_errors  # not at the top: it is importing us

    raise_for_execution_errors(nb, path)


def _in_words(error: BaseException, notebook: str, failed: str, output: Path) -> BaseException:
    """A failed cell as one message for the command line; anything else (an interrupt) as it is."""
    if not isinstance(error, PapermillExecutionError):
        return error
    reason = error.evalue if error.ename == "UserError" else f"{error}"
    kept = f" {output.name} of an earlier run is as it was." if output.exists() else ""
    return click.ClickException(
        f"{reason}\n{notebook} stopped in cell {error.exec_count}; what ran is kept as {failed}.{kept}"
    )


def _start_folder() -> Path:
    """Where papermill was started; its `--cwd` moves the process meanwhile."""
    handler = papermill_io.get_handler("local")
    folder = handler.cwd(None)
    handler.cwd(folder)
    return Path(folder or ".")


if _is_papermill(sys.argv[0] if sys.argv else ""):
    sys.argv[1:] = complete(sys.argv[1:])
