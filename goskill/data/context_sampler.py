"""Windows of decision points behind a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from goskill import _core
from goskill.data.arguments import MOST_STEPS, checked_flag, checked_indices, checked_integer, checked_scale
from goskill.data.buffers import ArraySpec
from goskill.data.resident import ResidentColumns
from goskill.data.sampler import Batch, SamplingOptions, StoreSampler
from goskill.data.store import EpisodeStore
from goskill.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PROMPTS_PER_TASK = 4  # as in the published data


class ContextSampler(StoreSampler):
    """Windows of K decision points, H steps apart, behind the last P of a demonstration.

    An endless iterable of batches; each is a dict of tensors. Decision point k of a window is at
    environment step t = start + k·H; the start is uniform over the integers from -(K-1)·H to T-1-(K-1)·H.
    Points before the episode (t < 0) are zero, timestep 0, mask False.

    - ``observations`` float32 [B, K, observation_dim];
    - ``returns_to_go`` float32 [B, K, 1]: undiscounted, divided by ``return_scale``;
    - ``timesteps`` int64 [B, K]: t // H;
    - ``mask`` bool [B, K];
    - ``skills`` int64 [B, K]: labels, if ``labels`` is given;
    - ``actions`` float32 [B, K, action_dim], if ``actions`` is set;
    - the same with prefix ``prompt_`` [B, P, …], unless ``prompt`` is 0: the last P decision points, H
      apart, that the demonstration's last P·H steps hold (all ⌊T/H⌋ of a shorter one, at least one, padded
      on the left);
    - ``start``, ``episode``, ``task``, ``prompt_episode`` int64 [B]: where the windows came from.

    Sample g of the stream belongs to task g mod the number of tasks that have episodes; episodes are drawn in
    proportion to their length. A batch may be kept and changed freely; its memory is used again only when
    no tensor looks at it any more.

    Parameters
    ----------
    store: the open store.
    horizon: H >= 1. context: K >= 1. prompt: P >= 0. batch_size: B, per rank.
    labels: name of a label column.
    prompt_episodes: indices of each task's demonstrations by task name; by default its 4 episodes of
        highest return (among ``episodes``).
    return_scale: what returns-to-go are divided by.
    actions: whether batches hold actions.
    normalize, seed, threads, episodes, task_weights, rank, world_size, device, pin_memory, resident: as for
        :class:`SegmentSampler`.

    Raises InputError for wrong arguments and StoreError for labels that are missing or damaged.
    """

    def __init__(
        self,
        store: EpisodeStore,
        horizon: int,
        context: int,
        prompt: int,
        batch_size: int,
        labels: str | None = None,
        prompt_episodes: Mapping[str, Sequence[int]] | None = None,
        return_scale: float = 1000.0,
        actions: bool = False,
        task_weights: Mapping[str, float] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> None:
        self._horizon = checked_integer("horizon", horizon, 1, MOST_STEPS)
        self._context = checked_integer("context", context, 1, MOST_STEPS)
        self._prompt = checked_integer("prompt", prompt, 0, MOST_STEPS)
        self._return_scale = checked_scale("return_scale", return_scale)
        self._actions = checked_flag("actions", actions)
        self._prompt_episodes = self._checked_prompts(store, prompt_episodes, options.get("episodes"))
        super().__init__(store, batch_size, labels, task_weights, **options)

    def _checked_prompts(
        self,
        store: EpisodeStore,
        prompt_episodes: Mapping[str, Sequence[int]] | None,
        episodes: npt.ArrayLike | None,
    ) -> list[list[int]]:
        chosen = (
            np.arange(store.num_episodes)
            if episodes is None
            else np.array(checked_indices("episodes", episodes, store))
        )
        if self._prompt == 0:
            return [[] for _ in store.tasks]
        if prompt_episodes is None:
            return [store.best_episodes(task, _PROMPTS_PER_TASK, chosen) for task in store.tasks]
        result: list[list[int]] = [[] for _ in store.tasks]
        for task, indices in prompt_episodes.items():
            result[store.task_index(task)] = checked_indices(f"prompt_episodes[{task!r}]", indices, store)
        for task_index in np.unique(store.episode_task[chosen]):
            if not result[task_index]:
                raise InputError(
                    f"prompt_episodes: expected at least one for task {store.tasks[task_index]!r}, got none"
                )
        return result

    def _build(self) -> _core.ContextSampler:
        return _core.ContextSampler(
            horizon=self._horizon,
            context=self._context,
            prompt=self._prompt,
            return_scale=self._return_scale,
            prompt_episodes=self._prompt_episodes,
            **self._shared(),
        )

    def _place_specs(self) -> list[ArraySpec]:
        names = (
            ["start", "episode", "task", "prompt_episode"]
            if self._prompt > 0
            else ["start", "episode", "task"]
        )
        return [ArraySpec(name, np.int64, (self._batch_size,)) for name in names]

    def _gathered_specs(self) -> list[ArraySpec]:
        specs = self._window_specs("", self._context)
        return specs + self._window_specs("prompt_", self._prompt) if self._prompt > 0 else specs

    def _column_names(self) -> list[str]:
        return ["returns_to_go", "actions"] if self._actions else ["returns_to_go"]

    def _gather(self, columns: ResidentColumns, places: Batch) -> Batch:
        return columns.contexts(
            places, self._horizon, self._context, self._prompt, self._return_scale, self._actions
        )

    def _window_specs(self, prefix: str, points: int) -> list[ArraySpec]:
        batch = self._batch_size
        specs = [
            ArraySpec(prefix + "observations", np.float32, (batch, points, self._store.observation_dim)),
            ArraySpec(prefix + "returns_to_go", np.float32, (batch, points, 1)),
            ArraySpec(prefix + "timesteps", np.int64, (batch, points)),
            ArraySpec(prefix + "mask", np.bool_, (batch, points)),
        ]
        if self._labels is not None:
            specs.append(ArraySpec(prefix + "skills", np.int64, (batch, points)))
        if self._actions:
            specs.append(ArraySpec(prefix + "actions", np.float32, (batch, points, self._store.action_dim)))
        return specs
