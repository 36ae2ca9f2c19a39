"""A suite from Gymnasium environments, a few lines for a user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gymnasium.spaces import Box

from goskill.envs.suite import Env, Expert, Suite
from goskill.errors import InputError


@dataclass(frozen=True)
class _Facts:
    """What an environment says of itself."""

    observations: Box
    actions: Box
    limit: int | None  # steps of an episode
    render_modes: tuple[str, ...]
    render_fps: int


class GymnasiumSuite(Suite):
    """The tasks ``tasks`` in the environments ``make(task)``, with spaces read from the first task's environment.

    ``make`` gets ``render_mode`` as a keyword where pictures are wanted. ``max_steps`` is by default what the
    environment's specification says. ``expert(task)`` makes a scripted policy, ``observation -> action``. The other
    arguments are attributes of a `Suite`; ``prefer_workers=False`` is for environments that step in microseconds.

    Raises InputError, at first use, for environments whose observations or actions are not flat Boxes.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., Env],
        tasks: Sequence[str],
        max_steps: int | None = None,
        *,
        expert: Callable[[str], Expert] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        success_keys: Sequence[str] = Suite.success_keys,
        packages: Sequence[str] = Suite.packages,
        prefer_workers: bool = Suite.prefer_workers,
    ) -> None:
        self.name = name
        self.tasks = tuple(tasks)
        self.groups = {group: tuple(members) for group, members in (groups or {}).items()}
        self.success_keys = tuple(success_keys)
        self.packages = tuple(packages)
        self.prefer_workers = prefer_workers
        self._make = make
        self._max_steps = max_steps
        self._expert = expert

    def make(self, task: str, seed: int | None = None, *, render_mode: str | None = None) -> Env:
        env = self._make(
            self.task_name(task), **({} if render_mode is None else {"render_mode": render_mode})
        )
        if seed is not None:
            env.reset(seed=seed)
        return env

    def expert(self, task: str) -> Expert | None:
        return None if self._expert is None else self._expert(task)

    @cached_property
    def _facts(self) -> _Facts:
        env = self.make(self.tasks[0])
        try:
            for what, space in (("observation", env.observation_space), ("action", env.action_space)):
                if not isinstance(space, Box) or len(space.shape) != 1:
                    raise InputError(
                        f"suite {self.name!r}: expected {what}s in a flat Box (see gymnasium.wrappers."
                        f"FlattenObservation), got {space}"
                    )
            return _Facts(
                env.observation_space,  # type: ignore[arg-type]
                env.action_space,  # type: ignore[arg-type]
                None if env.spec is None else env.spec.max_episode_steps,
                tuple(mode for mode in env.metadata.get("render_modes", ()) if mode != "human"),
                int(env.metadata.get("render_fps") or Suite.render_fps),
            )
        finally:
            env.close()

    @property
    def observation_space(self) -> Box:
        space = self._facts.observations
        return Box(-np.inf, np.inf, space.shape, space.dtype)

    @property
    def action_space(self) -> Box:
        return self._facts.actions

    @property
    def observation_dim(self) -> int:  # type: ignore[override]
        return int(self._facts.observations.shape[0])

    @property
    def action_dim(self) -> int:  # type: ignore[override]
        return int(self._facts.actions.shape[0])

    @property
    def render_modes(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._facts.render_modes

    @property
    def render_fps(self) -> int:  # type: ignore[override]
        return self._facts.render_fps

    @property
    def max_steps(self) -> int:  # type: ignore[override]
        steps = self._max_steps or self._facts.limit
        if not steps:
            raise InputError(
                f"suite {self.name!r}: max_steps is missing, and the environment has no limit either"
            )
        return int(steps)
