"""The example of a suite of one's own: every command takes it, and GO-Skill learns it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from goskill import cli
from goskill.data import EpisodeStore
from goskill.envs import suite_registry as registry
from goskill.errors import InputError
from goskill.evaluation import Results
from goskill.evaluation.points import read_points
from goskill.experiments import pipeline
from goskill.experiments.finetuning import finetune

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "navigation_suite:suite"


@pytest.fixture(scope="module")
def example() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    import navigation_suite

    yield navigation_suite
    sys.path.remove(str(EXAMPLES))
    registry._loaded.pop(NAME, None)


@pytest.fixture(scope="module")
def trained(example: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("navigation")
    results = example.main(folder)
    assert results.overall.success.value >= 0.9
    return folder


def test_the_suite_takes_few_lines() -> None:
    text = (EXAMPLES / "navigation_suite.py").read_text()
    own = text[text.index("def expert") : text.index("SMALL = [")]
    assert len(own.strip().splitlines()) <= 20


def test_store_run_and_results_name_the_suite(trained: Path) -> None:
    assert EpisodeStore.open(trained / "data").provenance[0]["suite"] == "navigation"
    assert EpisodeStore.open(trained / "run" / "prompts").provenance[0]["suite"] == "navigation"
    assert '"suite": "navigation"' in (trained / "run" / "settings.json").read_text()
    assert Results.load(trained / "run").protocol.suite == "navigation"


def test_the_command_line_collects_in_a_suite_of_the_current_directory(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "navigation_suite.py", tmp_path)
    command = [
        "collect",
        "--suite",
        NAME,
        "--tasks",
        "east,west",
        "--episodes",
        "2",
        "--out",
        "data",
        "--workers",
        "1",
    ]
    code = "import sys; sys.path = [place for place in sys.path if place]; from goskill.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    store = EpisodeStore.open(tmp_path / "data")
    assert store.tasks == ["east", "west"]
    assert store.num_episodes == 4


def goskill(*arguments: str) -> int:
    """A command in this process."""
    import typer

    return cli._status(lambda: typer.main.get_command(cli.app).main(arguments, standalone_mode=False))


def test_eval_diagnose_and_finetune_take_the_suite(trained: Path, tmp_path: Path, capsys: Any) -> None:
    run, data = str(trained / "run"), str(trained / "data")
    assert (
        goskill(
            "eval",
            run,
            "--suite",
            NAME,
            "--episodes",
            "1",
            "--tasks",
            "north",
            "--out",
            str(tmp_path / "r.json"),
        )
        == 0
    )
    assert Results.load(tmp_path / "r.json").tasks == ["north"]
    assert goskill("diagnose", run, data, "--suite", NAME, "--episodes", "1") == 0
    assert "rollouts left out" not in capsys.readouterr().out
    changes = [f"--set=training.{name}" for name in ("warmup_iterations=1", "decay_iterations=1")]
    tuned = [*("finetune", run, "--data", data, "--out", str(tmp_path / "tuned"), "--suite", NAME), *changes]
    assert (
        goskill(*tuned, "--iterations", "2", "--evaluate-every", "2", "--set", "evaluation.episodes=1") == 0
    )
    points = read_points(tmp_path / "tuned" / "evaluations.jsonl")
    assert [point["iteration"] for point in points] == [0, 2]
    assert points[-1]["overall"]["success"] is not None


@pytest.mark.parametrize(
    ("suite", "told"),
    [
        (None, "is of suite 'navigation', which is not known here: give it with --suite module:attribute"),
        ("mt10", "expected observation_dim 39, that of suite 'mt10', got 2"),
        ("maze", "expected observation_dim 4, that of suite 'maze', got 2"),
        ("nowhere:suite", "suite 'nowhere:suite': nowhere:suite cannot be loaded"),
    ],
)
def test_a_suite_that_does_not_fit_a_run_is_one_line(
    trained: Path, capsys: Any, suite: str | None, told: str
) -> None:
    arguments = ["eval", str(trained / "run"), *(("--suite", suite) if suite else ())]
    assert goskill(*arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_suite_that_does_not_fit_the_data_stops_training_and_fine_tuning(
    trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected observation_dim 39, that of suite 'mt10', got 2"):
        pipeline.train(trained / "data", tmp_path / "run", suite="mt10")
    with pytest.raises(
        InputError, match=r"evaluate_every: expected 0, or a suite to evaluate in: .*'mt10', got 2"
    ):
        finetune(trained / "run", trained / "data", tmp_path / "tuned", evaluate_every=1, suite="mt10")
    assert not any(tmp_path.iterdir())


def test_without_a_known_suite_diagnosis_leaves_rollouts_out(trained: Path, capsys: Any) -> None:
    document = pipeline.diagnose(trained / "run", trained / "data", as_json=True)
    assert "which is not known here" in document["left_out"]["rollouts"]
