"""The registry of suites, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import counting_suite
import gymnasium
import numpy as np
import pytest
from counting_suite import CountingEnv

from goskill.envs import GymnasiumSuite, Suite, find_suite, register_suite, suite_names, suite_registry
from goskill.errors import InputError


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(suite_registry, "_suites", dict(suite_registry._suites))
    monkeypatch.setattr(suite_registry, "_loaded", dict(suite_registry._loaded))


def made(**changes):
    """A suite with one thing wrong."""
    members = {
        "name": "mine",
        "tasks": ("a", "b"),
        "observation_dim": 3,
        "action_dim": 2,
        "max_steps": 5,
        **changes,
    }
    members = {name: value for name, value in members.items() if value is not None}
    return type(
        "Mine",
        (Suite,),
        {"make": lambda self, task, seed=None, render_mode=None: CountingEnv("short"), **members},
    )()


@pytest.mark.parametrize("name", suite_names())
def test_every_built_in_suite_fits_the_interface(name):
    found = find_suite(name)
    assert found.name == name
    assert find_suite(name) is found


def test_metaworlds_suites_share_dimensions_and_take_versions_of_names():
    assert find_suite("MT10").tasks[:2] == ("reach", "push")
    assert len(find_suite("metaworld").tasks) == 50
    assert find_suite("mt10").task_name("reach-v3") == "reach"
    assert find_suite("mt10").expert("reach") is not None


def test_a_suite_an_instance_a_class_a_function_and_an_import_path_can_be_registered():
    mine = made()
    assert register_suite("mine", mine) is mine
    register_suite("made", made)

    @register_suite("decorated")
    class Decorated(counting_suite.Together):
        pass

    register_suite("later", "counting_suite:suite")
    assert find_suite("mine") is mine
    assert find_suite("made") is find_suite("made")
    assert isinstance(find_suite("decorated"), Decorated)
    assert find_suite("later") is counting_suite.suite
    assert {"mine", "made", "decorated", "later"} <= set(suite_names())


def test_entry_points_are_suites(monkeypatch):
    ours = EntryPoint("theirs", "counting_suite:suite", "goskill.suites")
    monkeypatch.setattr(suite_registry, "entry_points", lambda **wanted: EntryPoints([ours]).select(**wanted))
    assert "theirs" in suite_names()
    assert find_suite("theirs") is counting_suite.suite
    with pytest.raises(InputError, match="suite: the name 'theirs' is taken"):
        register_suite("theirs", made())


def test_an_import_path_is_found_in_the_current_directory(tmp_path):
    """The console script, unlike ``python -m``, does not look there."""
    (tmp_path / "own_suite.py").write_text(Path(counting_suite.__file__).read_text())
    code = (
        "import sys; sys.path = [place for place in sys.path if place not in ('', sys.argv[1])]\n"
        "from goskill.envs import find_suite, make_vec\n"
        "found = find_suite('own_suite:suite')\n"
        "with make_vec(found.tasks, suite=found, workers=1) as pool: print(pool.reset(seed=0)[0].shape)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "(3, 3)\n", ran.stderr


def test_importing_goskill_and_registering_loads_no_environments():
    code = (
        "import sys, goskill, goskill.envs\n"
        "goskill.envs.find_suite('mt10')\n"
        "goskill.envs.suite_names()\n"
        "print([name for name in ('mujoco', 'metaworld', 'torch', 'matplotlib', 'triton') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "[]\n", ran.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": None}, "suite 'Mine': name is missing"),
        ({"tasks": None}, "suite 'mine': tasks is missing"),
        ({"max_steps": None}, "suite 'mine': max_steps is missing"),
        ({"observation_dim": None}, "suite 'mine': observation_dim is missing"),
        ({"name": "a b"}, "expected a name without spaces.*'a b'"),
        ({"tasks": ()}, r"suite 'mine': expected tasks to be names, at least one, got \(\)"),
        ({"tasks": "ab"}, "suite 'mine': expected tasks to be names.*'ab'"),
        ({"tasks": ("a", "a")}, "suite 'mine': expected each task once, got 'a' twice"),
        ({"action_dim": 0}, "suite 'mine': expected action_dim to be an integer from 1, got 0"),
        ({"max_steps": 2.5}, "suite 'mine': expected max_steps to be an integer from 1, got 2.5"),
        (
            {"action_space": gymnasium.spaces.Discrete(3)},
            r"expected action_space to be a Box of shape \(2,\)",
        ),
        (
            {"observation_space": gymnasium.spaces.Box(0, 1, (4,))},
            r"observation_space to be a Box of shape \(3,\)",
        ),
        ({"groups": {"test": ("c",)}}, "suite 'mine': group 'test' has 'c', which is none of its tasks"),
    ],
)
def test_a_suite_that_breaks_the_interface_is_refused_by_name(changes, told):
    with pytest.raises(InputError, match=told):
        find_suite(made(**changes))
    if changes.get("name", "") is not None:
        with pytest.raises(InputError):
            register_suite("broken", made(**changes))
    assert "broken" not in suite_names()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mt10", made()), "suite: the name 'mt10' is taken"),
        (("a:b", made()), "expected a name without .*'a:b'"),
        (("x", 3), "suite 'x': expected a goskill.envs.Suite or what makes one, got int"),
    ],
)
def test_wrong_registrations_are_refused(arguments, told):
    with pytest.raises(InputError, match=told):
        register_suite(*arguments)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mt11", "suite: expected one of .*mt10.*, or module:attribute, got 'mt11'; did you mean 'mt10'"),
        (3, "suite: expected a name, got int"),
        ("nowhere:suite", "suite 'nowhere:suite': nowhere:suite cannot be loaded, ModuleNotFoundError"),
        ("counting_suite:nothing", "counting_suite:nothing cannot be loaded, AttributeError"),
        ("counting_suite:TASKS", "suite 'counting_suite:TASKS': cannot be made, TypeError"),
        ("builtins:dict", "suite 'builtins:dict': expected a goskill.envs.Suite, got dict"),
    ],
)
def test_what_is_no_suite_is_refused_by_name(name, told):
    with pytest.raises(InputError, match=told):
        find_suite(name)


def test_a_suite_without_make_cannot_be_made():
    register_suite("unfinished", type("Unfinished", (Suite,), {"name": "unfinished"}))
    with pytest.raises(InputError, match=r"suite 'unfinished': cannot be made, TypeError: .*make"):
        find_suite("unfinished")


def test_gymnasium_environments_become_a_suite_that_knows_their_spaces_and_limit():
    found = GymnasiumSuite(
        "pendulum", lambda task, **options: gymnasium.make("Pendulum-v1", **options), ["swing-up"]
    )
    assert (found.observation_dim, found.action_dim, found.max_steps) == (3, 1, 200)
    assert found.action_space.high.tolist() == [2.0]
    assert found.render_modes == ("rgb_array",)
    assert found.render_fps == 30
    first = found.make("swing-up", seed=3)
    assert np.array_equal(first.reset(seed=4)[0], found.make("swing-up").reset(seed=4)[0])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda task: gymnasium.make("CartPole-v1"),
            "expected actions in a flat Box .*FlattenObservation.*Discrete",
        ),
        (lambda task: CountingEnv("short"), "max_steps is missing, and the environment has no limit either"),
    ],
)
def test_gymnasium_environments_that_do_not_fit_are_refused(make, told):
    with pytest.raises(InputError, match=told):
        register_suite("unfit", GymnasiumSuite("unfit", make, ["a"]))
