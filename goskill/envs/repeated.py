"""Suites whose environments repeat each action, as some data was collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.spaces import Box

from goskill.envs.suite import Env, Suite
from goskill.errors import InputError


class RepeatAction(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes each action ``repeat`` times, or until the episode ends. Rewards add up; success at any step counts."""

    def __init__(self, env: Env, repeat: int, success_keys: Sequence[str]) -> None:
        super().__init__(env)
        self._repeat = repeat
        self._success_keys = success_keys

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        succeeded: dict[str, Any] = {}
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            for key in self._success_keys:
                if key in info:
                    succeeded[key] = max(info[key], succeeded.get(key, info[key]))
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, {**info, **succeeded}


class RepeatedSuite(Suite):
    """``suite`` with every action taken ``repeat`` times; an episode has as many steps of the environment as before."""

    def __init__(self, suite: Suite, repeat: int) -> None:
        if repeat < 1:
            raise InputError(f"action_repeat: expected a positive number, got {repeat}")
        self.suite = suite
        self.repeat = repeat
        self.name, self.tasks = suite.name, suite.tasks
        self.observation_dim, self.action_dim = suite.observation_dim, suite.action_dim
        self.max_steps = -(-suite.max_steps // repeat)
        self.groups, self.success_keys, self.packages = suite.groups, suite.success_keys, suite.packages
        self.reward_version, self.info_keys = suite.reward_version, suite.info_keys
        self.prefer_workers, self.render_modes = suite.prefer_workers, suite.render_modes
        self.render_fps = max(suite.render_fps // repeat, 1)

    def make(self, task: str, seed: int | None = None, **options: Any) -> Env:
        """The suite's environment, repeating."""
        return self._repeating(self.suite.make(task, seed, **options))

    def make_all(self, tasks: Sequence[str], **options: Any) -> list[Env]:
        return [self._repeating(env) for env in self.suite.make_all(tasks, **options)]

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        return self.suite.prepare(options)

    def task_name(self, task: str) -> str:
        return self.suite.task_name(task)

    def film(self, task: str, size: int) -> Env:
        return self._repeating(self.suite.film(task, size))

    def require_rendering(self) -> None:
        self.suite.require_rendering()

    @property
    def observation_space(self) -> Box:
        return self.suite.observation_space

    @property
    def action_space(self) -> Box:
        return self.suite.action_space

    def _repeating(self, env: Env) -> Env:
        return RepeatAction(env, self.repeat, self.suite.success_keys)


def repeated(suite: Suite, repeat: int) -> Suite:
    """``suite`` itself where actions are not repeated, otherwise a :class:`RepeatedSuite`."""
    return suite if repeat == 1 else RepeatedSuite(suite, repeat)
