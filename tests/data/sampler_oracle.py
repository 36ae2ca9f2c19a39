"""The samplers' batches, one row at a time in plain NumPy, with NumPy's own Philox."""

from __future__ import annotations

import numpy as np

from goskill.data import EpisodeStore

SEGMENTS, CONTEXTS, TRANSITIONS = 1, 2, 3


def words(seed: int, stream: int, step: int, sample: int) -> list[int]:
    """The four random words of a sample."""
    key, counter = np.array([seed, stream], dtype=np.uint64), np.array([0, sample, step, 0], dtype=np.uint64)
    return [int(word) for word in np.random.Philox(key=key, counter=counter).random_raw(4)]


def below(word: int, count: int) -> int:
    """A word as an integer in [0, count)."""
    return (word * count) >> 64


def place(store: EpisodeStore, episodes: list[int], position: int) -> tuple[int, int]:
    """Position over the steps of some episodes as (episode, step)."""
    for episode in episodes:
        if position < store.episode_length[episode]:
            return episode, position
        position -= int(store.episode_length[episode])
    raise AssertionError(position)


def normalized(store: EpisodeStore, observations: np.ndarray, normalize: bool) -> np.ndarray:
    if not normalize:
        return observations
    normalization = store.normalization()
    return (observations - normalization.mean) / normalization.std


def stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def segment_batch(
    store: EpisodeStore,
    step: int,
    batch_size: int,
    horizon: int,
    balance: str,
    normalize: bool,
    seed: int,
    episodes: list[int] | None = None,
) -> dict[str, np.ndarray]:
    labels = store.labels("skills")
    rows = []
    for sample in range(batch_size):
        episode, start = drawn_step(store, SEGMENTS, step, batch_size, sample, balance, seed, episodes)
        rows.append(segment(store, episode, start, horizon, normalize, labels))
    return stack(rows)


def drawn_step(
    store: EpisodeStore,
    stream: int,
    step: int,
    batch_size: int,
    sample: int,
    balance: str,
    seed: int,
    episodes: list[int] | None = None,
    samples_per_task: int = 1,
    episode_weights: np.ndarray | None = None,
) -> tuple[int, int]:
    """The (episode, step) of one sample of a batch."""
    chosen = list(range(store.num_episodes)) if episodes is None else episodes
    labels = store.labels("skills")
    random = words(seed, stream, step, sample)
    turn = (step * batch_size + sample) % 2**64
    if balance == "skill":
        steps = np.concatenate([store.episode_start[e] + np.arange(store.episode_length[e]) for e in chosen])
        classes = np.unique(labels[steps])
        members = steps[labels[steps] == classes[turn % len(classes)]]
        position = members[below(random[0], len(members))]
        episode = int(np.searchsorted(store.episode_start, position, side="right")) - 1
        return episode, int(position - store.episode_start[episode])
    if balance == "episode":
        if episode_weights is None:
            episode = chosen[below(random[1], len(chosen))]
        else:
            shares = np.cumsum(episode_weights[chosen])
            uniform = (random[1] >> 11) * 2.0**-53
            episode = chosen[int(np.searchsorted(shares / shares[-1], uniform, side="right"))]
        return episode, below(random[0], int(store.episode_length[episode]))
    pool = chosen
    if balance == "task":
        tasks = np.unique(store.episode_task[chosen])
        pool = [e for e in chosen if store.episode_task[e] == tasks[turn // samples_per_task % len(tasks)]]
    return place(store, pool, below(random[0], int(store.episode_length[pool].sum())))


def transition_batch(
    store: EpisodeStore,
    step: int,
    batch_size: int,
    interval: int,
    gamma: float,
    discounted: bool,
    never: bool,
    columns: list[str],
    normalize: bool,
    seed: int,
    balance: str,
    window: tuple[int, int] | None = None,
    **choice: object,
) -> dict[str, np.ndarray]:
    rows = []
    for sample in range(batch_size):
        episode, start = drawn_step(store, TRANSITIONS, step, batch_size, sample, balance, seed, **choice)
        data = store.episode(episode)
        end = min(start + interval, len(data.rewards))
        total, factor = 0.0, 1.0
        for reward in data.rewards[start:end].astype(np.float64):
            total += (factor if discounted else 1.0) * reward
            factor *= gamma
        rows.append(
            {
                "observations": normalized(store, data.observations[start], normalize),
                "actions": data.actions[start],
                "rewards": np.float32(total),
                "next_observations": normalized(store, data.observations[end], normalize),
                "terminated": np.bool_(not never and data.columns["terminated"][start:end].any()),
                "discount": np.float32(factor),
                "start": np.int64(start),
                "episode": np.int64(episode),
                "task": np.int64(store.episode_task[episode]),
                "skill": np.int64(store.labels("skills")[store.episode_start[episode] + start]),
                **{name: data.columns[name][start] for name in columns},
                **({} if window is None else window_around(store, episode, start, *window, normalize)),
            }
        )
    return stack(rows)


def window_around(
    store: EpisodeStore, episode: int, start: int, before: int, after: int, normalize: bool
) -> dict[str, np.ndarray]:
    data = store.episode(episode)
    length, steps = len(data.rewards), range(start - before, start + after)
    nothing = np.zeros(store.observation_dim, np.float32)
    return {
        "window_observations": np.stack(
            [
                normalized(store, data.observations[t], normalize) if 0 <= t <= length else nothing
                for t in range(start - before, start + after + 1)
            ]
        ),
        "window_actions": np.stack(
            [data.actions[t] if 0 <= t < length else 0 * data.actions[0] for t in steps]
        ),
        "window_rewards": np.array(
            [data.rewards[t] if 0 <= t < length else 0 for t in steps], dtype=np.float32
        ),
        "window_mask": np.array([0 <= t < length for t in steps]),
    }


def segment(
    store: EpisodeStore, episode: int, start: int, horizon: int, normalize: bool, labels: np.ndarray
) -> dict[str, np.ndarray]:
    data = store.episode(episode)
    length = len(data.rewards)
    observations = np.zeros((horizon + 1, store.observation_dim), np.float32)
    actions = np.zeros((horizon, store.action_dim), np.float32)
    mask = np.zeros(horizon, bool)
    for j in range(horizon):
        if start + j < length:
            observations[j] = normalized(store, data.observations[start + j], normalize)
            actions[j] = data.actions[start + j]
            mask[j] = True
    goal = data.observations[min(start + horizon, length)]
    observations[horizon] = normalized(store, goal, normalize)
    return {
        "observations": observations,
        "actions": actions,
        "mask": mask,
        "start": np.int64(start),
        "episode": np.int64(episode),
        "task": np.int64(store.episode_task[episode]),
        "skill": np.int64(labels[store.episode_start[episode] + start]),
    }


def window(
    store: EpisodeStore,
    episode: int,
    start: int,
    horizon: int,
    points: int,
    normalize: bool,
    return_scale: float,
    prefix: str,
) -> dict[str, np.ndarray]:
    data = store.episode(episode)
    labels = store.labels("skills")
    result = {
        "observations": np.zeros((points, store.observation_dim), np.float32),
        "returns_to_go": np.zeros((points, 1), np.float32),
        "timesteps": np.zeros(points, np.int64),
        "mask": np.zeros(points, bool),
        "skills": np.zeros(points, np.int64),
        "actions": np.zeros((points, store.action_dim), np.float32),
    }
    for k in range(points):
        t = start + k * horizon
        if t < 0:
            continue
        future = data.rewards[t:].astype(np.float64).sum()
        np.testing.assert_allclose(data.returns_to_go[t], future, rtol=1e-6, atol=1e-6)
        result["observations"][k] = normalized(store, data.observations[t], normalize)
        result["returns_to_go"][k] = data.returns_to_go[t] / np.float32(return_scale)
        result["timesteps"][k] = t // horizon
        result["mask"][k] = True
        result["skills"][k] = labels[store.episode_start[episode] + t]
        result["actions"][k] = data.actions[t]
    return {prefix + name: value for name, value in result.items()}


def context_batch(
    store: EpisodeStore,
    step: int,
    batch_size: int,
    horizon: int,
    context: int,
    prompt: int,
    normalize: bool,
    seed: int,
    return_scale: float,
) -> dict[str, np.ndarray]:
    tasks = np.unique(store.episode_task)
    rows = []
    for sample in range(batch_size):
        random = words(seed, CONTEXTS, step, sample)
        task = int(tasks[(step * batch_size + sample) % len(tasks)])
        pool = [e for e in range(store.num_episodes) if store.episode_task[e] == task]
        episode, last = place(store, pool, below(random[0], int(store.episode_length[pool].sum())))
        start = last - (context - 1) * horizon
        best = sorted(pool, key=lambda e: (-store.episode_return[e], e))[:4]
        chosen = best[below(random[2], len(best))]
        length = int(store.episode_length[chosen])
        points = min(prompt, max(length // horizon, 1))
        begin = max(length - points * horizon, 0) - (prompt - points) * horizon
        rows.append(
            {
                **window(store, episode, start, horizon, context, normalize, return_scale, ""),
                **window(store, chosen, begin, horizon, prompt, normalize, return_scale, "prompt_"),
                "start": np.int64(start),
                "episode": np.int64(episode),
                "task": np.int64(task),
                "prompt_episode": np.int64(chosen),
            }
        )
    return stack(rows)
