"""What the rehearsal without a GPU goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from goskill.bench import rehearsal
from goskill.methods.registry import built_in_names, find


def test_every_method_and_ablation_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(
        rehearsal, "_rehearse", lambda made, title, standin, chosen: ways.update({title: chosen})
    )
    monkeypatch.setattr(rehearsal, "finished_run", lambda *given: Path("run"))
    monkeypatch.setattr(rehearsal.Rehearsal, "iterations", lambda self: 18)
    monkeypatch.setattr(rehearsal.pool, "checked_actions", rehearsal.pool.checked_actions)
    rehearsal.rehearse(tmp_path, [])
    assert [title for title in ways if title in built_in_names()] == built_in_names()
    for name in built_in_names():
        assert {(way.get("data"), way["cuda_graphs"]) for way in ways[name]} >= {
            (data, graphs) for data in ("host", "device") for graphs in ("on", "off")
        }
        assert {way["device"] for way in ways[name]} == {"cuda", "cuda:1"}
        assert any("stop_at" in way for way in ways[name])
    for name in ("go_skill", "srtd"):
        assert {f"{name}, {ablation}" for ablation in find(name).method.ablations} <= set(ways)


def test_methods_that_begin_with_a_run_are_given_one() -> None:
    fields = {name: find(name).method.Settings.__dataclass_fields__ for name in built_in_names()}
    assert {name for name in fields if "meta" in fields[name]} <= set(rehearsal.BEGIN_WITH)
