"""Paper-size GO-Skill in the loop with MetaWorld, beside the way the field does it.

The peer keeps nothing from one action to the next: it stacks and pads what happened and runs the whole
decoder (31 tokens) for every action and the whole skill policy (90 tokens) for every decision, with one
stock environment per process: 50 of them, started before the clock is. goskill evaluates the same episodes with
the same weights as `goskill eval` does, all at a time, and the clock includes the start of its workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from goskill.envs import tasks_of
from goskill.methods.go_skill import GoSkillNetworks, GoSkillPolicy, GoSkillSettings
from goskill.methods.go_skill.contexts import read_prompts
from goskill.methods.sequence.prompting import demonstrated_return
from goskill.models import Decisions, Normalize
from goskill.rollouts import Demonstration, Policy, evaluate

TASKS = tasks_of("mt50")
STEPS = 500
EPISODES = 1
SEED = 0
GROUP = "paper-size GO-Skill, an episode of each task of MT50"
OBSERVATION_DIM, ACTION_DIM = 39, 4


class PaddedPolicy:
    """GO-Skill without caches: every action from the whole padded sequence."""

    name = "padded recomputation"

    def __init__(self, networks: GoSkillNetworks) -> None:
        self.networks = networks.eval()

    def reset(self, tasks: Sequence[str], prompts: Any, seed: int | Sequence[int] = 0) -> None:
        settings = self.networks.settings
        count = len(tasks)
        self.prompt = read_prompts(self.networks, [prompts[task][0] for task in tasks])
        self.to_go = torch.tensor([demonstrated_return(prompts[task][0]) for task in tasks])
        self.step = 0
        self.skills: list[torch.Tensor] = []
        self.mask = torch.zeros(count, settings.context, dtype=torch.bool)
        self.returns = torch.zeros(count, settings.context, 1)
        self.decided_at = torch.zeros(count, settings.context, OBSERVATION_DIM)
        self.chosen = torch.zeros(count, settings.context, settings.embedding_size)
        self.timesteps = torch.zeros(count, settings.context, dtype=torch.int64)

    @torch.inference_mode()
    def act(self, observations: np.ndarray) -> np.ndarray:
        settings = self.networks.settings
        normalized = self.networks.normalize(torch.from_numpy(observations))
        within = self.step % settings.horizon
        if within == 0:
            self._decide(normalized)
            self.states = torch.zeros(len(normalized), settings.horizon, OBSERVATION_DIM)
            self.actions = torch.zeros(len(normalized), settings.horizon, ACTION_DIM)
        self.states[:, within] = normalized
        reached = self.networks.encoder(self.states - self.states[:, :1])
        actions = self.networks.decoder(
            self.networks.vectors(self.skills[-1]), self.skills[-1], reached, self.states, self.actions
        )[:, within]
        self.actions[:, within] = actions
        self.step += 1
        return actions.numpy()

    def observe(self, rewards: np.ndarray) -> None:
        self.to_go -= torch.from_numpy(rewards)

    def _decide(self, normalized: torch.Tensor) -> None:
        settings = self.networks.settings
        rows = (self.mask, self.returns, self.decided_at, self.chosen, self.timesteps)
        for row in rows:
            row.copy_(row.roll(-1, 1))
        self.mask[:, -1] = True
        self.returns[:, -1, 0] = self.to_go / settings.return_scale
        self.decided_at[:, -1] = normalized
        self.chosen[:, -1] = 0
        self.timesteps[:, -1] = self.step // settings.horizon
        history = Decisions(self.returns, self.decided_at, self.chosen, self.timesteps, self.mask)
        skill = self.networks.policy(history, self.prompt)[:, -1].argmax(-1)
        self.chosen[:, -1] = self.networks.policy_input(skill)
        self.skills.append(skill)


class StockEnvironment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A MetaWorld environment as the package makes it, reseeded by ``reset(seed=...)``."""

    def __init__(self, task: str) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        environment = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        environment._partially_observable = False
        environment._freeze_rand_vec = False
        environment._set_task_called = True
        environment.seeded_rand_vec = True
        super().__init__(environment)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.env.unwrapped.seed(seed)
        return self.env.reset()


@pytest.fixture(scope="module")
def stock() -> Iterator[AsyncVectorEnv]:
    # Made before torch starts threads, which forked processes would lack.
    environments = AsyncVectorEnv(
        [partial(StockEnvironment, task) for task in TASKS], autoreset_mode=AutoresetMode.DISABLED
    )
    environments.reset(seed=SEED)
    yield environments
    environments.close()


@pytest.fixture(scope="module")
def networks(stock: AsyncVectorEnv) -> GoSkillNetworks:
    torch.manual_seed(SEED)
    normalize = Normalize(torch.zeros(OBSERVATION_DIM), torch.full((OBSERVATION_DIM,), 0.3))
    networks = GoSkillNetworks(GoSkillSettings(), normalize, ACTION_DIM).eval()
    assert networks.codebook is not None
    networks.codebook.codebook = 0.2 * torch.randn_like(networks.codebook.codebook)
    return networks


@pytest.fixture(scope="module")
def prompts() -> dict[str, list[Demonstration]]:
    random = np.random.default_rng(SEED)

    def demonstration() -> Demonstration:
        walk = 0.1 * random.standard_normal((STEPS + 1, OBSERVATION_DIM)).cumsum(0)
        actions = random.uniform(-1, 1, (STEPS, ACTION_DIM))
        return Demonstration(
            walk.astype(np.float32), actions.astype(np.float32), random.random(STEPS, dtype=np.float32)
        )

    return {task: [demonstration()] for task in TASKS}


@pytest.fixture(scope="module")
def checked(networks: GoSkillNetworks, prompts: dict[str, list[Demonstration]]) -> None:
    """Both policies give the same actions and skills for the same observations, past the full context."""
    cached, padded = GoSkillPolicy(networks), PaddedPolicy(networks)
    tasks = TASKS[:3]
    for policy in (cached, padded):
        policy.reset(tasks, prompts, SEED)
    random = np.random.default_rng(SEED)
    observations = np.zeros((len(tasks), OBSERVATION_DIM), np.float32)
    for _ in range(networks.settings.horizon * (networks.settings.context + 3)):
        observations += 0.05 * random.standard_normal(observations.shape).astype(np.float32)
        np.testing.assert_allclose(cached.act(observations), padded.act(observations), rtol=0, atol=1e-5)
        rewards = random.random(len(tasks), dtype=np.float32)
        cached.observe(rewards)
        padded.observe(rewards)
    np.testing.assert_array_equal(cached.skill_history, torch.stack(padded.skills).numpy())


def _play(benchmark: Any, policy: Policy, prompts: Any, **options: Any) -> None:
    def play() -> None:
        results = evaluate(policy, TASKS, EPISODES, prompts=prompts, seed=SEED, max_steps=STEPS, **options)
        assert results.overall.length == STEPS

    benchmark.pedantic(play, rounds=1)
    rate = len(TASKS) * EPISODES * STEPS / benchmark.stats.stats.min
    benchmark.extra_info["environment_steps_per_second"] = round(rate, 1)


@pytest.mark.benchmark(group=GROUP)
def test_padded_recomputation_in_stock_environments(
    benchmark: Any, stock: AsyncVectorEnv, networks: GoSkillNetworks, prompts: Any, checked: None
) -> None:
    benchmark.extra_info["peer"] = True
    batch = len(TASKS)
    _play(benchmark, PaddedPolicy(networks), prompts, batch=batch, make_environments=lambda tasks: stock)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_goskill(
    benchmark: Any, networks: GoSkillNetworks, prompts: Any, checked: None, precision: str
) -> None:
    _play(benchmark, GoSkillPolicy(networks, precision=precision), prompts)
