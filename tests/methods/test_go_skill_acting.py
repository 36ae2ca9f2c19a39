"""GoSkillPolicy: cached acting equals recomputing everything, and wrong input is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from small_store import ACTION, OBSERVATION, episode, small_settings
from torch import Tensor

from goskill.errors import InputError
from goskill.methods.go_skill import ABLATIONS, GoSkillNetworks, GoSkillPolicy
from goskill.models import Decisions, Normalize
from goskill.rollouts.policy import Demonstration, Policy, SkillPolicy

HORIZON = 4


def make_networks(**changes: Any) -> GoSkillNetworks:
    torch.manual_seed(4)
    normalize = Normalize(torch.linspace(-0.5, 0.5, OBSERVATION), torch.linspace(0.5, 2.0, OBSERVATION))
    networks = GoSkillNetworks(small_settings(**changes), normalize, ACTION).eval()
    for part in (networks.decoder, networks.policy):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    if networks.codebook is not None:
        networks.codebook.codebook = torch.randn(5, 8) * 0.3
    return networks


def prompts(lengths: Sequence[int] = (30, 17)) -> dict[str, list[Demonstration]]:
    return {
        task: [episode(10 * place + index, length, 0.3) for index, length in enumerate(lengths)]
        for place, task in enumerate(("left", "right"))
    }


class PlainPolicy:
    """One environment, nothing cached: pads, stacks and recomputes everything at every step, in float64."""

    def __init__(
        self, networks: GoSkillNetworks, shown: Demonstration, target: float, task: str = ""
    ) -> None:
        self.networks = networks.double()
        self.told = torch.tensor([float(known == task) for known in networks.settings.told_tasks]).double()
        self.settings = networks.settings
        self.shown = shown
        self.target = target
        self.states: list[Tensor] = []
        self.actions: list[Tensor] = []
        self.rewards: list[float] = []
        self.to_go: list[float] = []
        self.skills: list[Tensor] = []

    def embedding(self, states: Tensor, actions: Tensor, step: int) -> Tensor:
        horizon = self.settings.horizon
        if self.settings.skill_source == "actions":
            window = torch.zeros(horizon, ACTION, dtype=torch.float64)
            ahead = actions[step : step + horizon]
            window[: len(ahead)] = ahead
            return self.networks.encoder(window.flatten())
        normalized = self.networks.normalize(states)
        return self.networks.encoder(normalized[min(step + horizon, len(actions))] - normalized[step])

    def prompt(self) -> Decisions:
        states = torch.from_numpy(self.shown.observations).double()
        actions = torch.from_numpy(self.shown.actions).double()
        rewards = np.asarray(self.shown.rewards, dtype=np.float64)
        steps = len(actions)
        horizon, length = self.settings.horizon, self.settings.prompt_length
        points = [max(steps - horizon, 0) - horizon * back for back in range(length - 1, -1, -1)]
        valid = [point >= 0 for point in points]
        return Decisions(
            returns_to_go=torch.tensor(
                [rewards[t:].sum() / self.settings.return_scale if t >= 0 else 0.0 for t in points],
                dtype=torch.float64,
            )[None, :, None],
            observations=torch.stack([self.networks.normalize(states[max(t, 0)]) for t in points])[None],
            choices=torch.stack(
                [self.input(self.networks.assign(self.embedding(states, actions, max(t, 0)))) for t in points]
            )[None],
            timesteps=torch.tensor([max(t, 0) // horizon for t in points])[None],
            mask=torch.tensor([valid]),
        )

    def input(self, skill: Tensor) -> Tensor:
        return self.networks.policy_input(skill)

    def decide(self) -> Tensor:
        """Scores of the next skill from the whole padded sequence."""
        decisions, context = len(self.to_go), self.settings.context
        first = max(0, decisions - context)
        rows = list(range(first, decisions))
        padding = context - len(rows)
        placeholder = torch.zeros_like(self.input(self.skills[0])) if self.skills else None
        skills = [self.input(skill) for skill in self.skills[first:]]
        if placeholder is None:
            empty = self.networks.assign(torch.zeros(self.settings.embedding_size, dtype=torch.float64))
            placeholder = torch.zeros_like(self.input(empty))
        skills = [placeholder] * padding + skills + [placeholder]  # the last is not chosen yet
        states = torch.stack(
            [self.networks.normalize(self.states[row * self.settings.horizon]) for row in rows]
        )
        history = Decisions(
            returns_to_go=torch.cat(
                [
                    torch.zeros(padding),
                    torch.tensor([self.to_go[row] for row in rows]) / self.settings.return_scale,
                ]
            ).double()[None, :, None],
            observations=torch.cat([torch.zeros(padding, OBSERVATION, dtype=torch.float64), states])[None],
            choices=torch.stack(skills)[None],
            timesteps=torch.tensor([0] * padding + rows)[None],
            mask=torch.tensor([[False] * padding + [True] * len(rows)]),
        )
        prompt = self.prompt() if self.settings.prompt_length else None
        return self.networks.policy(history, prompt)[0, -1]

    def act(self, observation: np.ndarray) -> np.ndarray:
        networks, step, horizon = self.networks, len(self.states), self.settings.horizon
        self.states.append(torch.from_numpy(observation).double())
        if step % horizon == 0:
            self.to_go.append(self.target - sum(self.rewards))
            scores = self.decide()
            self.skills.append(scores.argmax() if self.settings.discrete else scores)
        begin = step - step % horizon
        states = torch.zeros(horizon, OBSERVATION, dtype=torch.float64)
        actions = torch.zeros(horizon, ACTION, dtype=torch.float64)
        for row in range(begin, step + 1):
            states[row - begin] = networks.normalize(self.states[row])
            if row < step:
                actions[row - begin] = self.actions[row]
        reached = networks.encoder(states - states[0]) if self.settings.reached_goal else None
        skill = self.skills[-1][None]
        action = networks.decoder(
            networks.vectors(skill),
            skill if self.settings.discrete else None,
            None if reached is None else reached[None],
            torch.cat([states, self.told.expand(horizon, -1)], dim=1)[None],
            actions[None],
        )[0, step - begin]
        self.actions.append(action)
        return action.numpy()


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "multi-head": {"multi_head_decoder": True},
    "no-reached-goal": ABLATIONS["no-reached-goal"],
    "no-vq": ABLATIONS["no-vq"],
    "action-encoder": ABLATIONS["action-encoder"],
    "policy-table": {"policy_skill_input": "index"},
    "no-prompt": {"prompt_length": 0},
    "mlp-decoder": {"decoder": "mlp"},
    "mlp-decoder-multi-head-no-reached-goal": {
        "decoder": "mlp",
        "multi_head_decoder": True,
        "reached_goal": False,
    },
    "context-of-one": {"context": 1},
    "told-task": {"tell_task": True, "told_tasks": ("short", "right", "left")},
    "told-task-mlp": {"decoder": "mlp", "tell_task": True, "told_tasks": ("short", "right", "left")},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_caches_equal_recomputing_everything_over_an_episode(variant: str) -> None:
    settings = VARIANTS[variant]
    # Demonstrations of 30 steps, and of 9 and 3 steps, whose prompts are padded.
    shown = {"left": [episode(0, 30, 0.3)], "right": [episode(1, 9, 0.3)], "short": [episode(2, 3, 0.0)]}
    tasks = ["left", "right", "short", "left", "right"]
    policy = GoSkillPolicy(make_networks(**settings), chunk=2)
    random = np.random.default_rng(0)
    observations = random.normal(size=(45, len(tasks), OBSERVATION)).astype(
        np.float32
    )  # 12 decisions: slides
    rewards = random.uniform(0, 1, size=(45, len(tasks))).astype(np.float32)
    policy.reset(tasks, shown)
    acted = []
    for seen, paid in zip(observations, rewards, strict=True):
        acted.append(policy.act(seen))
        policy.observe(paid)
    networks = make_networks(**settings)
    for row, task in enumerate(tasks):
        target = float(shown[task][0].rewards.astype(np.float64).sum())
        plain = PlainPolicy(networks, shown[task][0], target, task)
        with torch.no_grad():
            for step in range(45):
                expected = plain.act(observations[step, row])
                np.testing.assert_allclose(acted[step][row], expected, rtol=0, atol=1e-5)
                plain.rewards.append(float(rewards[step, row]))
        if networks.settings.discrete:
            assert policy.skill_history[:, row].tolist() == [int(skill) for skill in plain.skills]


def test_it_has_the_interfaces_that_evaluation_asks_for() -> None:
    policy = GoSkillPolicy(make_networks())
    assert isinstance(policy, Policy)
    assert isinstance(policy, SkillPolicy)
    assert (policy.skill_count, policy.horizon, policy.needs_prompts) == (5, 4, True)
    assert GoSkillPolicy(make_networks(codebook="none")).skill_count is None


def test_skill_history_holds_a_row_per_decision() -> None:
    policy = GoSkillPolicy(make_networks(), chunk=2)
    assert policy.skill_history.shape == (0, 0)
    policy.reset(["left"] * 3, prompts())
    assert policy.skill_history.shape == (0, 3)
    for step in range(9):
        actions = policy.act(np.full((3, OBSERVATION), step, dtype=np.float32))
        assert actions.shape == (3, ACTION)
        assert actions.dtype == np.float32
        assert policy.skill_history.shape == (step // HORIZON + 1, 3)
    assert policy.skill_history.dtype == np.int64


def test_actions_depend_neither_on_the_chunk_nor_on_the_other_environments() -> None:
    tasks = ["left", "right", "right", "left", "right"]
    seeds = [11, 12, 13, 14, 15]
    observations = np.random.default_rng(1).normal(size=(10, 5, OBSERVATION)).astype(np.float32)

    def run(chunk: int, rows: list[int]) -> np.ndarray:
        policy = GoSkillPolicy(make_networks(), chunk=chunk)
        policy.reset([tasks[row] for row in rows], prompts(), [seeds[row] for row in rows])
        return np.stack([policy.act(seen[rows]) for seen in observations])

    whole = run(512, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(run(2, [0, 1, 2, 3, 4]), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(512, [3, 1]), whole[:, [3, 1]], rtol=0, atol=1e-5)


def test_seeds_decide_which_demonstration_is_shown() -> None:
    def actions(seed: int | list[int]) -> np.ndarray:
        policy = GoSkillPolicy(make_networks(codebook="none"))
        policy.reset(["left"] * 20, prompts((30, 25, 22)), seed)
        return policy.act(np.zeros((20, OBSERVATION), dtype=np.float32))

    assert np.array_equal(actions(3), actions(3))
    per_environment = actions(list(range(20)))
    assert len(np.unique(per_environment.round(4), axis=0)) == 3


def test_a_second_episode_starts_afresh() -> None:
    policy = GoSkillPolicy(make_networks())
    observations = np.random.default_rng(2).normal(size=(7, 2, OBSERVATION)).astype(np.float32)
    runs = []
    for _ in range(2):
        policy.reset(["left", "right"], prompts(), seed=1)
        episode_actions = []
        for seen in observations:
            episode_actions.append(policy.act(seen))
            policy.observe(np.ones(2, dtype=np.float32))
        runs.append(np.stack(episode_actions))
    assert np.array_equal(runs[0], runs[1])


def test_bfloat16_stays_close_to_float32() -> None:
    observations = np.random.default_rng(3).normal(size=(3, 2, OBSERVATION)).astype(np.float32)
    runs = {}
    for precision in ("float32", "bfloat16"):
        policy = GoSkillPolicy(make_networks(codebook="none"), precision=precision)
        policy.reset(["left", "right"], prompts())
        runs[precision] = np.stack([policy.act(seen) for seen in observations])
        assert runs[precision].dtype == np.float32
    np.testing.assert_allclose(runs["bfloat16"], runs["float32"], rtol=0, atol=0.2)


def test_missing_and_unfit_demonstrations_are_refused_by_task() -> None:
    policy = GoSkillPolicy(make_networks())
    with pytest.raises(InputError, match="demonstration of task 'push', got none"):
        policy.reset(["left", "push"], prompts())
    good = prompts()["left"][0]
    spoilt = good.observations.copy()
    spoilt[3, 1] = np.nan
    for wrong, message in (
        (Demonstration(spoilt, good.actions, good.rewards), "finite observations in demonstration 0"),
        (
            Demonstration(good.observations[:-1], good.actions, good.rewards),
            r"observations of shape \(31, 6\)",
        ),
        (Demonstration(good.observations, good.actions[:, :1], good.rewards), r"actions of shape \(30, 2\)"),
        (Demonstration(good.observations[:1], good.actions[:0], good.rewards[:0]), "at least one step"),
    ):
        with pytest.raises(InputError, match=f"{message}.*'left'|'left'.*{message}|{message}"):
            policy.reset(["left"], {"left": [wrong]})


def test_wrong_observations_are_refused_by_environment_and_step() -> None:
    policy = GoSkillPolicy(make_networks(), chunk=2)
    with pytest.raises(InputError, match=r"shape \(0, 6\) as reset"):
        policy.act(np.zeros((3, OBSERVATION), dtype=np.float32))
    policy.reset(["left"] * 3, prompts())
    policy.act(np.zeros((3, OBSERVATION), dtype=np.float32))
    spoilt = np.zeros((3, OBSERVATION), dtype=np.float32)
    spoilt[2, 4] = np.inf
    with pytest.raises(InputError, match="environment 2 at step 2"):
        policy.act(spoilt)
    with pytest.raises(InputError, match=r"expected shape \(3, 6\)"):
        policy.act(np.zeros((2, OBSERVATION), dtype=np.float32))
    policy.act(np.zeros((3, OBSERVATION), dtype=np.float32))  # nothing was lost


def test_episodes_longer_than_the_time_table_are_refused() -> None:
    policy = GoSkillPolicy(make_networks(max_decisions=8))
    policy.reset(["left"], {"left": [episode(0, 30, 0.1)]})
    for _ in range(8 * HORIZON):
        policy.act(np.zeros((1, OBSERVATION), dtype=np.float32))
    with pytest.raises(InputError, match=r"max_decisions.*step 33"):
        policy.act(np.zeros((1, OBSERVATION), dtype=np.float32))


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"precision": "float16"}])
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        GoSkillPolicy(make_networks(), **wrong)
