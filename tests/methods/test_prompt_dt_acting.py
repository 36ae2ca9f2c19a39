"""PromptDTPolicy: cached acting equals recomputing everything over whole episodes, in every form of the method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_store import ACTION, OBSERVATION, episode, small_prompt_dt
from torch import Tensor

from goskill.errors import InputError
from goskill.methods.prompt_dt import PromptDTNetworks, PromptDTPolicy
from goskill.models import Decisions, Normalize
from goskill.rollouts.policy import Demonstration, Policy, SkillPolicy

SCALE, STEPS = 10.0, 17
TASKS = ("left", "right", "short")

VARIANTS: dict[str, dict[str, Any]] = {
    "Prompt-DT": {},
    "MH-Prompt-DT": {"multi_head": True, "tasks": TASKS},
    "MTDT": {"prompt_length": 0},
    "MTDT with task identity": {"prompt_length": 0, "task_embedding": 5, "tasks": TASKS},
    "MH-MTDT": {"prompt_length": 0, "multi_head": True, "tasks": TASKS},
    "everything": {"multi_head": True, "task_embedding": 5, "tasks": TASKS},
    "context of one": {"context": 1},
}


def make_networks(**changes: Any) -> PromptDTNetworks:
    torch.manual_seed(4)
    normalize = Normalize(torch.linspace(-0.5, 0.5, OBSERVATION), torch.linspace(0.5, 2.0, OBSERVATION))
    networks = PromptDTNetworks(small_prompt_dt(**changes), normalize, ACTION).eval()
    for parameter in networks.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return networks


class PlainPolicy:
    """One environment, nothing cached: pads, stacks and recomputes everything at every step, in float64."""

    def __init__(self, networks: PromptDTNetworks, task: str, shown: Demonstration, target: float) -> None:
        self.networks = networks.double()
        self.task = torch.tensor([TASKS.index(task)])
        self.shown = shown
        self.target = target
        self.states: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.to_go: list[float] = []

    def rows(
        self, length: int, times: list[int], to_go: list[float], states: list[Any], actions: list[Any]
    ) -> Decisions:
        padding = length - len(times)
        normalized = self.networks.normalize(torch.from_numpy(np.stack(states)).double())
        if self.networks.policy.embed_task is not None:
            vector = self.networks.policy.embed_task.weight[self.task].expand(len(times), -1)
            normalized = torch.cat([normalized, vector], dim=1)

        def padded(values: Tensor) -> Tensor:
            return torch.cat([torch.zeros(padding, *values.shape[1:], dtype=values.dtype), values])[None]

        return Decisions(
            padded(torch.tensor(to_go, dtype=torch.float64)[:, None] / SCALE),
            padded(normalized),
            padded(torch.from_numpy(np.stack(actions)).double()),
            padded(torch.tensor(times)),
            padded(torch.ones(len(times), dtype=torch.bool)),
        )

    def act(self, observation: np.ndarray) -> np.ndarray:
        settings = self.networks.settings
        self.states.append(observation)
        self.to_go.append(self.target - sum(self.rewards))
        actions = [*self.actions, np.zeros(ACTION)]
        times = list(range(len(self.states)))[-settings.context :]
        history = self.rows(
            settings.context,
            times,
            *([column[t] for t in times] for column in (self.to_go, self.states, actions)),
        )
        prompt = None
        if settings.prompt_length:
            T = len(self.shown.rewards)
            last = list(range(max(0, T - settings.prompt_length), T))
            to_go = [float(self.shown.rewards[t:].astype(np.float64).sum()) for t in last]
            prompt = self.rows(
                settings.prompt_length,
                last,
                to_go,
                [self.shown.observations[t] for t in last],
                [self.shown.actions[t] for t in last],
            )
        with torch.no_grad():
            action = self.networks.policy(history, prompt, self.task)[0, -1].numpy()
        self.actions.append(action)
        return action


@pytest.mark.parametrize("variant", VARIANTS)
def test_caches_equal_recomputing_everything_over_an_episode(variant: str) -> None:
    # The demonstration of "short" has 2 steps, fewer than the prompt: it is padded.
    shown = {"left": [episode(0, 30, 0.3)], "right": [episode(1, 9, 0.3)], "short": [episode(2, 2, 0.0)]}
    tasks = ["left", "right", "short", "left", "right"]
    policy = PromptDTPolicy(make_networks(**VARIANTS[variant]), chunk=2)
    random = np.random.default_rng(0)
    observations = random.normal(size=(STEPS, len(tasks), OBSERVATION)).astype(np.float32)
    rewards = random.uniform(0, 1, size=(STEPS, len(tasks))).astype(np.float32)
    policy.reset(tasks, shown)
    acted = []
    for seen, paid in zip(observations, rewards, strict=True):
        acted.append(policy.act(seen))
        policy.observe(paid)
    networks = make_networks(**VARIANTS[variant])
    for row, task in enumerate(tasks):
        target = float(shown[task][0].rewards.astype(np.float64).sum())
        plain = PlainPolicy(networks, task, shown[task][0], target)
        for step in range(STEPS):
            expected = plain.act(observations[step, row])
            np.testing.assert_allclose(acted[step][row], expected, rtol=0, atol=1e-5)
            plain.rewards.append(float(rewards[step, row]))


def test_the_target_is_the_best_return_among_the_demonstrations() -> None:
    demonstrations = [episode(seed, 12, 0.0) for seed in range(3)]
    best = max(float(one.rewards.astype(np.float64).sum()) for one in demonstrations)
    policy = PromptDTPolicy(make_networks(prompt_length=0))
    seen = np.ones((1, OBSERVATION), dtype=np.float32)
    first = []
    for prompts in (demonstrations, [max(demonstrations, key=lambda one: float(one.rewards.sum()))]):
        policy.reset(["left"], {"left": prompts}, seed=3)
        first.append(policy.act(seen))
    np.testing.assert_array_equal(*first)
    plain = PlainPolicy(make_networks(prompt_length=0), "left", demonstrations[0], best)
    np.testing.assert_allclose(first[0][0], plain.act(seen[0]), rtol=0, atol=1e-5)


def test_it_is_a_policy_without_skills_and_says_which() -> None:
    policy = PromptDTPolicy(make_networks())
    assert isinstance(policy, Policy)
    assert not isinstance(policy, SkillPolicy)
    for variant in ("Prompt-DT", "MH-Prompt-DT", "MTDT", "MH-MTDT"):
        assert PromptDTPolicy(make_networks(**VARIANTS[variant])).name == variant


def test_a_fork_has_episodes_of_its_own() -> None:
    shown = {"left": [episode(0, 30, 0.3)]}
    policy = PromptDTPolicy(make_networks())
    random = np.random.default_rng(5)
    seen = random.normal(size=(2, 4, 1, OBSERVATION)).astype(np.float32)
    alone = []
    for run in seen:
        policy.reset(["left"], shown)
        alone.append([policy.act(observation) for observation in run])
    both = [policy, policy.fork()]
    for one in both:
        one.reset(["left"], shown)
    together = [[one.act(seen[row, step]) for row, one in enumerate(both)] for step in range(4)]
    np.testing.assert_array_equal(np.stack(together, 1), np.stack(alone))


def test_bfloat16_stays_close_to_float32() -> None:
    observations = np.random.default_rng(3).normal(size=(8, 2, OBSERVATION)).astype(np.float32)
    runs = {}
    for precision in ("float32", "bfloat16"):
        policy = PromptDTPolicy(make_networks(**VARIANTS["everything"]), precision=precision)
        policy.reset(["left", "right"], {task: [episode(0, 30, 0.3)] for task in TASKS})
        runs[precision] = np.stack([policy.act(seen) for seen in observations])
        assert runs[precision].dtype == np.float32
    np.testing.assert_allclose(runs["bfloat16"], runs["float32"], rtol=0, atol=0.2)


def test_tasks_that_the_networks_would_have_to_know_are_named() -> None:
    shown = {"left": [episode(0, 9, 0.0)], "push": [episode(1, 9, 0.0)]}
    for changes in ({"multi_head": True}, {"task_embedding": 3}):
        policy = PromptDTPolicy(make_networks(tasks=("left", "right"), **changes))
        with pytest.raises(InputError, match="none for 'push': fine-tune"):
            policy.reset(["left", "push"], shown)
    PromptDTPolicy(make_networks()).reset(["left", "push"], shown)
    with pytest.raises(InputError, match="demonstration of task 'right', got none"):
        PromptDTPolicy(make_networks(prompt_length=0)).reset(["left", "right"], shown)


def test_episodes_longer_than_the_time_tables_are_refused() -> None:
    policy = PromptDTPolicy(make_networks(max_decisions=8))
    policy.reset(["left"], {"left": [episode(0, 8, 0.0)]})
    for _ in range(8):
        policy.act(np.zeros((1, OBSERVATION), dtype=np.float32))
    with pytest.raises(InputError, match=r"max_decisions.*step 9"):
        policy.act(np.zeros((1, OBSERVATION), dtype=np.float32))
