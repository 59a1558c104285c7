"""Overrides, what they refuse and suggest, and the way to JSON and back."""

import ast
import dataclasses
import inspect
import math
import re
from typing import Literal, get_origin

import pytest

from wsss.config import Config
from wsss.paths import UserError
from wsss.settings import bound_of, flatten, get, kinds, override


def test_override_changes_what_it_names_and_nothing_else():
    config = override(Config(), {"patch_contrast.weight": 0, "seed": 3})
    changed = {path for path, value in flatten(config).items() if value != flatten(Config())[path]}
    assert changed == {"patch_contrast.weight", "seed"}
    assert get(config, "patch_contrast.weight") == 0.0 and isinstance(config.patch_contrast.weight, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


OF_RUN = "is a fraction of the run"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("optim.steps", "many", "optim.steps must be of type int, but is 'many'"),
        ("optim.lr", None, "optim.lr must be of type float"),
        ("compat.second_flip", "perhaps", "compat.second_flip must be of type bool"),
        ("augment.scale", [1.0], "augment.scale must be of type tuple"),
        ("cam.scales", "1,,0.5", "cam.scales must be of type tuple[float, ...], but is '1,,0.5'"),
        ("cam.low", 0.7, "cam.low (0.7) must be below cam.high"),
        ("augment.crop", 64, "augment.local_size (96) is larger than augment.crop (64)"),
        ("augment.scale", [2.0, 0.5], "augment.scale is (2.0, 0.5), but must be a range"),
        ("cam.scales", [], "cam.scales is"),
        ("schedule.segmentation_start", 2000, f"is 2000, but it {OF_RUN}: 2000 of 20000 steps is 0.1; change"),
        ("schedule.contrast_start", 30_000, f"{OF_RUN} and must lie between 0 and 1; change"),
        ("schedule.modules_start", -1, "must lie between 0 and 1 or be None, which is automatic; change"),
        ("optim.head_factor", -10, "optim.head_factor is -10, but must lie between 0 and 1e+06; change"),
        ("csa.direction", "up", "csa.direction is 'up', but must be one of aux_to_last, last_to_aux, both, scheduled"),
    ],
)
def test_values_that_are_refused(path, value, words):
    with pytest.raises(UserError, match=re.escape(words)):
        override(Config(), {path: value})


NUMERIC = {path: kind for path, kind in kinds(Config).items() if re.search(r"\b(int|float)\b", str(kind))}


def test_every_numeric_setting_has_its_bound():
    """A new field that is a number, a tuple of numbers, or either of them or None, needs a bound."""
    assert len(NUMERIC) > 50 and {"seed", "cam.scales", "model.width", "segmentation.levels"} <= set(NUMERIC)
    for path, kind in NUMERIC.items():
        assert bound_of(kind), f"{path} has no Bound; write Annotated[..., Bound(low, high)]"
        assert bound_of(kind).low < bound_of(kind).high < math.inf
    for path, kind in kinds(Config).items():
        assert path in NUMERIC or kind in (str, bool, tuple[str, ...]) or get_origin(kind) is Literal, path


@pytest.mark.parametrize("path", NUMERIC)
def test_a_number_beyond_its_bound_nan_and_infinity_are_refused(path):
    bound, known = bound_of(NUMERIC[path]), get(Config(), path)
    count = len(known) if isinstance(known, tuple) else 2 if path == "segmentation.levels" else 0
    whole = "int" in str(NUMERIC[path])
    beyond = [math.floor(bound.low) - 1, math.floor(bound.high) + 1, *([] if whole else (math.nan, math.inf))]
    for number in beyond:
        with pytest.raises(UserError, match=f"^{path} is .*change --{path}"):
            override(Config(), {path: [number] * count if count else number})


def test_every_field_says_what_it_is():
    """The docstring under a field is its --help; a field without one would be a bare name there."""
    for node in ast.parse(inspect.getsource(inspect.getmodule(Config))).body:
        if isinstance(node, ast.ClassDef):
            for before, after in zip(node.body, node.body[1:], strict=False):
                nested = isinstance(before, ast.AnnAssign) and "default_factory" in ast.unparse(before)
                if isinstance(before, ast.AnnAssign) and not nested:
                    assert isinstance(after, ast.Expr), f"{node.name}.{before.target.id} has no docstring"


def test_decoupling_asks_for_subspaces_that_can_be_orthogonal():
    """8 subspaces of 64 dimensions do not fit a bottleneck of 256; without a penalty they need not."""
    with pytest.raises(UserError, match="8 subspaces of msc.dimension 64 cannot be orthogonal in 256 dimensions"):
        override(Config(), {"msc.subspaces": 8})
    undecoupled = {"msc.orthogonality_weight": 0, "msc.decorrelation_weight": 0}
    assert override(Config(), {"msc.subspaces": 8, **undecoupled}).msc.subspaces == 8
