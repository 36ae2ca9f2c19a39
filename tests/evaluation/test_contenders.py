"""read_contenders(): names and runs from a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from goskill.errors import InputError
from goskill.evaluation import read_contenders


def test_runs_with_and_without_names(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3e-4").mkdir()
    assert read_contenders(["runs/a", "b=x,y", "lr=3e-4", "other/c"]) == {
        "a": [Path("runs/a")],
        "b": [Path("x"), Path("y")],
        "lr=3e-4": [Path("lr=3e-4")],
        "c": [Path("other/c")],
    }
    assert list(read_contenders(["x/run", "y/run", "x/other"])) == ["x/run", "y/run", "other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least one"),
        (["=a"], "'=a'"),
        (["name="], "'name='"),
        (["name=a,,b"], "'name=a,,b'"),
        (["a=x", "a=y"], "'a' twice"),
        (["a=x,y", "b=y"], "y twice"),
        (["x", "x"], "every run once, got .*x twice"),
        (["x", "y/x", "x"], "x"),
    ],
)
def test_what_is_refused_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match="runs: .*" + message):
        read_contenders(arguments)
