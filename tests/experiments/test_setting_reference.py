"""Every setting is described, and the reference page says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from goskill.experiments import setting_reference as reference
from goskill.methods import built_in_names

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.mark.parametrize("method", built_in_names())
def test_every_setting_has_a_description(method: str) -> None:
    for section, settings in reference.sections(method):
        assert settings
        for one in settings:
            assert len(one.description) > 2, f"{section}.{one.name} of {method}"


def test_the_page_is_the_one_that_the_code_generates() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.markdown(), (
        "run: goskill settings --markdown > docs/settings.md"
    )
