"""What is declared once stays in step: pyproject, environment.yml, installed versions, the book's group."""

import re
import shutil
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import papermill.engines  # loads the engine, as papermill does; the engine alone cannot be imported first
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_records import record

import wsss
from wsss import command
from wsss.report import records
from wsss.tools import readme

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
BASE = [Requirement(line) for line in PROJECT["dependencies"]]
TEST = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
BOOK = [Requirement(line) for line in PYPROJECT["dependency-groups"]["book"]]


@pytest.mark.parametrize("requirement", BASE + TEST, ids=lambda r: r.name)
def test_dependency_has_both_bounds_and_is_installed_within(requirement: Requirement) -> None:
    operators = {bound.operator for bound in requirement.specifier}
    assert operators == {">=", "<"}
    assert requirement.specifier.contains(version(requirement.name))


def test_jupyter_book_is_not_version_2() -> None:
    major = int(version("jupyter-book").split(".")[0])
    assert major == 1, (
        f"jupyter-book {version('jupyter-book')} is installed: version 2 builds nothing and still exits 0;"
        " install `jupyter-book>=1.0.4.post1,<2`"
    )


def test_book_group_is_a_part_of_the_base_without_torch() -> None:
    base = {requirement.name: requirement.specifier for requirement in BASE}
    for requirement in BOOK:
        assert base[requirement.name] == requirement.specifier
    assert not {"torch", "torchvision", "timm"} & {requirement.name for requirement in BOOK}


def test_environment_installs_this_project_and_nothing_else_by_pip() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert pip == {"pip": [f"-e .[{','.join(PROJECT['optional-dependencies'])}]"]}
    assert conda == ["python=3.11", "pip", "cxx-compiler", "make"]
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11.0")


def test_version_is_the_same_everywhere() -> None:
    assert wsss.__version__ == PROJECT["version"]
    citation = ROOT / "CITATION.cff"
    if citation.exists():
        assert yaml.safe_load(citation.read_text()).get("version", wsss.__version__) == wsss.__version__


def test_entry_points_load() -> None:
    (command,) = entry_points(group="console_scripts", name="wsss")
    (engine,) = entry_points(group="papermill.engine", name="wsss")
    assert callable(command.load())
    assert engine.load() is papermill.engines.papermill_engines.get_engine("wsss")


def test_readme_table_is_of_the_published_records() -> None:
    text = (ROOT / "README.md").read_text()
    assert readme.refreshed(text) == text, "run `python -m wsss.tools.readme`"


def test_readme_starts_with_the_two_lines_and_its_links_exist() -> None:
    text = (ROOT / "README.md").read_text()
    first = text.splitlines()[:10]
    assert any(line.startswith("make reproduce") for line in first)
    assert any(line.startswith("make test") for line in first)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert all((ROOT / link).is_file() for link in links), links


def test_readme_takes_no_picture_of_a_run_of_an_uncommitted_tree(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(readme, "project_root", lambda: tmp_path)
    shutil.copy(ROOT / "README.md", tmp_path)
    records.save(record(dirty=True), tmp_path / "runs" / "mini" / "mini" / "0.json")
    (tmp_path / "runs" / "mini" / "mini" / "0").mkdir()
    (tmp_path / "runs" / "mini" / "mini" / "0" / "cams.npz").touch()
    assert command.main("readme", readme.Readme, []) == 1 and "uncommitted changes" in capsys.readouterr().err
    assert not (tmp_path / "book").exists()
