"""`goskill.envs.make_vec`: one vector environment over worker processes."""

import copy
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
from envs_stock import Reseeding, actions, stock
from gymnasium.utils import env_checker
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from goskill.envs import WorkerDied, make_vec
from goskill.errors import InputError

TASKS = ["reach", "door-close", "push"]


def roll(pool, steps, seed=3):
    chosen = actions("random", steps * pool.num_envs, 0).reshape(steps, pool.num_envs, 4)
    return [pool.reset(seed=seed), *(pool.step(action) for action in chosen)]


def assert_same(ours, theirs):
    """Equal nested tuples and dicts of arrays, object arrays of observations included."""
    assert type(ours) is type(theirs) or np.isscalar(ours)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, tuple):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif ours.dtype == object:
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None and other is None) or np.array_equal(one, other)
    else:
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_equals_gymnasiums_vector_of_stock_environments_through_the_end_of_an_episode(mode):
    theirs = SyncVectorEnv(
        [lambda task=task: Reseeding(stock(task, 0)) for task in TASKS],
        autoreset_mode=mode,
        observation_mode="different",
    )
    with make_vec(TASKS, workers=0, autoreset_mode=mode) as ours:
        for one, other in zip(roll(ours, 503), roll(theirs, 503), strict=True):
            assert_same(one, other)


def test_results_do_not_depend_on_workers_or_groups():
    reference = None
    for workers, groups in ((0, 1), (1, 2), (2, 1), (2, 3)):
        with make_vec(TASKS, 6, workers=workers, groups=groups) as pool:
            results = roll(pool, 5)
        reference = reference or results
        for one, other in zip(results, reference, strict=True):
            assert_same(one, other)


def test_without_autoreset_only_the_masked_environments_are_reset():
    with make_vec(TASKS, workers=0, autoreset_mode="Disabled") as pool:
        pool.reset(seed=1)
        before = pool.step(np.zeros((3, 4), np.float32))[0]
        after, _ = pool.reset(seed=[None, 7, None], options={"reset_mask": np.array([False, True, False])})
        assert np.array_equal(after[[0, 2]], before[[0, 2]])
        assert not np.array_equal(after[1], before[1])
        for _ in range(500):
            truncated = pool.step(np.zeros((3, 4), np.float32))[3]
            if truncated.any():
                break
        with pytest.raises(RuntimeError, match=r"environment 0 \(reach\).*reset it first"):
            pool.step(np.zeros((3, 4), np.float32))


def test_stepping_before_the_first_reset_is_refused():
    with make_vec(TASKS, workers=0) as pool, pytest.raises(RuntimeError, match="reset it first"):
        pool.step(np.zeros((3, 4), np.float32))


def test_workers_share_the_environments_evenly_and_keep_tasks_together():
    with make_vec(["reach", "push", "door-close", "window-open"], 12, workers=2, groups=3) as pool:
        for group in range(3):
            assert [len(share[group]) for share in pool._workers.shares] == [2, 2]
        tasks = [{pool.tasks[index] for group in share for index in group} for share in pool._workers.shares]
        assert tasks[0].isdisjoint(tasks[1])


def test_groups_step_on_their_own():
    action = actions("random", 6, 1)
    with make_vec(TASKS, 6, workers=1, groups=2) as pool, make_vec(TASKS, 6, workers=0) as whole:
        pool.reset(seed=2)
        whole.reset(seed=2)
        expected = whole.step(action)
        pool.send(action[:3], 0)
        pool.send(action[3:], 1)
        with pytest.raises(RuntimeError, match="group 0 has a step in flight"):
            pool.send(action[:3], 0)
        for group in (1, 0):
            observations, rewards, _, _, infos = pool.recv(group)
            assert np.array_equal(observations, expected[0][pool.group_slices[group]])
            assert np.array_equal(rewards, expected[1][pool.group_slices[group]])
            assert np.array_equal(infos["success"], expected[4]["success"][pool.group_slices[group]])
        with pytest.raises(RuntimeError, match="no step in flight"):
            pool.recv(0)
        with pytest.raises(InputError, match="group: expected from 0 to 1, got 2"):
            pool.send(action, 2)


def test_passes_gymnasiums_checks_of_spaces_resets_and_results():
    with make_vec(TASKS, workers=1) as pool:
        for space in (pool.single_action_space, pool.action_space):
            env_checker.check_action_space(space)
        for space in (pool.single_observation_space, pool.observation_space):
            env_checker.check_observation_space(space)
        assert pool.action_space == batch_space(pool.single_action_space, 3)
        alone = [stock(task, 0).observation_space for task in TASKS]
        assert np.array_equal(pool.observation_space.low, [space.low for space in alone])
        assert np.array_equal(pool.observation_space.high, [space.high for space in alone])
        assert np.array_equal(pool.single_observation_space.low, np.min([space.low for space in alone], 0))
        for check in (
            env_checker.check_reset_return_type,
            env_checker.check_reset_return_info_deprecation,
            env_checker.check_reset_options,
            env_checker.check_seed_deprecation,
        ):
            check(pool)
        first = roll(pool, 2)
        kept = copy.deepcopy(first)
        for one, other in zip(roll(pool, 2), first, strict=True):
            assert_same(one, other)
        for one, other in zip(first, kept, strict=True):
            assert_same(one, other)  # what was returned is not written to again
        assert pool.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_works_under_gymnasiums_vector_wrappers():
    pool = gymnasium.wrappers.vector.RecordEpisodeStatistics(make_vec(TASKS, workers=0))
    observations, _ = pool.reset(seed=0)
    assert pool.action_space.contains(pool.action_space.sample())
    assert observations in pool.observation_space
    for _ in range(500):
        *_, infos = pool.step(np.zeros((3, 4), np.float32))
    assert list(infos["episode"]["l"]) == [500, 500, 500]
    pool.close()


def test_infos_can_be_read_by_environment_through_gymnasiums_wrapper():
    pool = gymnasium.wrappers.vector.DictInfoToList(make_vec(TASKS, workers=0, autoreset_mode="SameStep"))
    pool.reset(seed=0)
    for _ in range(500):
        *_, infos = pool.step(np.zeros((3, 4), np.float32))
    assert len(infos) == 3
    assert all(info["final_info"]["obj_to_target"] > 0 for info in infos)
    assert all(info["final_obs"].shape == (39,) for info in infos)
    pool.close()


def test_wrong_actions_are_refused_by_environment_and_step():
    with make_vec(TASKS, workers=0) as pool:
        pool.reset(seed=0)
        good = np.zeros((3, 4), np.float32)
        pool.step(good)
        bad = good.copy()
        bad[1, 2] = np.nan
        with pytest.raises(InputError, match=r"nan.*environment 1 \(door-close\) at step 1"):
            pool.step(bad)
        bad[1, 2] = 1.5
        with pytest.raises(InputError, match=r"\[-1, 1\].*environment 1 \(door-close\) at step 1"):
            pool.step(bad)
        with pytest.raises(InputError, match=r"\[3, 4\].*\[3, 3\] at step 1"):
            pool.step(good[:, :3])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tasks": ["raech"]}, "raech"),
        ({"num_envs": 0}, "num_envs"),
        ({"groups": 4}, "groups"),
        ({"workers": -1}, "workers"),
        ({"autoreset_mode": "Sometimes"}, "Sometimes"),
        ({"render_mode": "human"}, "human"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, named):
    with pytest.raises(InputError, match=named):
        make_vec(**{"tasks": TASKS, "workers": 0, **arguments})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": [1, 2]}, "seed: expected one for each of 3 environments, got 2"),
        ({"seed": 1.5}, "seed: expected a whole number, or one for each environment, got 1.5"),
        ({"seed": [1, 2.5, 3]}, "seed: expected from 0 to .* got 2.5"),
        ({"seed": -1}, "seed: expected from 0 .* got -1"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, "reset_mask.* with 0 true"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, r"reset_mask.*\[3\].*got bool \[2\]"),
    ],
)
def test_wrong_resets_are_refused_by_name(arguments, named):
    with make_vec(TASKS, workers=0) as pool, pytest.raises(InputError, match=named):
        pool.reset(**arguments)


def test_masks_of_another_type_are_type_errors_as_in_gymnasium():
    with make_vec(TASKS, workers=0) as pool, pytest.raises(TypeError, match=r"reset_mask.*int64") as raised:
        pool.reset(options={"reset_mask": np.array([1, 0, 1])})
    assert isinstance(raised.value, InputError)


def test_a_worker_that_dies_is_named_and_the_pool_is_closed():
    pool = make_vec(TASKS, workers=2)
    pool.reset(seed=0)
    processes = [worker.pid for worker in pool._workers.processes]
    os.kill(processes[1], signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"environment worker 1 .*SIGKILL.*it ran push"):
        pool.step(np.zeros((3, 4), np.float32))
    assert pool.closed
    assert not any(alive(process) for process in processes)
    with pytest.raises(RuntimeError, match="closed"):
        pool.step(np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("call", ["reset", "step", "recv of the other group", "render"])
@pytest.mark.parametrize("when", ["before", "amid"])
def test_a_worker_may_die_at_any_time(call, when, monkeypatch):
    pool = make_vec(TASKS, 4, workers=2, groups=2, render_mode="rgb_array")
    pool.reset(seed=0)
    processes = [worker.pid for worker in pool._workers.processes]
    action = np.zeros((4, 4), np.float32)
    request = pool._workers.request

    def request_and_kill(operation, group, arguments=()):
        os.kill(processes[1], signal.SIGSTOP)  # it has got the request and does nothing
        request(operation, group, arguments)
        os.kill(processes[1], signal.SIGKILL)

    if when == "amid":
        monkeypatch.setattr(pool._workers, "request", request_and_kill)
    else:
        os.kill(processes[1], signal.SIGKILL)

    def send_to_both_groups():
        pool.send(action[:2], 0)
        pool.send(action[2:], 1)
        pool.recv(1)

    calls = {
        "reset": pool.reset,
        "step": lambda: pool.step(action),
        "recv of the other group": send_to_both_groups,
        "render": pool.render,
    }
    with pytest.raises(WorkerDied, match=r"environment worker 1 .*SIGKILL.*it ran .*pool is closed"):
        calls[call]()
    assert pool.closed
    assert not any(alive(process) for process in processes)


@pytest.mark.parametrize(
    ("call", "when"),
    [
        *(("render", "asking"), ("render", "waiting"), ("reset", "waiting"), ("step", "waiting")),
        *(("send", "asking"), ("recv", "waiting")),
    ],
)
def test_ctrl_c_amid_a_call_closes_the_pool_and_leaves_no_process(call, when, monkeypatch):
    pool = make_vec(TASKS, workers=2, render_mode="rgb_array")
    pool.reset(seed=0)
    processes = [worker.pid for worker in pool._workers.processes]
    action = np.zeros((3, 4), np.float32)
    if call == "recv":
        pool.send(action)

    def interrupt(*_):
        raise KeyboardInterrupt

    # One worker is asked and the other is not, or both are and neither has been heard.
    worker, what = (1, "request") if when == "asking" else (0, "reply")
    monkeypatch.setattr(pool._workers.processes[worker], what, interrupt)
    arguments = (action,) if call in ("step", "send") else ()
    with pytest.raises(KeyboardInterrupt):
        getattr(pool, call)(*arguments)
    assert pool.closed
    assert not any(alive(process) for process in processes)
    with pytest.raises(RuntimeError, match="closed"):
        pool.step(action)


def test_a_worker_that_dies_at_the_start_is_named_and_none_is_left(monkeypatch):
    started = []
    popen = subprocess.Popen.__init__

    def start(process, *arguments, **keywords):
        popen(process, *arguments, **keywords)
        started.append(process.pid)
        if len(started) == 2:
            process.kill()
            process.wait()

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    with (
        pytest.raises(WorkerDied, match=r"environment worker 1 .*SIGKILL"),
        make_vec(TASKS, workers=2) as pool,
    ):
        pool.reset(seed=0)
    assert len(started) == 2
    assert not any(alive(process) for process in started)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_the_owner_is_interrupted_or_killed(how):
    script = (
        "import numpy as np\n"
        "from goskill.envs import make_vec\n"
        "pool = make_vec(['reach', 'push'], workers=2)\n"
        "pool.reset(seed=0)\n"
        "print(*[worker.pid for worker in pool._workers.processes], flush=True)\n"
        "while True: pool.step(np.zeros((2, 4), np.float32))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        workers = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(workers) == 2
        owner.send_signal(how)
        owner.communicate(timeout=300)
    finally:
        owner.kill()
    deadline = time.monotonic() + 300
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(alive(worker) for worker in workers)


def alive(process):
    """Whether a process exists and is not merely waiting to be collected."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
