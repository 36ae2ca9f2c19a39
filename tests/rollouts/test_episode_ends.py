"""Episodes of every length in every autoreset mode, success reported in every way, and numbers that are none."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from goskill.envs import episode_seed
from goskill.errors import InputError
from goskill.evaluation import Results, compare, comparison_table, results_table
from goskill.figures.evaluations import draw_evaluations
from goskill.figures.returns import draw_returns
from goskill.rollouts import evaluate
from goskill.rollouts.batch_run import reported_success

TASKS = ["any name: at all", "b"]


class Ending(gymnasium.Env[Any, Any]):
    """Ends after 1 + seed mod 5 steps: terminated where that is even, truncated where it is odd.

    Pays the number of the step. ``report(step, over)`` is the info of a step.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, report: Any, reward: Any = float, observe: Any = float) -> None:
        self.report, self.reward, self.observe = report, reward, observe

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        # An episode after the counted one is longer, so that counting it would show.
        self.end = 50 if seed is None else length_of(seed)
        self.count = 0
        return np.zeros(2), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        over = self.count == self.end
        even = self.end % 2 == 0
        observation = np.array([0.0, self.observe(self.count)])
        return (
            observation,
            self.reward(self.count),
            over and even,
            over and not even,
            self.report(self.count, over),
        )


def length_of(seed: int) -> int:
    return 1 + seed % 5


class Idle:
    """Does nothing, and remembers what it was told."""

    name = "idle"

    def reset(self, tasks: Any, prompts: Any, seed: Any = 0) -> None:
        self.count = len(tasks)

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.zeros((len(observations), 1), np.float32)


def world(report: Any, mode: Any = AutoresetMode.NEXT_STEP, **parts: Any) -> Any:
    return lambda tasks: SyncVectorEnv([partial(Ending, report, **parts) for _ in tasks], autoreset_mode=mode)


def at_every_step(step: int, over: bool) -> dict[str, Any]:
    return {"success": float(step == 2)}


REPORTS = {
    "at every step": (at_every_step, lambda end: 2 if end >= 2 else -1, lambda end: end == 2),
    "at the last step": (
        lambda step, over: {"is_success": over} if over else {},
        lambda end: end,
        lambda end: True,
    ),
    "as a failure": (
        lambda step, over: {"is_success": False} if over else {},
        lambda end: -1,
        lambda end: False,
    ),
}


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_every_mode_gives_the_numbers_worked_out_by_hand(mode, report) -> None:
    told, first, last = REPORTS[report]
    results = evaluate(Idle(), TASKS, 5, seed=1, max_steps=9, batch=4, make_environments=world(told, mode))
    ends = set()
    for task in TASKS:
        rows = results.episodes[task]
        for index in range(5):
            end = length_of(episode_seed(1, task, index))
            ends.add(end)
            assert rows.length[index] == end
            assert rows.returns[index] == end * (end + 1) / 2
            assert rows.success_step[index] == first(end)
            assert rows.success_last[index] == last(end)
    assert len(ends) > 2
    assert results.protocol.suite is None


def test_what_nothing_reports_is_unknown_and_never_a_failure(tmp_path) -> None:
    results = evaluate(
        Idle(), TASKS, 3, max_steps=9, make_environments=world(lambda step, over: {"other": 1})
    )
    assert results.overall.success is None
    assert results.summary("b").to_json()["success"] is None
    again = Results.load(results.save(tmp_path / "results.json"))
    assert again.overall == results.overall
    assert again.episodes["b"].success_known is False
    lines = results.save_csv(tmp_path / "results.csv").read_text().splitlines()
    assert [line.split(",")[-4:-1] for line in lines[1:]] == [["unknown"] * 3] * 6
    for table in (results_table(results), comparison_table(compare({"a": results, "b": again}))):
        assert "unknown" in printed(table)
        assert "0%" not in printed(table)
    document = compare({"a": results, "b": again}).to_json()["contenders"]["b"]["overall"]
    assert document["success"] is None
    assert document["difference"]["success"] is None
    assert draw_returns({"a": results}).axes[1].containers == []
    points = [
        {"iteration": 0, "overall": results.overall.to_json(), "tasks": {"b": results.summary("b").to_json()}}
    ]
    assert np.isnan(draw_evaluations(points).axes[1].lines[-1].get_ydata()).all()


def test_one_episode_that_says_nothing_makes_its_task_unknown_and_no_other() -> None:
    """An episode cut by ``max_steps`` never reached the step that would have said it."""
    report = REPORTS["at the last step"][0]
    seeds = {TASKS[0]: [1, 9], TASKS[1]: [0, 1]}  # lengths 2 and 5, 1 and 2
    results = evaluate(Idle(), TASKS, 2, episode_seeds=seeds, max_steps=4, make_environments=world(report))
    assert results.summary(TASKS[0]).success is None
    assert results.summary(TASKS[1]).success.value == 1.0
    assert results.overall.success is None


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ({}, [None, None]),
        ({"success": [1.0, 0.0]}, [True, False]),
        ({"success": [True, True], "_success": [False, True]}, [None, True]),
        ({"success": np.array([None, 1], object)}, [None, True]),
        ({"is_success": [True, False]}, [True, False]),
        ({"success": [0.0, 0.0], "_success": [True, False], "is_success": [True, True]}, [False, True]),
        (
            {"final_info": {"success": [1, 0], "_success": [True, False]}, "_final_info": [True, True]},
            [True, None],
        ),
        (
            {"final_info": {"is_success": [1, 0]}, "_final_info": [False, True], "success": [1, 1]},
            [True, False],
        ),
        ({"final_info": np.array([None, {"is_success": True}], object), "success": [0, 0]}, [False, True]),
        ({"final_info": [{"success": 0.0}, {}], "success": [1, 1]}, [False, None]),
        ({"success": [np.nan, 1.0]}, [None, True]),
    ],
)
def test_success_is_read_from_every_format_of_gymnasium(infos, expected) -> None:
    success, reported = reported_success(infos, 2)
    assert [bool(one) if known else None for one, known in zip(success, reported, strict=True)] == expected


@pytest.mark.parametrize(
    ("infos", "told"),
    [
        ({"success": ["yes", "no"]}, "'success' to be a number"),
        ({"success": [1.0]}, "of 2 environments, got 1"),
    ],
)
def test_success_that_is_none_is_refused(infos, told) -> None:
    with pytest.raises(InputError, match=told):
        reported_success(infos, 2)


def nan_at(step: int) -> Any:
    return lambda count: float("nan") if count == step else float(count)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"reward": nan_at(2)},
            r"finite rewards, got nan from environment 0 \(task 'b', episode 0\) at step 2",
        ),
        (
            {"observe": nan_at(3)},
            r"finite observations, got nan from environment 0 \(task 'b', episode 0\) at step 3",
        ),
    ],
)
def test_numbers_that_are_not_finite_name_environment_task_and_step(parts, told) -> None:
    with pytest.raises(InputError, match=told):
        evaluate(
            Idle(),
            ["b"],
            1,
            episode_seeds={"b": [4]},
            max_steps=9,
            make_environments=world(at_every_step, **parts),
        )


def test_an_episode_that_is_over_may_pay_what_it_likes() -> None:
    seeds = {"b": [0, 4]}  # lengths 1 and 5
    odd = world(at_every_step, AutoresetMode.NEXT_STEP, reward=lambda count: np.nan if count > 5 else 1.0)
    results = evaluate(Idle(), ["b"], 2, episode_seeds=seeds, max_steps=9, make_environments=odd)
    assert results.episodes["b"].returns.tolist() == [1.0, 5.0]


class Listening(Idle):
    def reset(self, tasks: Any, prompts: Any, seed: Any = 0, rows: Any = None) -> None:
        super().reset(tasks, prompts, seed)
        self.heard: list[Any] = []

    def act(self, observations: np.ndarray, *, explore: bool = False) -> np.ndarray:
        assert not explore
        return super().act(observations)

    def observe(self, rewards: np.ndarray, terminated: np.ndarray) -> None:
        self.heard.append((rewards.tolist(), terminated.tolist()))


def test_a_policy_that_asks_for_it_hears_which_episodes_terminated() -> None:
    policy = Listening()
    seeds = {"b": [1, 2]}  # terminated after two steps, truncated after three
    evaluate(policy, ["b"], 2, episode_seeds=seeds, max_steps=9, make_environments=world(at_every_step))
    assert policy.heard == [
        ([1.0, 1.0], [False, False]),
        ([2.0, 2.0], [True, False]),
        ([0.0, 3.0], [False, False]),
    ]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda tasks: world(at_every_step)(tasks[:1]),
            "environments: expected one for each of 2 tasks, got 1",
        ),
        (
            lambda tasks: SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2),
            "expected continuous actions, got Discrete",
        ),
    ],
)
def test_environments_that_do_not_fit_are_refused(make, told) -> None:
    with pytest.raises(InputError, match=told):
        evaluate(Idle(), TASKS, 1, make_environments=make)


def test_prompts_of_other_dimensions_are_refused() -> None:
    from goskill.rollouts import Demonstration

    prompts = {"b": [Demonstration(np.zeros((4, 3)), np.zeros((3, 1)), np.zeros(3))]}
    with pytest.raises(InputError, match=r"prompts: expected observations of shape \(2,\).*'b'.*got \(3,\)"):
        evaluate(Idle(), ["b"], 1, prompts=prompts, make_environments=world(at_every_step))


def printed(table: Any) -> str:
    from rich.console import Console

    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()
