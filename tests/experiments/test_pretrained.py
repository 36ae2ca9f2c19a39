"""The policies that come with the package: small, told where they come from, and as good as they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from goskill.errors import InputError
from goskill.experiments import pipeline
from goskill.experiments.export import read_origin
from goskill.experiments.pretrained import FOLDER, copy_pretrained, pretrained_names


@pytest.mark.parametrize("name", pretrained_names())
def test_a_pretrained_policy_is_small_and_says_what_made_it(name: str) -> None:
    size = sum(file.stat().st_size for file in (FOLDER / name).rglob("*") if file.is_file())
    assert size <= 3_000_000
    origin = read_origin(FOLDER / name)
    assert origin["commit"]
    assert origin["data"]["fingerprint"]
    assert origin["data"]["provenance"][0]["reward_version"] == "v2"
    assert origin["weights"] == "float16"
    assert origin["results"]["mean"]["success"] >= 0.6


def test_quickstart_succeeds(tmp_path: Path) -> None:
    """Door and drawer, where it has next to no failures: a broken weight or normalisation would show."""
    run = copy_pretrained("quickstart", tmp_path / "quickstart")
    results = pipeline.evaluate(run, tasks="door-close,drawer-close", episodes=3, workers=0, seed=3)
    assert results.overall.success is not None
    assert results.overall.success.value >= 5 / 6


def test_a_copy_is_left_alone_and_nothing_else_is_overwritten(tmp_path: Path) -> None:
    run = copy_pretrained("quickstart", tmp_path / "runs" / "one")
    (run / "results.json").write_text("mine")
    assert copy_pretrained("quickstart", run) == run
    assert (run / "results.json").read_text() == "mine"
    (run / "origin.json").write_text("{}")
    with pytest.raises(InputError, match="exists already and is not this policy"):
        copy_pretrained("quickstart", run)
    with pytest.raises(InputError, match="unknown pretrained policy 'quikstart': did you mean 'quickstart'"):
        copy_pretrained("quikstart", tmp_path / "two")
