"""The example of a method of one's own goes through the same commands as ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_store import small_store

import goskill
from goskill.data import EpisodeStore
from goskill.errors import InputError
from goskill.experiments import pipeline
from goskill.methods import Method, find, register

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_it_is_short() -> None:
    assert len((EXAMPLES / "nearest_neighbour.py").read_text().splitlines()) <= 120


def test_it_is_trained_from_the_command_line_and_imitates_what_is_stored(tmp_path: Path) -> None:
    small_store(tmp_path / "data")
    command = ["train", "--method", "nearest_neighbour:NearestNeighbour", "--data", "data", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": f"{EXAMPLES}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-m", "goskill", *command, "--set", "method.best_episodes=2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sys.path.insert(0, str(EXAMPLES))
    try:
        policy = goskill.load_policy(tmp_path / "run")
    finally:
        sys.path.remove(str(EXAMPLES))
    store = EpisodeStore.open(tmp_path / "data")
    episodes = [store.episode(store.best_episodes(task, 1)[0]) for task in store.tasks]
    policy.reset(store.tasks)
    actions = policy.act(np.stack([episode.observations[1] for episode in episodes]))
    np.testing.assert_array_equal(actions, np.stack([episode.actions[1] for episode in episodes]))


def test_a_method_that_breaks_the_interface_is_refused_by_name(tmp_path: Path) -> None:
    class Half(Method):
        pass

    with pytest.raises(
        InputError, match=r"method 'half': .*Half does not implement create, modules, phases, policy"
    ):
        register("half")(Half)
    other = find("prompt_dt").method
    with pytest.raises(
        InputError, match=r"method 'go_skill': the name is taken by goskill\.methods\.go_skill"
    ):
        register("go_skill")(other)
    with pytest.raises(InputError, match="unknown method 'go-skill': did you mean 'go_skill'"):
        pipeline.train(tmp_path, tmp_path / "run", method="go-skill")
    with pytest.raises(InputError, match="expected MODULE:CLASS that can be imported"):
        find("no_such_module:Method")
