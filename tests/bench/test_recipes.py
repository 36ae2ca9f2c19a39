"""The search of recipes: every recipe can be planned, and tables and the figure come from rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from goskill.bench import recipes
from goskill.experiments.runs import read_settings


@pytest.mark.parametrize("stage", recipes.STAGES)
def test_every_recipe_of_a_stage_is_another_setting(stage: str) -> None:
    chosen = recipes.STAGES[stage]
    found = {}
    for name, recipe in chosen.recipes.items():
        changes = (*chosen.common.get(recipe.method, ()), *recipe.changes)
        settings = read_settings(chosen.preset, changes, method=recipe.method)
        found[name] = (settings.name, settings.method, json.dumps(vars(settings.training)))
    assert len(set(found.values())) == len(found)


def row(recipe: str, seed: int, success: float) -> dict[str, Any]:
    tasks = {"push": success, "reach": success / 2, "door-open": 1.0}
    numbers = {
        task: {"return_mean": 100 * value, "success": value, "success_last": value}
        for task, value in tasks.items()
    }
    return {
        "stage": "quickstart",
        "recipe": recipe,
        "about": f"about {recipe}",
        "seed": seed,
        "seconds": {"cpu": 10.0, "wall": 20.0},
        "tasks": numbers,
    }


def test_tables_and_the_figure_come_from_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row("a", seed, 0.4 * seed)) + "\n" for seed in (1, 2)))
    monkeypatch.setattr(recipes, "ROWS", file)
    head, _, line = recipes.table("quickstart")
    assert head == "|  | seeds | processor seconds | return | success | reach | push |"
    # Means over tasks: (0.4 + 0.2 + 1) / 3 and (0.8 + 0.4 + 1) / 3.
    assert line == "| about a | 2 | 10 | 63 | 0.63 (0.53 to 0.73) | 0.30 | 0.60 |"
    drawn = recipes.draw(tmp_path)
    assert [path.name for path in drawn] == ["recipes.png", "recipes.svg"]
    assert "about a" in drawn[1].read_text()
