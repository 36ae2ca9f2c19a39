"""The fast environments give the stock ones' numbers, bit for bit.

`tests/envs/sweep_parity.py` does the same for whole episodes of all tasks and several seeds.
"""

import os
import subprocess
import sys
import warnings
import weakref
from importlib import metadata

import mujoco
import numpy as np
import pytest
from envs_stock import actions, difference, first_difference, stock
from hypothesis import given, settings
from hypothesis import strategies as st
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from goskill.envs import make, tasks_of
from goskill.envs.metaworld import environment as single
from goskill.envs.metaworld import fast_numbers
from goskill.envs.metaworld.models import Models
from goskill.errors import InputError

finite = st.floats(-1e6, 1e6)
margins = st.floats(0.0, 1e3) | st.sampled_from([0.0, 1e-300, 1e-17])


@pytest.mark.parametrize("task", tasks_of("mt50"))
def test_every_task_equals_stock_over_resets_and_all_kinds_of_actions(task):
    assert first_difference(task, 11, ["random", "extreme", "scripted"], 12) == ""


@pytest.mark.parametrize("task", ["pick-place", "stick-pull", "basketball"])
def test_whole_scripted_episodes_equal_stock(task):
    assert first_difference(task, 2, ["scripted"], 500) == ""


def test_environments_that_share_a_model_do_not_disturb_each_other():
    models = Models()
    ours = [make("door-close", seed, models=models) for seed in (1, 2)]
    theirs = [stock("door-close", seed) for seed in (1, 2)]
    for env in (*ours, *theirs):
        env.reset()
    for action in actions("random", 20, 0):
        for mine, other in zip(ours, theirs, strict=True):
            assert difference(mine.step(action), other.step(action)) == ""
    assert np.array_equal(ours[1].reset()[0], theirs[1].reset()[0])
    assert difference(ours[0].step(action), theirs[0].step(action)) == ""


@pytest.mark.parametrize("task", ["basketball", "box-close", "pick-place"])
def test_a_seeded_reset_forgets_what_came_before(task):
    fresh, used = make(task, 5), make(task, 1)
    for _ in range(2):
        used.reset()
        for action in actions("random", 15, 0):
            used.step(action)
    assert np.array_equal(fresh.reset()[0], used.reset(seed=5)[0])
    for action in actions("random", 15, 1):
        assert difference(fresh.step(action), used.step(action)) == ""


def test_the_environment_is_one_of_the_packages_own_classes_and_leaves_the_package_alone():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    stock_class = ALL_V3_ENVIRONMENTS["push-v3"]
    before = dict(vars(stock_class))
    env = make("push", 0, impl="fast")
    env.reset()
    env.step(np.zeros(4, np.float32))
    assert isinstance(env, stock_class)
    assert dict(vars(stock_class)) == before
    assert stock_class.compute_reward.__globals__["np"] is np


def test_an_environment_is_freed_with_its_simulation():
    env = make("reach", 0, impl="fast")
    env.reset()
    data = weakref.ref(env.data)
    del env
    assert data() is None


def test_other_versions_run_stock_code_with_one_warning(monkeypatch):
    def version(name):
        return {"metaworld": "9.9.9"}.get(name) or metadata.version(name)

    monkeypatch.setattr(single, "version", version)
    single.implementation.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"metaworld 9\.9\.9 .* verified for metaworld 3\.1\.1"):
            env = make("reach", 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            make("reach", 4)
    finally:
        single.implementation.cache_clear()
    assert not any(kind.__module__.endswith("metaworld.fast") for kind in type(env).__mro__)
    assert np.array_equal(env.reset(seed=4)[0], make("reach", 4, impl="stock").reset()[0])


_WITH_WORKERS = """
import sys
from goskill.rollouts.collection import collect
from goskill.envs import make, make_vec

for _ in range(2):
    with make_vec(["reach", "push"], workers=2) as pool:
        observations = pool.reset(seed=4)[0]
    assert (observations[0] == make("reach", 4, impl="stock").reset()[0]).all()
collect("reach,push", sys.argv[1], episodes=1, workers=2)
"""


def test_worker_processes_do_not_repeat_the_warning_of_another_version(tmp_path):
    """With another version's metadata before the installed package's, as in an environment that has it."""
    information = tmp_path / "metaworld-9.9.9.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: metaworld\nVersion: 9.9.9\n")
    ran = subprocess.run(
        [sys.executable, "-c", _WITH_WORKERS, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("metaworld 9.9.9") == 1, ran.stderr


def test_unknown_implementations_are_refused_by_name():
    with pytest.raises(InputError, match=r"impl.*'quick'"):
        make("reach", impl="quick")


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@settings(max_examples=300, deadline=None)
@given(
    x=finite,
    lower=finite,
    width=st.floats(0, 1e3),
    margin=margins,
    scalar=st.booleans(),
    sigmoid=st.sampled_from(["long_tail", "gaussian", "hyperbolic"]),
)
def test_tolerance_equals_the_packages(x, lower, width, margin, scalar, sigmoid):
    x = np.float64(x) if scalar else x
    arguments = (x, (lower, lower + width), margin, sigmoid)
    with np.errstate(all="ignore"):
        expected = reward_utils.tolerance(*arguments)
    assert np.float64(fast_numbers.tolerance(*arguments)).tobytes() == np.float64(expected).tobytes()


@pytest.mark.parametrize(
    "arguments", [(0.1, (1.0, 0.0), 0.1, "long_tail"), (0.1, (0.0, 1.0), -0.1, "long_tail")]
)
def test_tolerance_refuses_what_the_package_refuses(arguments):
    with pytest.raises(ValueError, match=r"."):
        fast_numbers.tolerance(*arguments)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-1, 1) | st.sampled_from([0.0, 1.0, -1.0, 1e-9]), min_size=4, max_size=4).filter(any)
)
def test_quaternions_equal_scipys(values):
    quaternion = np.array(values)
    length = np.linalg.norm(quaternion)
    if length < 1e-6:
        return
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion / length)
    matrix = matrix.reshape(3, 3)
    assert fast_numbers.quaternion_of(matrix).tobytes() == Rotation.from_matrix(matrix).as_quat().tobytes()


def test_matrices_that_are_no_rotations_go_to_scipy():
    sheared = np.array([[1.0, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    expected = Rotation.from_matrix(sheared).as_quat()
    assert np.array_equal(fast_numbers.quaternion_of(sheared), expected)


_ROW = np.array([0.1, -0.7, 1e-9, 3.3, -2.0, 0.4])


@pytest.mark.parametrize(
    "x",
    [_ROW, _ROW[::2], _ROW[1:4], _ROW[::-1], np.arange(3), np.eye(2), np.zeros(0), np.float32([1, 2])]
    + [np.float64(value) for value in (-1.3, 0.0, -0.0, 1e200, 1e-200, np.inf, np.nan)],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_norm_equals_numpys(x):
    ours, theirs = fast_numbers.norm(x), np.linalg.norm(x)
    assert ours.tobytes() == theirs.tobytes()
    assert type(ours) is type(theirs)


@pytest.mark.parametrize(
    "arrays", [(np.float64(1), np.float64(2)), (np.ones(2), np.zeros(1)), (np.ones(2), 3.0), [np.ones(1)]]
)
def test_hstack_equals_numpys(arrays):
    ours, theirs = fast_numbers.hstack(arrays), np.hstack(arrays)
    assert np.array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("task", ["box-close", "door-open", "assembly", "disassemble", "hammer"])
def test_rewards_that_a_class_calls_by_its_own_name_are_fast_too(task, monkeypatch):
    env = make(task, 0, impl="fast")
    env.reset(seed=0)

    def slow(*arguments, **keywords):
        raise AssertionError("the stock function was called")

    monkeypatch.setattr(fast_numbers.reward_utils, "tolerance", slow)
    for _ in range(3):
        env.step(np.ones(4, np.float32))
