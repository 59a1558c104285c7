"""Words to settings: every spelling that README, book, notebooks, presets and records use, and what is refused."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wsss import presets
from wsss.cli import COMMANDS, main
from wsss.command import parse
from wsss.presets import PRESETS
from wsss.report import records
from wsss.settings import flatten, get
from wsss.stored import from_dict

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("README.md", "book/**/*.md", "notebooks/*.py", "wsss/**/*.py")
PAGES = [page for place in PLACES for page in sorted(ROOT.glob(place)) if "_build" not in page.parts]
LINE = re.compile(r"wsss train ((?:[a-z][a-z-]*)(?: [^`|\n]*)?)")
PROMISED = "entropy"
"""The setting and the preset that the page 'How to extend' adds."""


def written() -> list[str]:
    """All words that the PAGES write after `wsss train` and a preset, without comments and the rest of the sentence."""
    found: set[str] = set()
    for page in PAGES:
        lines = LINE.findall(page.read_text().replace("\\\n", " "))
        found |= {re.split(r"  +#|, then| and|; |[\"')]+[.,]?$", line)[0].strip(" .") for line in lines}
    return sorted(line for line in found if line.split()[0] in PRESETS and PROMISED not in line and "{" not in line)


def request(name: str, words: list[str]):
    """The configuration that `wsss train NAME WORDS` makes."""
    return parse(COMMANDS["train"].commands[name], words, f"wsss train {name}")


@pytest.mark.parametrize("line", written())
def test_every_line_that_is_written_parses(line):
    name, *words = shlex.split(line)
    assert request(name, [word for word in words if word != "--help"]).name == name


def test_the_lines_are_found_in_each_kind_of_place():
    lines = written()
    assert "voc --msc.subspaces 8 --msc.dimension 32 --csa.direction both" in lines, "book"
    assert "voc --data.root VOC2012" in lines and len(lines) > 15, "presets"
    assert any("backbone" in line and "None" in line for line in lines), "lines over a backslash"


def test_every_setting_that_a_page_names_exists():
    known = set(flatten(PRESETS["voc"]))
    for page in (*ROOT.glob("book/*.md"), ROOT / "README.md"):
        for path in re.findall(r"--((?:[a-z]+(?:_[a-z]+)*)\.[a-z0-9_-]+)", page.read_text()):
            assert path.replace("-", "_").rstrip("_") in known or PROMISED in path, f"{page.name}: --{path}"


VARIANTS = {record["variant"]: record["config"] for record in records.published()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_words_of_every_published_variant_make_its_configuration(variant):
    config = from_dict(VARIANTS[variant])
    name, *words = presets.words(config)
    made = flatten(request(name, words).config)
    assert {path: made[path] for path in made if path not in presets.NOT_IN_VARIANT} == {
        path: value for path, value in flatten(config).items() if path not in presets.NOT_IN_VARIANT
    }


SPELLINGS = {
    "--augment.scale 0.7,1.3": ("augment.scale", (0.7, 1.3)),
    "--csa.layers 3,1": ("csa.layers", (3, 1)),
    "--cam.scales 1 0.5": ("cam.scales", (1.0, 0.5)),
    "--segmentation.levels .1,.3": ("segmentation.levels", (0.1, 0.3)),
    "--data.headline cat,dog": ("data.headline", ("cat", "dog")),
    "--data.headline ''": ("data.headline", ()),
    "--optim.lr 1e-3 --optim.lr 2e-3": ("optim.lr", 2e-3),
    "--optim.bfloat16 False": ("optim.bfloat16", False),
    "--compat.second-flip": ("compat.second_flip", True),
    "--model.checkpoint ''": ("model.checkpoint", ""),
    "--model.width None": ("model.width", None),
    "--augment.scale '(0.7, 1.3)'": ("augment.scale", (0.7, 1.3)),
    "--cam.scales=(1.0,)": ("cam.scales", (1.0,)),
    "--data.root 'a folder, with=signs'": ("data.root", "a folder, with=signs"),
}


@pytest.mark.parametrize("line", SPELLINGS)
def test_spellings(line):
    path, value = SPELLINGS[line]
    found = get(request("mini", shlex.split(line)).config, path)
    assert found == value and type(found) is type(value)


REFUSED = {
    "--variant ../x": "variant is '../x', but must be the name of one folder",
    "--model.depth=0": "model.depth is 0, but must lie between 3 and 100000 or be None, which is automatic",
    "--msc.level class": "there is no setting named msc.level",
    "--optim.step 5": "there is no setting named optim.step; did you mean optim.steps?",
    "5": "5 is not a setting; write settings as --NAME VALUE",
    "--optim.steps many": "Error parsing --optim.steps: invalid literal for int() with base 10: 'many'",
    "--optim.steps": "Missing value for argument '--optim.steps'",
    "--augment.scale 0.7": "Missing value for argument '--augment.scale'",
    "--csa.direction up": "invalid choice 'up' for argument '--csa.direction'",
    "--compat.second_flip perhaps": "invalid choice 'perhaps' for argument '--compat.second-flip'",
    "--name voc": "--name is the preset's and cannot change; name your run with --variant",
    "--cam.scales ''": "cam.scales is empty",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_one_sentence(line, capsys):
    assert main(["train", "mini", *shlex.split(line)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("wsss: error: ") and REFUSED[line] in said
    assert said.count("\n") == 1 and not set("╭│╰─") & set(said), said


@dataclass(frozen=True)
class Other:
    """Another command, with a place, a switch and words that may hold commas."""

    place: "Path" = Path("x")
    partial: bool = False
    flip: bool | None = None
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = field(default=(0,))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("--partial True", Other(partial=True)),
        ("--partial False", Other()),
        ("--partial --seeds 1 2", Other(partial=True, seeds=(1, 2))),
        ("--flip --seeds 1,2", Other(flip=True, seeds=(1, 2))),
        ("--flip None", Other()),
        ("--only a,b c", Other(only=("a,b", "c"))),
        ("--place y --partial", Other(place=Path("y"), partial=True)),
    ],
)
def test_every_command_takes_a_switch_alone(line, wanted):
    assert parse(Other, line.split(), "other") == wanted
