"""Single transitions for value learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from goskill import _core
from goskill.data.arguments import MOST_STEPS, checked_flag, checked_integer, checked_share, checked_store
from goskill.data.buffers import ArraySpec
from goskill.data.resident import ResidentColumns
from goskill.data.sampler import Batch, SamplingOptions
from goskill.data.step_sampler import StepSampler
from goskill.data.store import EpisodeStore
from goskill.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Unpack

TERMINATED = "terminated"
KEYS = (  # of batches
    *("observations", "actions", "rewards", "next_observations", "terminated", "discount"),
    *("start", "episode", "task", "skill"),
    *("window_observations", "window_actions", "window_rewards", "window_mask"),
)


class TransitionSampler(StepSampler):
    """Transitions (s, a, r, s', terminated) whose two states lie ``interval`` steps apart.

    Sample: step t of an episode of T steps; n = min(interval, T - t) steps lead to s' = s(t + n), the last state of
    the episode if it ends before. The target of value learning is ``rewards + discount * ~terminated * Q(s')``.

    An endless iterable of batches; each is a dict of tensors:

    - ``observations``, ``next_observations`` float32 [B, observation_dim]: s(t) and s(t + n);
    - ``actions`` float32 [B, action_dim]: a(t);
    - ``rewards`` float32 [B]: r(t) + … + r(t + n - 1), or the sum of gamma^k r(t + k) with ``discounted_rewards``, in
      float64;
    - ``discount`` float32 [B]: gamma^n. Where a decision counts as one step however long it takes, give ``gamma=1``
      and discount the targets yourself;
    - ``terminated`` bool [B]: whether the episode ended for good within the interval (a time limit is no such end);
    - ``start`` (t), ``episode``, ``task`` int64 [B]: where the sample came from;
    - ``skill`` int64 [B]: the label at t, if ``labels`` is given;
    - each of ``columns`` [B, ...] at t, in the column's own dtype;
    - with ``window``, the W = before + after steps around t: ``window_observations`` float32
      [B, W + 1, observation_dim] (row ``before`` is s(t)), ``window_actions`` float32 [B, W, action_dim],
      ``window_rewards`` float32 [B, W] as stored, and ``window_mask`` bool [B, W], whether the episode has the step.
      What lies outside of the episode is zero, also when normalised.

    A batch may be kept and changed freely; its memory is used again only when no tensor looks at it any more.

    Parameters
    ----------
    store: the open store.
    batch_size: B, per rank; or instead
    samples_per_task: B is so many times the number of tasks that have episodes, and the samples of a task follow one
        another: ``batch["rewards"].view(tasks, samples_per_task)`` (needs balance "task").
    interval: steps between s and s', at least 1.
    gamma: in [0, 1].
    discounted_rewards: whether rewards within the interval are discounted, too.
    terminated: "column" (the store's declared column of that name) or "never" (nothing but time limits ends episodes).
    balance: "transition" (uniform over all steps), "task" (sample g of the stream belongs to task g mod the number of
        tasks that have episodes), "episode" (uniform over the episodes, or by ``episode_weights``, then over the steps
        of the episode) or "skill" (sample g belongs to class g mod the number of classes that occur; needs ``labels``).
    labels: name of a label column.
    columns: names of declared columns of the steps.
    window: (before, after), the steps ahead of t and from t on that come with each transition; None: no window.
    task_weights: with balance "task", draw tasks at random in these proportions (tasks left out: 0).
    episode_weights: with balance "episode", one for each episode of the store.
    normalize, seed, threads, episodes, rank, world_size, device, pin_memory, resident: as for
        :class:`SegmentSampler`; s and s' are normalised alike.

    Raises InputError for wrong arguments, and for a store that does not say where episodes end, and StoreError for
    labels that are missing or damaged.
    """

    _native: _core.TransitionSampler

    def __init__(
        self,
        store: EpisodeStore,
        batch_size: int | None = None,
        *,
        samples_per_task: int | None = None,
        interval: int = 1,
        gamma: float = 0.99,
        discounted_rewards: bool = False,
        terminated: str = "column",
        balance: str = "transition",
        labels: str | None = None,
        columns: Sequence[str] = (),
        window: tuple[int, int] | None = None,
        task_weights: Mapping[str, float] | None = None,
        episode_weights: npt.ArrayLike | None = None,
        **options: Unpack[SamplingOptions],
    ) -> None:
        checked_store(store)
        self._interval = checked_integer("interval", interval, 1, MOST_STEPS)
        self._gamma = checked_share("gamma", gamma)
        self._discounted_rewards = checked_flag("discounted_rewards", discounted_rewards)
        self._terminated = _checked_terminated(store, terminated)
        self._sampled_columns = _checked_columns(store, columns)
        self._before, self._after = _checked_window(window)
        super().__init__(
            store,
            batch_size,
            samples_per_task=samples_per_task,
            balance=balance,
            labels=labels,
            task_weights=task_weights,
            episode_weights=episode_weights,
            **options,
        )

    def _build(self) -> _core.TransitionSampler:
        return _core.TransitionSampler(
            interval=self._interval,
            gamma=self._gamma,
            discounted_rewards=self._discounted_rewards,
            terminated=TERMINATED if self._terminated else None,
            columns=self._sampled_columns,
            before=self._before,
            after=self._after,
            **self._shared(),
        )

    def _gathered_specs(self) -> list[ArraySpec]:
        batch, width = self._batch_size, self._store.observation_dim
        specs = [
            ArraySpec("observations", np.float32, (batch, width)),
            ArraySpec("actions", np.float32, (batch, self._store.action_dim)),
            ArraySpec("rewards", np.float32, (batch,)),
            ArraySpec("next_observations", np.float32, (batch, width)),
            ArraySpec("terminated", np.bool_, (batch,)),
            ArraySpec("discount", np.float32, (batch,)),
        ]
        if self._labels is not None:
            specs.append(ArraySpec("skill", np.int64, (batch,)))
        for name in self._sampled_columns:
            type_ = self._store.columns[name]
            specs.append(ArraySpec(name, type_.base, (batch, *type_.shape)))
        if steps := self._before + self._after:
            specs += [
                ArraySpec("window_observations", np.float32, (batch, steps + 1, width)),
                ArraySpec("window_actions", np.float32, (batch, steps, self._store.action_dim)),
                ArraySpec("window_rewards", np.float32, (batch, steps)),
                ArraySpec("window_mask", np.bool_, (batch, steps)),
            ]
        return specs

    def _column_names(self) -> list[str]:
        ends = [TERMINATED] if self._terminated else []
        return ["actions", "rewards", *ends, *self._sampled_columns]

    def _gather(self, columns: ResidentColumns, places: Batch) -> Batch:
        window: Batch = {}
        if self._before + self._after:
            window = columns.windows(places, self._before, self._after)
        return window | columns.transitions(
            places,
            min(self._interval, int(self._store.episode_length.max())),
            self._gamma,
            self._discounted_rewards,
            self._terminated,
            {name: self._store.columns[name] for name in self._sampled_columns},
        )


def _checked_terminated(store: EpisodeStore, choice: str) -> bool:
    if choice not in ("column", "never"):
        raise InputError(f"terminated: expected 'column' or 'never', got {choice!r:.80}")
    if choice == "column" and TERMINATED not in store.columns:
        raise InputError(
            f"terminated: {store.path} declares no column 'terminated', so nothing says whether an episode ended or "
            "was cut by a time limit; give terminated='never' if only time limits end its episodes"
        )
    return choice == "column"


def _checked_window(window: tuple[int, int] | None) -> tuple[int, int]:
    if window is None:
        return 0, 0
    if not isinstance(window, tuple) or len(window) != 2:
        raise InputError(f"window: expected (before, after) or None, got {window!r:.80}")
    before, after = (checked_integer("window", steps, 0, MOST_STEPS) for steps in window)
    if not 1 <= before + after <= MOST_STEPS:
        raise InputError(f"window: expected 1 to {MOST_STEPS} steps, got {before} and {after}")
    return before, after


def _checked_columns(store: EpisodeStore, names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"columns: expected a sequence of names, got {names!r:.80}")
    for name in names:
        store.column(name)
        if name in KEYS:
            raise InputError(f"columns: expected names that batches do not have already, got {name!r}")
    if len(set(names)) != len(names):
        raise InputError(f"columns: expected distinct names, got {', '.join(names):.80}")
    return list(names)
