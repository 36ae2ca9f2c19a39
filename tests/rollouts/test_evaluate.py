"""evaluate(): the protocol, the schedule, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goskill.envs import episode_seed
from goskill.errors import InputError
from goskill.rollouts import evaluate
from goskill.rollouts.schedule import schedule

TASKS = ["reach", "door-open", "push"]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))
def test_schedule_runs_every_episode_once_within_the_batch(tasks: int, episodes: int, batch: int) -> None:
    names = [f"task{i}" for i in range(tasks)]
    counted = []
    for group in schedule(names, episodes, batch):
        assert len(group.whole.environments) <= batch
        for keys in group.whole.rounds:
            assert [key.task for key in keys] == group.whole.environments
            counted += [(key.task, key.index) for key in keys if not key.spare]
            assert all(0 <= key.index < episodes for key in keys)
    assert sorted(counted) == [(name, index) for name in names for index in range(episodes)]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 60))
def test_halves_are_equal_and_together_the_whole(tasks: int, episodes: int, batch: int) -> None:
    names = [f"task{i}" for i in range(tasks)]
    for group in schedule(names, episodes, batch):
        whole, halves = group.whole, group.halves
        sizes = [len(half.environments) for half in halves]
        assert sum(sizes) == len(whole.environments)
        assert len(halves) == 1 or min(sizes) >= 16
        assert max(sizes) - min(sizes) <= 1
        for number, keys in enumerate(whole.rounds):
            together = [key for half in halves for key in half.rounds[number]]
            assert sorted(together, key=str) == sorted(keys, key=str)
            for half in halves:
                assert [key.task for key in half.rounds[number]] == half.environments
        assert len(set(halves[0].environments) & set(halves[-1].environments)) <= 1 or len(halves) == 1


def test_numbers_are_those_worked_out_by_hand(world, echo) -> None:
    results = evaluate(echo, TASKS, 4, seed=5, max_steps=7, make_environments=world)
    for task in TASKS:
        rows = results.episodes[task]
        seeds = [episode_seed(5, task, index) for index in range(4)]
        assert rows.seed.tolist() == seeds
        action = np.array([np.float32(seed % 1000) / np.float32(1000) for seed in seeds], np.float64)
        np.testing.assert_allclose(rows.returns, 7 * action + 28, rtol=1e-12)
        assert rows.success_step.tolist() == [-1 if task == "push" else 3] * 4
        assert not rows.success_last.any()
        assert rows.length.tolist() == [7] * 4
    assert results.overall.success.value == pytest.approx(2 / 3)
    assert results.overall.episodes == 12


def test_seeds_may_be_given(world, echo) -> None:
    given = {"reach": [5, 77], "push": [6, 5]}
    results = evaluate(
        echo, ["reach", "push"], 2, episode_seeds=given, max_steps=2, make_environments=world, batch=2
    )
    for task, seeds in given.items():
        assert results.episodes[task].seed.tolist() == seeds
        returns = [2 * float(np.float32(seed) / np.float32(1000)) + 3 for seed in seeds]
        np.testing.assert_allclose(results.episodes[task].returns, returns, rtol=1e-6)
    with pytest.raises(InputError, match="episode_seeds: expected 2 of task 'push', got 1"):
        evaluate(echo, ["push"], 2, episode_seeds={"push": [1]}, make_environments=world)


def test_success_at_the_last_step_is_told_apart(world, echo) -> None:
    results = evaluate(echo, ["reach"], 2, max_steps=4, make_environments=world)
    assert results.summary("reach").success_last.value == 1.0
    assert (
        evaluate(echo, ["reach"], 2, max_steps=6, make_environments=world).summary("reach").success_last.value
        == 0.0
    )


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 12, 100])
def test_results_do_not_depend_on_the_batch(world, make_echo, batch: int) -> None:
    whole = evaluate(make_echo(), TASKS, 4, seed=1, max_steps=6, make_environments=world)
    parts = evaluate(make_echo(), TASKS, 4, seed=1, max_steps=6, batch=batch, make_environments=world)
    for task in TASKS:
        for name in ("seed", "returns", "success_step", "success_last", "length"):
            np.testing.assert_array_equal(
                getattr(whole.episodes[task], name), getattr(parts.episodes[task], name)
            )
    assert all(len(made) <= batch for made in world.made[1:])


def test_an_episode_that_the_environment_ends_counts_no_further(make_world, echo) -> None:
    results = evaluate(echo, ["reach"], 3, max_steps=50, make_environments=make_world(last_step=4))
    assert results.episodes["reach"].length.tolist() == [4, 4, 4]
    assert results.summary("reach").success_last.value == 1.0


def test_the_policy_hears_rewards_and_gets_a_seed_per_environment(world, echo) -> None:
    evaluate(echo, ["reach", "door-open"], 2, seed=3, max_steps=2, batch=2, make_environments=world)
    assert [tasks for tasks, _ in echo.resets] == [["reach", "door-open"], ["reach", "door-open"]]
    assert [seeds for _, seeds in echo.resets] == [
        [episode_seed(3, task, index) for task in ("reach", "door-open")] for index in (0, 1)
    ]
    assert len(echo.paid) == 2


def test_progress_ends_at_the_total_and_never_falls(world, echo) -> None:
    heard: list[tuple[int, int]] = []
    evaluate(
        echo, TASKS, 3, max_steps=4, batch=4, progress=lambda *x: heard.append(x), make_environments=world
    )
    assert heard[-1] == (36, 36)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


class _SkilfulPolicy:
    """Chooses skill (decision + environment) mod 4 every 3 steps."""

    skill_count = 4
    horizon = 3

    def reset(self, tasks, prompts, seed=0) -> None:
        self.count = len(tasks)
        self.history: list[np.ndarray] = []
        self.step = 0

    def act(self, observations):
        if self.step % 3 == 0:
            self.history.append((len(self.history) + np.arange(self.count)) % 4)
        self.step += 1
        return np.zeros((self.count, 2), np.float32)

    @property
    def skill_history(self):
        return np.array(self.history)


def test_skill_usage_counts_every_decision_of_every_counted_episode(world) -> None:
    moments = []
    results = evaluate(
        _SkilfulPolicy(),
        ["reach", "door-open"],
        2,
        max_steps=7,
        record=moments.append,
        make_environments=world,
    )
    assert results.skills is not None
    assert results.skills.first_episode == {"reach": [0, 1, 2], "door-open": [1, 2, 3]}
    counts = {"reach": [0] * 4, "door-open": [0] * 4}
    for environment, task in enumerate(["reach", "door-open"] * 2):
        for decision in range(3):
            counts[task][(decision + environment) % 4] += 1
    assert results.skills.usage == counts
    assert [moment.skills[0] for moment in moments] == [0, 0, 0, 1, 1, 1, 2]
    assert [moment.step for moment in moments] == list(range(1, 8))


class _BadPolicy:
    def __init__(self, actions) -> None:
        self.actions = actions
        self.calls = 0

    def reset(self, tasks, prompts, seed=0) -> None:
        self.calls = 0

    def act(self, observations):
        self.calls += 1
        good = np.zeros((len(observations), 2), np.float32)
        return good if self.calls < 3 else self.actions(good)


def _put(value):
    def change(actions):
        actions[1, 1] = value
        return actions

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_put(np.nan), r"nan in dimension 1 of environment 1 \(task 'door-open', episode 0\) at step 3"),
        (_put(np.inf), r"inf in dimension 1 of environment 1 \(task 'door-open', episode 0\) at step 3"),
        (_put(1.5), r"1\.5 in dimension 1 of environment 1 \(task 'door-open', episode 0\) at step 3"),
        (lambda actions: actions[:, :1], r"shape \(2, 2\) at step 3 of reach, door-open, got \(2, 1\)"),
        (
            lambda actions: actions.astype(np.int64),
            r"floating point numbers at step 3 of reach, door-open, got int64",
        ),
    ],
)
def test_wrong_actions_name_environment_task_and_step(world, change, told: str) -> None:
    with pytest.raises(InputError, match=told):
        evaluate(_BadPolicy(change), ["reach", "door-open"], 1, max_steps=5, make_environments=world)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tasks": []}, "tasks"),
        ({"tasks": "reach"}, "tasks"),
        ({"tasks": ["reach", "reach"]}, "'reach' twice"),
        ({"episodes": 0}, "episodes"),
        ({"max_steps": 0}, "max_steps"),
        ({"batch": 0}, "batch"),
        ({"seed": 99999999999999999999}, "seed: expected an integer from 0 to"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(world, echo, arguments, named: str) -> None:
    with pytest.raises(InputError, match=named):
        evaluate(echo, **{"tasks": ["reach"], "make_environments": world, **arguments})
    assert world.made == []


def test_fewer_than_no_workers_are_refused(echo) -> None:
    with pytest.raises(InputError, match=r"workers: expected at least 0, got -1"):
        evaluate(echo, ["reach"], 1, workers=-1)


def test_a_policy_that_needs_prompts_is_refused_without_them(world, echo) -> None:
    echo.needs_prompts = True
    with pytest.raises(InputError, match=r"prompts: .* none of 'door-open'"):
        evaluate(
            echo,
            ["reach", "door-open"],
            1,
            prompts={"reach": [None], "door-open": []},
            make_environments=world,
        )
    assert world.made == []


def test_environments_are_closed_when_the_policy_fails(world) -> None:
    closed = []

    def make(tasks):
        environments = world(tasks)
        environments.close = lambda: closed.append(True)
        return environments

    with pytest.raises(InputError):
        evaluate(_BadPolicy(_put(np.nan)), ["reach", "door-open"], 1, max_steps=5, make_environments=make)
    assert closed == [True]
