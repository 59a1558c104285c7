"""What is declared once stays in step: pyproject, environment.yml, installed versions, the book's group."""

import re
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import numpy as np
import papermill.engines  # loads the engine, as papermill does; the engine alone cannot be imported first
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import wsss
from wsss.paths import read_json
from wsss.report import figures
from wsss.tools import readme

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
BASE = [Requirement(line) for line in PROJECT["dependencies"]]
TEST = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
BOOK = [Requirement(line) for line in PYPROJECT["dependency-groups"]["book"]]


@pytest.mark.parametrize("requirement", BASE + TEST, ids=lambda r: r.name)
def test_dependency_has_both_bounds_and_is_installed_within(requirement):
    operators = {bound.operator for bound in requirement.specifier}
    assert operators == {">=", "<"}
    assert requirement.specifier.contains(version(requirement.name))


def test_the_version_is_declared_once():
    assert wsss.__version__ == PROJECT["version"]


def test_book_group_is_a_part_of_the_base_without_torch():
    base = {requirement.name: requirement.specifier for requirement in BASE}
    for requirement in BOOK:
        assert base[requirement.name] == requirement.specifier
    assert not {"torch", "torchvision", "timm"} & {requirement.name for requirement in BOOK}


def test_environment_installs_this_project_and_nothing_else_by_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert pip == {"pip": [f"-e .[{','.join(PROJECT['optional-dependencies'])}]"]}
    assert conda == ["python=3.11", "pip", "cxx-compiler", "make"]
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11.0")


def test_entry_points_load():
    (command,) = entry_points(group="console_scripts", name="wsss")
    (engine,) = entry_points(group="papermill.engine", name="wsss")
    assert callable(command.load())
    assert engine.load() is papermill.engines.papermill_engines.get_engine("wsss")


def test_readme_table_is_of_the_published_records():
    text = (ROOT / "README.md").read_text()
    assert readme.refreshed(text) == text, "run `python -m wsss.tools.readme`"


def test_readme_starts_with_the_two_lines_and_its_links_exist():
    text = (ROOT / "README.md").read_text()
    first = text.splitlines()[:10]
    assert any(line.startswith("make reproduce") for line in first)
    assert any(line.startswith("make test") for line in first)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert all((ROOT / link).is_file() for link in links), links


def test_readme_picture_is_of_the_photographs_as_two_networks_see_them():
    content = read_json(ROOT / "data" / "photographs" / "base_and_ours.json")
    entry = next(entry for entry in content["images"] if entry["name"] == "cat")
    truth, segmentation = content["classes"].index("cat"), entry["variants"][1]["segmentation"]
    picture = figures.explored_rows(content, ["cat"])
    shown = np.asarray(picture.axes[4].images[0].get_array())
    counts = sum(n for label, n in zip(segmentation[::2], segmentation[1::2], strict=True) if label == truth)
    assert (shown == figures.class_colours(np.array(truth))).all(-1).sum() == counts > 1000
    assert [axis.get_title() for axis in picture.axes] == picture.alt.split(": ")[1].removesuffix(". Classes").split(
        ", "
    )
    assert [axis.images[0].get_array().shape[:2] for axis in picture.axes[:1]] == [tuple(entry["size"])]


# The publishing workflow calls make targets that CI calls as well, and names nobody and no address.

TEXT = (ROOT / ".github" / "workflows" / "book.yml").read_text()
WORKFLOW = yaml.safe_load(TEXT)
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
TARGETS = re.findall(r"^part (\w+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_every_step_is_a_make_target_of_ci_or_an_action_of_github_s_own():
    """What runs there runs here, too, and nobody else's code is fetched."""
    for step in STEPS:
        assert ("run" in step) != ("uses" in step)
        assert step.get("run", "").removeprefix("make ") in ("", "smoke", *TARGETS)  # slow tests hold smoke
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v1"))


def test_only_main_is_published_and_only_after_its_book_was_built_strictly():
    jobs = WORKFLOW["jobs"]
    published = [name for name, job in jobs.items() if any("deploy" in step.get("uses", "") for step in job["steps"])]
    assert published, "the book is published"
    for job in (jobs[name] for name in published):
        assert "github.ref == 'refs/heads/main'" in job["if"] and "github.event_name != 'pull_request'" in job["if"]
        done = [step.get("run") or step["uses"] for step in jobs[job["needs"]]["steps"]]
        uploaded = next(place for place, words in enumerate(done) if "upload-pages" in words)
        assert "make strict" in done[:uploaded]
    writing = [name for name, job in jobs.items() if "write" in str(job.get("permissions", ""))]
    assert writing == published and WORKFLOW["permissions"] == {"contents": "read"}


def test_it_names_nobody_and_no_address():
    rest = re.sub(r"actions/[\w-]+@v\d+", "", TEXT)
    assert not re.search(r"https?:|@|secrets|token\b(?!: write)", rest)
