"""Collection: annealed scripted episodes, the same for any number of workers, resumed where stopped."""

import errno
import itertools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from goskill.data import EpisodeStore
from goskill.envs import CollectedEpisode, WorkerDied, episode_seed, find_suite, jobs, make
from goskill.envs.collectors import collector_of, exploration
from goskill.envs.metaworld.scripted import ScriptedExpert
from goskill.errors import InputError
from goskill.rollouts import collection
from goskill.rollouts.collection import collect

TASKS = ["reach", "drawer-close"]


def columns(store):
    """Every episode's arrays and the index columns, as bytes."""
    parts = [store.episode_task, store.episode_length, store.episode_return]
    for index in range(store.num_episodes):
        episode = store.episode(index)
        parts += [episode.observations, episode.actions, episode.rewards, episode.success]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    seen = []
    store = collect(
        TASKS,
        tmp_path_factory.mktemp("collected") / "store",
        episodes=8,
        workers=2,
        seed=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    return store, seen


def test_exploration_falls_from_random_to_none_with_a_quarter_and_four_episodes_of_expert():
    levels = [exploration(episode, 40) for episode in range(40)]
    assert levels[0] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(levels))
    assert levels[29] > 0.0
    assert levels[30:] == [0.0] * 10
    assert [exploration(episode, 10) for episode in range(6, 10)] == [0.0] * 4
    assert exploration(0, 1) == 1.0


def test_the_data_goes_from_random_to_expert_and_the_best_episodes_succeed(collected):
    store, _ = collected
    assert store.tasks == TASKS
    assert list(store.episode_task) == [0] * 8 + [1] * 8
    assert set(store.episode_length) == {500}
    for task in range(2):
        returns = store.episode_return[store.episode_task == task]
        assert returns[0] < 0.6 * returns[-4:].mean()
        for index in store.best_episodes(TASKS[task], 4):
            assert store.episode(index).success.any()


def test_stored_actions_are_in_the_action_space_and_lead_to_the_next_observation(collected):
    store, _ = collected
    episode = store.episode(5)
    assert np.abs(episode.actions).max() <= 1.0
    again = collector_of(find_suite("metaworld"), "scripted", {})("reach", 5, 8, 3)
    assert np.array_equal(episode.observations, again.observations)
    assert np.array_equal(episode.actions, again.actions)


def test_the_last_episodes_are_the_scripted_policys_own(collected):
    store, _ = collected
    episode = store.episode(7)
    policy = ScriptedExpert("reach")
    for step in (0, 10, 499):
        assert np.allclose(policy(episode.observations[step]), episode.actions[step], atol=1e-5)


def test_provenance_says_scripted_and_how_to_repeat_it(collected):
    (provenance,) = collected[0].provenance
    assert provenance["source"] == "scripted"
    assert provenance["seed"] == 3
    assert provenance["packages"].keys() >= {"goskill", "metaworld", "mujoco"}


def test_progress_counts_episodes(collected):
    assert collected[1] == [(done, 16) for done in range(17)]


def test_any_number_of_workers_and_an_interruption_give_the_same_columns(collected, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "_LEAST_SHARD_EPISODES", 4)

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(TASKS, tmp_path / "s", episodes=8, workers=0, seed=3, progress=stop)
    assert EpisodeStore.open(tmp_path / "s").num_episodes == 4
    resumed = collect(TASKS, tmp_path / "s", episodes=8, workers=1, seed=3)
    assert columns(resumed) == columns(collected[0])


class QuickCollector:
    """Episodes of three steps that are a function of the arguments."""

    def __call__(self, task, episode, episodes, seed):
        random = np.random.default_rng([len(task), episode, episodes, seed])
        observations, actions = random.normal(size=(4, 39)), random.uniform(-1, 1, (3, 4))
        ends = np.zeros((2, 3), bool)
        return CollectedEpisode(
            observations.astype(np.float32),
            actions.astype(np.float32),
            np.ones(3, np.float32),
            *ends,
            np.ones(3, bool),
        )


@pytest.mark.parametrize("stops", [[1], [20, 21, 41], [5, 39, 59]])
def test_interrupted_and_resumed_the_files_are_the_same_byte_for_byte(stops, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "collector_of", lambda *_: QuickCollector())

    def files(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    def stop_at(stop):
        def progress(done, total):
            if done == stop:
                raise KeyboardInterrupt

        return progress

    collect(TASKS, tmp_path / "whole", episodes=30, workers=0)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            collect(TASKS, tmp_path / "stopped", episodes=30, workers=0, progress=stop_at(stop))
        stopped = EpisodeStore.open(tmp_path / "stopped")
        assert stopped.num_episodes == stop // 20 * 20
        assert stopped.unfinished
    assert not collect(TASKS, tmp_path / "stopped", episodes=30, workers=0).unfinished
    assert len(EpisodeStore.open(tmp_path / "whole").shard_folders) == 3
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_the_data_does_not_begin_where_evaluation_does(collected):
    store, _ = collected
    env = make("reach")
    begun = [env.reset(seed=episode_seed(3, "reach", episode))[0] for episode in range(8)]
    for episode in range(8):
        observation = store.episode(episode).observations[0]
        assert not any(np.array_equal(observation, np.float32(other)) for other in begun)


def test_sub_optimal_is_the_first_half_of_the_same_episodes(collected, tmp_path):
    half = collect(TASKS, tmp_path / "half", episodes=8, quality="sub-optimal", workers=2, seed=3)
    assert list(half.episode_task) == [0] * 4 + [1] * 4
    assert np.array_equal(half.episode(4).observations, collected[0].episode(8).observations)


def test_a_finished_collection_is_returned_and_another_is_refused_by_what_differs(collected):
    store, _ = collected
    assert collect(TASKS, store.path, episodes=8, seed=3).num_episodes == 16
    with pytest.raises(InputError, match=r"exists already, with seed 3 where this collection has 4"):
        collect(TASKS, store.path, episodes=8, seed=4)
    with pytest.raises(InputError, match=r"exists already, with the tasks reach, drawer-close"):
        collect(["reach"], store.path, episodes=8, seed=3)


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    seen = []
    with pytest.raises(InputError, match=rf"{tmp_path}: is not empty .*'thesis.txt'"):
        collect(TASKS, tmp_path, episodes=2, progress=lambda *done: seen.append(done))
    with pytest.raises(InputError, match=r"thesis.txt: expected a folder .* there is a file"):
        collect(TASKS, tmp_path / "thesis.txt", episodes=2)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not seen


def test_a_collection_that_a_full_disk_refused_can_be_begun_again(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "collector_of", lambda *_: QuickCollector())

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=rf"{tmp_path / 's'}: No space left"):
            collect(TASKS, tmp_path / "s", episodes=2, workers=0)
    assert collect(TASKS, tmp_path / "s", episodes=2, workers=0).num_episodes == 4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tasks": ["raech"]}, "raech"),
        ({"tasks": ["push", "reach", "reach-v2"]}, "'reach' twice"),
        ({"episodes": 0}, "episodes"),
        ({"quality": "best"}, "quality.*'best'"),
        ({"policy": "sac"}, "policy.*'sac'"),
        ({"workers": -1}, "workers"),
        ({"seed": -1}, "seed: expected an integer from 0 to .*, got -1"),
        ({"seed": 1 << 60}, "seed"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, named, tmp_path):
    with pytest.raises(InputError, match=named):
        collect(**{"tasks": TASKS, "path": tmp_path / "s", **arguments})
    assert not (tmp_path / "s").exists()


def test_a_worker_that_dies_is_named_and_what_was_complete_is_kept(tmp_path, monkeypatch):
    started = []
    start = jobs.WorkerProcess

    def remember(*arguments):
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(jobs, "WorkerProcess", remember)
    monkeypatch.setattr(collection, "_LEAST_SHARD_EPISODES", 2)

    def shoot(done, total):
        if done == 3:
            os.kill(started[0].pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match=r"collection worker 0 .*SIGKILL"):
        collect(TASKS, tmp_path / "s", episodes=20, workers=2, progress=shoot)
    # Episodes that were under way when the worker died may still arrive; shards are whole in any case.
    kept = EpisodeStore.open(tmp_path / "s").num_episodes
    assert kept in range(2, 40, 2)


class ThreadRanks:
    """Ranks that are threads of this process."""

    def __init__(self, count):
        self.values, self.barrier, self.own = [None] * count, threading.Barrier(count), threading.local()

    def rank(self):
        return self.own.rank

    def world_size(self):
        return len(self.values)

    def gather(self, value):
        self.values[self.rank()] = value
        self.barrier.wait()
        gathered = list(self.values)
        self.barrier.wait()
        return gathered

    def run(self, work):
        def as_rank(rank):
            self.own.rank = rank
            return work()

        with ThreadPoolExecutor(self.world_size()) as pool:
            return list(pool.map(as_rank, range(self.world_size())))


@pytest.mark.parametrize(("count", "already"), [(2, 0), (3, 5)])
def test_ranks_share_the_episodes_and_write_what_one_writes(count, already, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "_ROUND_EPISODES", 2)
    monkeypatch.setattr(collection, "_LEAST_SHARD_EPISODES", 5)
    ranks, rolled_out = ThreadRanks(count), []

    class Short:
        """Stands for the collector of MetaWorld's episodes."""

        def __call__(self, task, episode, episodes, seed):
            rolled_out.append((getattr(ranks.own, "rank", None), task, episode))
            random = np.random.default_rng([episode, seed, len(task)])
            observations, actions = random.normal(size=(4, 39)), random.uniform(-1, 1, (3, 4))
            return CollectedEpisode(observations, actions, random.normal(size=3), *np.zeros((3, 3), bool))

    monkeypatch.setattr(collection, "collector_of", lambda *_: Short())

    def work(path, **options):
        return collect(["reach", "push"], path, episodes=8, workers=0, **options)

    def fail(done, total):
        if done == already:
            raise KeyboardInterrupt

    if already:
        with pytest.raises(KeyboardInterrupt):
            work(tmp_path / "ranks", progress=fail)
        rolled_out.clear()
    stores = ranks.run(lambda: work(tmp_path / "ranks", ranks=ranks))
    shares = [sum(rank == one for rank, *_ in rolled_out) for one in range(count)]
    assert sum(shares) == 16 - already
    assert max(shares) - min(shares) <= 1
    alone = work(tmp_path / "alone")
    assert {store.num_episodes for store in stores} == {16}
    assert stores[0].fingerprint == alone.fingerprint
