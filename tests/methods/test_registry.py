"""Methods by name: settings from plain values, ablations, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from goskill.errors import InputError
from goskill.methods import registry
from goskill.methods.go_skill import ABLATIONS, GoSkillSettings
from goskill.runs import read_settings
from goskill.settings import to_mapping


@pytest.mark.parametrize("name", registry.METHODS)
def test_settings_of_every_method_survive_json(name: str) -> None:
    entry = registry.find(name)
    settings = entry.settings({"prompt_episodes": 3})
    assert settings.prompt_episodes == 3
    assert entry.settings(to_mapping(settings)) == settings
    assert {key: getattr(settings, key) for key in entry.decided} == dict(entry.decided)


def test_names_stand_for_settings() -> None:
    assert registry.find("go_skill").settings({}) == GoSkillSettings()
    assert registry.find("mh_go_skill").settings({}) == GoSkillSettings(multi_head_decoder=True)


def test_ablations_add_up_and_settings_come_after_them() -> None:
    settings: Any = read_settings("mt50", ablations=["no-focal", "no-resampling"]).method
    assert settings == GoSkillSettings(policy_loss="cross_entropy", resampling=False)
    settings = read_settings("mt50", ["method.policy_loss=focal"], ablations=["no-focal"]).method
    assert settings == GoSkillSettings()
    for name, changes in ABLATIONS.items():
        assert read_settings("mt50", ablations=[name]).method == GoSkillSettings(**changes)


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
        ("mh_go_skill", [], ["no-vq"], "multi_head_decoder: expected False"),
    ],
)
def test_what_does_not_fit_is_named(
    method: str, overrides: list[str], ablations: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_settings("mt50", overrides, method=method, ablations=ablations)
