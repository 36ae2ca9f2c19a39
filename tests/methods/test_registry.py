"""Methods by name: settings from plain values, ablations, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from goskill.errors import InputError
from goskill.experiments import presets
from goskill.experiments.runs import read_settings
from goskill.methods import registry
from goskill.methods.go_skill import ABLATIONS, GoSkillSettings
from goskill.settings import to_mapping


@pytest.mark.parametrize("name", registry.built_in_names())
def test_settings_of_every_method_survive_json(name: str) -> None:
    entry = registry.find(name)
    defaults = entry.settings({})
    changed = next(
        one for one in ("prompt_episodes", "iterations", "skill_iterations") if hasattr(defaults, one)
    )
    settings = entry.settings({changed: 3})
    assert getattr(settings, changed) == 3
    assert entry.settings(to_mapping(settings)) == settings
    assert {key: getattr(settings, key) for key in entry.decided} == dict(entry.decided)


def test_names_stand_for_settings() -> None:
    assert registry.find("go_skill").settings({}) == GoSkillSettings()
    assert registry.find("mh_go_skill").settings({}) == GoSkillSettings(multi_head_decoder=True)


def test_ablations_add_up_and_settings_come_after_them() -> None:
    settings: Any = read_settings("mt50-paper", ablations=["no-focal", "no-resampling"]).method
    assert settings == GoSkillSettings(policy_loss="cross_entropy", resampling=False)
    settings = read_settings("mt50-paper", ["method.policy_loss=focal"], ablations=["no-focal"]).method
    assert settings == GoSkillSettings()
    for name, changes in ABLATIONS.items():
        assert read_settings("mt50-paper", ablations=[name]).method == GoSkillSettings(**changes)


@pytest.mark.parametrize(
    ("method", "overrides", "ablations", "message"),
    [
        ("goskill", [], [], "unknown method 'goskill': did you mean 'go_skill'?"),
        ("go_skill", [], ["no-fokal"], "unknown ablation 'no-fokal': did you mean 'no-focal'?"),
        (
            "mh_go_skill",
            ["method.multi_head_decoder=false"],
            [],
            "method.multi_head_decoder: expected True, which mh_go_skill means, got False",
        ),
        ("prompt_dt", [], ["no-focal"], "ablation 'no-focal': prompt_dt has none"),
        ("prompt_dt", ["method.horizon=5"], [], "method.horizon is a setting of go_skill, not of prompt_dt"),
        (
            "go_skill",
            ["method.iterations=5"],
            [],
            "method.iterations is a setting of prompt_dt, not of go_skill",
        ),
        ("mtdt", ["method.prompt_length=5"], [], "method.prompt_length: expected 0, which mtdt means, got 5"),
        ("mtdt", ["method.prompt_lenght=5"], [], "unknown setting method.prompt_lenght: did you mean"),
        ("mh_go_skill", [], ["no-vq"], "multi_head_decoder: expected False"),
    ],
)
def test_what_does_not_fit_is_named(
    method: str, overrides: list[str], ablations: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_settings("mt50-paper", overrides, method=method, ablations=ablations)


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_suits_every_method_with_equal_iterations(preset: str) -> None:
    ours: Any = read_settings(preset).method
    for name in ("prompt_dt", "mh_prompt_dt", "mtdt", "mh_mtdt"):
        settings = read_settings(preset, method=name)
        theirs: Any = settings.method
        assert theirs.iterations == ours.extraction_iterations + ours.policy_iterations
        assert (theirs.width, theirs.layers) == (ours.policy_width, ours.policy_layers)
        assert theirs.context == ours.context
        assert theirs.prompt_length == (ours.prompt_length if "prompt" in name else 0)
        assert theirs.multi_head == name.startswith("mh_")


@pytest.mark.parametrize("old", presets.OLD_NAMES)
def test_old_names_of_presets_go_on_working(old: str) -> None:
    for method in registry.method_names():
        expected = read_settings(presets.OLD_NAMES[old], method=method)
        assert read_settings(old, method=method) == expected


def test_defaults_are_the_papers() -> None:
    settings: Any = read_settings("mt50-paper", method="prompt_dt")
    method = settings.method
    assert (method.width, method.layers, method.heads, method.dropout) == (256, 6, 8, 0.1)
    assert (method.context, method.prompt_length, method.batch_per_task) == (20, 10, 8)
    assert (method.iterations, settings.training.learning_rate) == (100_000, 3e-4)
    assert settings.training.warmup_iterations == 10_000
    assert read_settings("mt50-paper").training.warmup_iterations == 5_000
