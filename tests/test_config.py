"""Overrides, what they refuse and suggest, and the way to JSON and back."""

import ast
import dataclasses
import inspect
import json

import pytest
from builders import QUICK
from hypothesis import given
from hypothesis import strategies as st

from wsss.compat import TOCO, Compat
from wsss.config import Config, to_dict
from wsss.paths import UserError
from wsss.presets import PRESETS
from wsss.settings import flatten, get, override
from wsss.stored import from_dict


def test_override_changes_what_it_names_and_nothing_else():
    config = override(Config(), {"patch_contrast.weight": 0, "seed": 3})
    changed = {path for path, value in flatten(config).items() if value != flatten(Config())[path]}
    assert changed == {"patch_contrast.weight", "seed"}
    assert get(config, "patch_contrast.weight") == 0.0 and isinstance(config.patch_contrast.weight, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("patch_contrast.wieght", "patch_contrast.weight"),
        ("optim.step", "optim.steps"),
        ("sead", "seed"),
        ("compat.second_flips", "compat.second_flip"),
        ("cam.treshold", "cam."),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(path, hint):
    with pytest.raises(UserError, match=f"no setting named {path}; did you mean {hint}"):
        override(Config(), {path: 1})


@pytest.mark.parametrize("path", ["zzzzqqqq", "optim", "cam"])
def test_a_name_that_is_no_setting(path):
    with pytest.raises(UserError, match=f"no setting named {path}"):
        override(Config(), {path: 1})


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.lr", "1e-3", 1e-3),
        ("optim.steps", "30", 30),
        ("optim.steps", 30.0, 30),
        ("cam.scales", [1, 0.5], (1.0, 0.5)),
        ("cam.scales", "1,0.5", (1.0, 0.5)),
        ("cam.scales", 1, (1.0,)),
        ("augment.scale", "0.5,1", (0.5, 1.0)),
        ("data.headline", "cat,dog", ("cat", "dog")),
        ("data.headline", "", ()),
        ("compat.second_flip", "true", True),
        ("compat.second_flip", 0, False),
    ],
)
def test_values_may_come_as_text_or_lists(path, text, value):
    found = get(override(Config(), {path: text}), path)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("optim.steps", "many", "optim.steps must be of type int, but is 'many'"),
        ("optim.steps", 1.5, "optim.steps must be of type int"),
        ("optim.steps", float("inf"), "optim.steps must be of type int"),
        ("optim.lr", None, "optim.lr must be of type float"),
        ("compat.second_flip", "perhaps", "compat.second_flip must be of type bool"),
        ("augment.scale", [1.0], "augment.scale must be of type tuple"),
        ("augment.scale", 1.0, "augment.scale must be of type tuple"),
        ("cam.scales", ["a"], "cam.scales must be of type float"),
        ("optim.steps", 0, "optim.steps is 0, but must lie between 1"),
        ("optim.lr", "nan", "optim.lr is nan"),
        ("seed", -1, "seed is -1"),
        ("segmentation.weight", -0.1, "segmentation.weight is -0.1"),
        ("cam.low", 0.7, r"cam.low \(0.7\) must be below cam.high"),
        ("augment.crop", 64, r"augment.local_size \(96\) is larger than augment.crop \(64\)"),
        ("augment.scale", [2.0, 0.5], r"augment.scale is \(2.0, 0.5\), but must be a range"),
        ("cam.scales", [], "cam.scales is"),
        ("cam.scales", [1.0, 0.0], "cam.scales is"),
    ],
)
def test_values_that_cannot_be(path, value, words):
    with pytest.raises(UserError, match=words):
        override(Config(), {path: value})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = PRESETS[name]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert override(Config(), flatten(config)) == config


@QUICK
@given(st.floats(0, 1), st.integers(1, 10**6), st.lists(st.floats(0.1, 2), min_size=1, max_size=4), st.booleans())
def test_any_configuration_survives_json(momentum, steps, scales, flag):
    changes = {
        "class_contrast.momentum": momentum,
        "optim.steps": steps,
        "cam.scales": scales,
        "compat.local_flip": flag,
    }
    config = override(Config(), changes)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_every_field_says_what_it_is():
    """The docstring under a field is its --help; a field without one would be a bare name there."""
    for node in ast.parse(inspect.getsource(inspect.getmodule(Config))).body:
        if isinstance(node, ast.ClassDef):
            for before, after in zip(node.body, node.body[1:], strict=False):
                nested = isinstance(before, ast.AnnAssign) and "default_factory" in ast.unparse(before)
                if isinstance(before, ast.AnnAssign) and not nested:
                    assert isinstance(after, ast.Expr), f"{node.name}.{before.target.id} has no docstring"


def test_compat_has_its_two_values():
    assert not any(dataclasses.asdict(Compat()).values()) and all(dataclasses.asdict(TOCO).values())


def test_decoupling_asks_for_subspaces_that_can_be_orthogonal():
    """8 subspaces of 64 dimensions do not fit a bottleneck of 256; without a penalty they need not."""
    with pytest.raises(UserError, match="8 subspaces of msc.dimension 64 cannot be orthogonal in 256 dimensions"):
        override(Config(), {"msc.subspaces": 8})
    undecoupled = {"msc.orthogonality_weight": 0, "msc.decorrelation_weight": 0}
    assert override(Config(), {"msc.subspaces": 8, **undecoupled}).msc.subspaces == 8
