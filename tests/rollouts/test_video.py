"""Films: what the camera sees, what is written on it, and where it can't work."""

from __future__ import annotations

from typing import Any

import counting_suite
import imageio.v3 as iio
import numpy as np
import pytest

from goskill.envs import GymnasiumSuite, episode_seed, find_suite
from goskill.errors import InputError
from goskill.figures.skill_pictures import draw_skill_pictures
from goskill.rollouts import RandomPolicy, ScriptedPolicy, film
from goskill.rollouts.rendering import RenderedEnvironments, require_rendering

TASKS = ["door-close", "reach"]


@pytest.fixture(scope="module")
def rendering() -> str:
    try:
        return require_rendering()
    except InputError as reason:
        pytest.skip(str(reason))


class SkilfulPolicy(ScriptedPolicy):
    """The expert, pretending that its skill is 0 in the first four steps and 1 afterwards."""

    skill_count = 2
    horizon = 4

    def reset(self, tasks, prompts, seed=0) -> None:
        super().reset(tasks, prompts, seed)
        self.count, self.history, self.steps = len(tasks), [], 0

    def act(self, observations):
        if self.steps % self.horizon == 0:
            self.history.append(np.full(self.count, min(self.steps // self.horizon, 1)))
        self.steps += 1
        return super().act(observations)

    @property
    def skill_history(self):
        return np.array(self.history)


@pytest.fixture(scope="module")
def films(rendering, tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    heard = []
    settings = {"max_steps": 12, "every": 4, "size": 128}
    paths = film(SkilfulPolicy(), TASKS, folder, progress=lambda *x: heard.append(x), **settings)
    return folder, paths, heard


def test_each_task_gets_a_film_of_its_steps(films) -> None:
    folder, paths, heard = films
    assert paths == [folder / f"{task}.gif" for task in TASKS]
    for path in paths:
        frames = iio.imread(path)
        assert frames.shape == (4, 128 * 3 // 4 + 40, 128, 3)
        assert frames[0].std() > 20
        assert not np.array_equal(frames[0], frames[-1])
    assert heard[-1] == (24, 24)


def test_each_skill_of_a_task_gets_three_pictures(films) -> None:
    folder, _, _ = films
    for skill in (0, 1):
        for task in TASKS:
            assert iio.imread(folder / "skills" / str(skill) / f"{task}.png").shape == (96, 3 * 128, 3)
    figure = draw_skill_pictures(folder / "skills")
    assert [axis.get_title() for axis in figure.axes] == TASKS * 2


def test_there_is_no_figure_without_pictures(tmp_path) -> None:
    assert draw_skill_pictures(tmp_path / "skills") is None


def test_environments_do_not_disturb_each_others_pictures(rendering) -> None:
    def first_pictures(tasks):
        environments = RenderedEnvironments(find_suite("metaworld"), tasks, 64, after_success=50)
        try:
            environments.reset(seed=[episode_seed(0, task, 0) for task in tasks])
            for _ in range(2):
                seen = [environments.picture(index) for index in range(len(tasks))]
            return seen
        finally:
            environments.close()

    together = first_pictures(TASKS)
    for task, picture in zip(TASKS, together, strict=True):
        np.testing.assert_array_equal(first_pictures([task])[0], picture)


def test_where_rendering_is_impossible_the_message_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(InputError, match=r"rendering is not possible.*libegl1.*nonsense"):
        film(ScriptedPolicy(), TASKS, tmp_path / "films")
    assert not (tmp_path / "films").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"film_format": "avi"}, "film_format"), ({"every": 0}, "every"), ({"size": 3}, "size")],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, named: str) -> None:
    with pytest.raises(InputError, match=named):
        film(ScriptedPolicy(), TASKS, tmp_path, **arguments)


def counts(frames) -> list[int]:
    """The steps that pictures of the counting suite show; a GIF's palette keeps 256 colours."""
    return [round(float(frame[60, 30, 0]) / 4) for frame in frames]


def test_films_of_any_suite_end_with_the_episode(tmp_path) -> None:
    space = counting_suite.suite.action_space
    (path,) = film(
        RandomPolicy(space=space),
        ["long"],
        tmp_path,
        suite=counting_suite.suite,
        every=1,
        size=66,
        film_format="gif",
    )
    frames = iio.imread(path)
    assert frames.shape == (5, 44 + 40, 66, 3), (
        "five steps, twice 4 x 6 pixels by eleven, under a bar of text"
    )
    assert counts(frames) == [1, 2, 3, 4, 5]


class SolvedEnv(counting_suite.CountingEnv):
    """Succeeds in its third step, and goes on."""

    def step(self, action: np.ndarray) -> Any:
        *answer, info = super().step(action)
        return *answer, {**info, "success": self.count == 3}


def test_a_film_ends_fifty_steps_after_success(tmp_path) -> None:
    suite = GymnasiumSuite("solved", SolvedEnv, ["endless"], max_steps=100)
    policy = RandomPolicy(space=counting_suite.suite.action_space)
    heard = []
    settings = {"every": 1, "size": 66, "progress": lambda *counts: heard.append(counts)}
    (path,) = film(policy, ["endless"], tmp_path, suite=suite, **settings)
    assert len(heard) < 60, "nothing is played that nobody sees"
    assert counts(iio.imread(path)) == list(range(1, 54))


class UnsuccessfulEnv(counting_suite.CountingEnv):
    """Says nothing, then that it failed, by two keys of which the first counts."""

    def step(self, action: np.ndarray) -> Any:
        *answer, info = super().step(action)
        told = {"success": float("nan")} if self.count < 3 else {"success": 0, "is_success": 1}
        return *answer, {**info, **told}


def test_a_film_goes_on_where_no_success_counts(tmp_path) -> None:
    suite = GymnasiumSuite("unsuccessful", UnsuccessfulEnv, ["endless"], max_steps=60)
    policy = RandomPolicy(space=counting_suite.suite.action_space)
    (path,) = film(policy, ["endless"], tmp_path, suite=suite, every=1, size=66)
    assert counts(iio.imread(path)) == list(range(1, 61))


def test_a_suite_without_pictures_is_refused_before_anything_runs(tmp_path) -> None:
    from goskill.envs import GymnasiumSuite

    blind = GymnasiumSuite("blind", Blind, ["a"], max_steps=3)
    with pytest.raises(InputError, match="video: suite 'blind' draws no pictures"):
        film(RandomPolicy(2), ["a"], tmp_path / "films", suite=blind)
    assert not (tmp_path / "films").exists()


class Blind(counting_suite.CountingEnv):
    metadata = {}  # noqa: RUF012

    def __init__(self, task):
        super().__init__("short")
