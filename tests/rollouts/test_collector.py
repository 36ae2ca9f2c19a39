"""Environments that an agent learns in: what is known of the success of their episodes, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting_suite import TASKS, CountingEnv
from counting_suite import suite as SUITE

from goskill.data import EpisodeStore
from goskill.envs import GymnasiumSuite
from goskill.envs.collectors import EpisodeCollector
from goskill.errors import InputError
from goskill.methods.sac.experience import Experience
from goskill.rollouts import ways
from goskill.rollouts.collector import Collector
from goskill.rollouts.episode_log import EpisodeLog


@pytest.mark.parametrize("cut", [None, 4])
def test_success_is_unknown_where_an_environment_says_nothing(tmp_path: Path, cut: int | None) -> None:
    """Of three side by side one reports it at the end of each episode, one never does; a resumption forgets nothing."""
    collector, log = Collector(SUITE, TASKS, 0, workers=0), EpisodeLog(TASKS)
    experience = Experience(tmp_path / "store", (3, 2), TASKS, {})
    collector.start()
    means = []
    for number in range(20):
        if number == cut:
            state = collector.state_dict()
            collector.close()
            collector = Collector(SUITE, TASKS, 0, workers=0)
            collector.load_state_dict(state)
        step, ended = collector.step(np.zeros((3, 2), np.float32))
        log.add(step)
        experience.add(step)
        means.append(ended.get("success"))
    collector.close()
    experience.finish()
    assert {task: {one["success"] for one in log.episodes(task)} for task in TASKS} == {
        "short": {1.0},
        "long": {0.0},
        "endless": {None},
    }
    assert (means[2], means[4], means[14], means[19]) == (1.0, 0.0, 0.5, None)
    store = EpisodeStore.open(tmp_path / "store")
    for index in np.flatnonzero(store.episode_length >= 3).tolist():
        episode = store.episode(index)
        if episode.task == "endless":
            assert episode.success is None
        else:
            wanted = [False] * (len(episode.rewards) - 1) + [episode.task == "short"]
            assert episode.success.tolist() == wanted


class Undecided(CountingEnv):
    """Reports a success that is no number."""

    def step(self, action: np.ndarray) -> tuple:
        *rest, info = super().step(action)
        return (*rest, info | {"success": np.nan})


def test_a_success_that_is_no_number_is_unknown() -> None:
    undecided = GymnasiumSuite("undecided", Undecided, ["long"], max_steps=20)
    collect = EpisodeCollector(undecided, lambda *_: lambda observation: np.zeros(2, np.float32))
    assert collect("long", 0, 1, seed=0).success is None
    collector = Collector(undecided, ["long"], 0, workers=0)
    collector.start()
    assert np.isnan(collector.step(np.zeros((1, 2), np.float32))[0].success).all()
    collector.close()


class Shorter(CountingEnv):
    """Observes one number where it ends."""

    def step(self, action: np.ndarray) -> tuple:
        observation, *rest = super().step(action)
        return (observation[:1] if self.count == 5 else observation, *rest)


def test_numbers_are_not_spread_over_a_row() -> None:
    shorter = GymnasiumSuite("shorter", Shorter, ["long"], max_steps=20)
    collect = EpisodeCollector(shorter, lambda *_: lambda observation: np.zeros(2, np.float32))
    with pytest.raises(InputError, match=r"observations: expected shape \(3,\), got \(1,\)"):
        collect("long", 0, 1, seed=0)
    collect = EpisodeCollector(SUITE, lambda *_: lambda observation: np.zeros(1, np.float32))
    with pytest.raises(InputError, match=r"actions: expected shape \(2,\), got \(1,\)"):
        collect("long", 0, 1, seed=0)
    with shorter.make_vec(["long"], workers=0, autoreset_mode="SameStep") as pool:
        pool.reset(seed=0)
        for _ in range(4):
            pool.step(np.zeros((1, 2)))
        with pytest.raises(InputError, match=r"expected observations of shape \(3,\), got \(1,\)"):
            pool.step(np.zeros((1, 2)))


@pytest.mark.parametrize("cut", [None, 5, 57])
def test_ways_are_every_tenth_observation_and_the_last_of_some_episodes(
    cut: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against all observations; a log that was cut goes on, and one without ways follows what begins later."""
    monkeypatch.setattr(ways, "FOLLOWED", (1, 3))
    collector, log, plain = Collector(SUITE, TASKS, 0, workers=0), EpisodeLog(TASKS), EpisodeLog(TASKS)
    collector.start()
    met: list[list[list[np.ndarray]]] = [[[]] for _ in TASKS]
    for number in range(120):
        if number == cut:
            state = log.state_dict()
            log, plain = EpisodeLog(()), EpisodeLog(())
            log.load_state_dict(state)
            plain.load_state_dict({name: value for name, value in state.items() if name != "ways"})
        before = collector.observations
        step, _ = collector.step(np.zeros((3, 2), np.float32))
        log.add(step)
        plain.add(step)
        for row, over in enumerate(step.terminated | step.truncated):
            met[row][-1].append(before[row])
            if over:
                met[row][-1].append(step.next_observations[row])
                met[row].append([])
    collector.close()
    for row, task in enumerate(TASKS):
        ended = met[row][:-1]
        found = log.ways(task)
        assert list(found) == [number for number in (1, 3) if number <= len(ended)]
        for number, way in found.items():
            points = ended[number - 1]
            np.testing.assert_array_equal(way, np.stack([*points[:-1:10], points[-1]]))
        begun_after = [n for n in found if cut is None or sum(len(one) - 1 for one in ended[: n - 1]) >= cut]
        assert list(plain.ways(task)) == begun_after
        assert all(np.array_equal(plain.ways(task)[n], found[n]) for n in begun_after)
    assert max(len(way) for task in TASKS for way in log.ways(task).values()) > 2
