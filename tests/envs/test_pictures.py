"""Rendering: pictures where the machine can draw, a clear message where it cannot."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from goskill.envs import make, make_vec
from goskill.envs.kitchen import make as make_kitchen
from goskill.envs.pictures import Pictures
from goskill.errors import InputError

_PROBE = "import mujoco.egl; mujoco.egl.GLContext(32, 32).make_current()"


@pytest.fixture(scope="module")
def egl():
    """A broken driver may end its process, so it is tried in another one."""
    if subprocess.run([sys.executable, "-c", _PROBE], capture_output=True).returncode != 0:
        pytest.skip("EGL does not work here")


@pytest.fixture
def no_screen(monkeypatch):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    # Restored afterwards, whatever rendering chooses.
    monkeypatch.setenv("MUJOCO_GL", "")


@pytest.mark.parametrize("impl", ["fast", "stock"])
def test_a_picture_shows_something_and_follows_the_environment(egl, no_screen, impl):
    env = make("door-close", 0, render_mode="rgb_array", width=80, height=60, impl=impl)
    env.reset()
    before = env.render()
    assert before.shape == (60, 80, 3)
    assert before.dtype == np.uint8
    assert before.std() > 0
    for _ in range(20):
        env.step(np.ones(4, np.float32))
    assert not np.array_equal(env.render(), before)
    env.close()


def test_a_kitchen_draws_itself(egl, no_screen):
    env = make_kitchen("kitchen-mkbs", 0, render_mode="rgb_array", width=64, height=48)
    env.reset()
    before = env.render()
    assert before.shape == (48, 64, 3)
    assert before.std() > 0
    for _ in range(10):
        env.step(np.ones(9))
    assert not np.array_equal(env.render(), before)
    env.close()


def test_environments_of_one_process_draw_themselves_and_not_each_other(egl, no_screen):
    envs = [make(task, 0, render_mode="rgb_array", width=64, height=48) for task in ("reach", "drawer-open")]
    for env in envs:
        env.reset()
    pictures = [env.render() for env in envs]
    assert not np.array_equal(*pictures)
    for env, picture in zip(envs, pictures, strict=True):
        assert np.array_equal(env.render(), picture)
        env.close()


def test_a_pool_renders_every_environment_in_its_worker(egl, no_screen):
    with make_vec(["reach", "push"], workers=1, render_mode="rgb_array", width=64, height=48) as pool:
        pool.reset(seed=0)
        pictures = pool.render()
    assert [picture.shape for picture in pictures] == [(48, 64, 3)] * 2
    assert not np.array_equal(*pictures)


def test_nothing_is_rendered_without_a_render_mode():
    assert make("reach", 0).render() is None


def test_a_machine_that_cannot_draw_is_told_what_it_needs(no_screen, monkeypatch):
    class Broken:
        mujoco_renderer = SimpleNamespace(viewer=None)

        def render(self):
            raise RuntimeError("no driver")

    class Environment(Pictures, Broken):
        render_mode = "rgb_array"

    with pytest.raises(InputError, match=r"MUJOCO_GL='egl'.*libegl1.*OSMesa.*no driver"):
        Environment().render()


_DRAW = """
from goskill.envs import make
env = make("door-close", 0, render_mode="rgb_array", width=80, height=60)
env.reset()
picture = env.render()
assert picture.shape == (60, 80, 3) and picture.std() > 0
"""


def test_osmesa_draws_where_it_is_installed():
    environment = {**os.environ, "MUJOCO_GL": "osmesa"}
    environment.pop("PYOPENGL_PLATFORM", None)  # drawing with EGL in this process has set it
    probe = _PROBE.replace("egl", "osmesa")
    found = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True)
    if found.returncode != 0:
        pytest.skip(f"OSMesa does not work here: {(found.stderr.splitlines() or ['killed'])[-1]}")
    drawn = subprocess.run([sys.executable, "-c", _DRAW], env=environment, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr


@pytest.mark.parametrize("renderer", ["egl", "osmesa"])
@pytest.mark.parametrize("before", ["import goskill.envs.pool", _DRAW], ids=["import", "drawing"])
def test_triton_can_be_loaded_beside_a_renderer(renderer, before):
    """As training and acting on a GPU do; Mesa's software renderers and Triton have an LLVM each."""
    pytest.importorskip("triton")
    environment = {**os.environ, "MUJOCO_GL": renderer}
    environment.pop("PYOPENGL_PLATFORM", None)
    probe = _PROBE.replace("egl", renderer)
    if subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True).returncode != 0:
        pytest.skip(f"{renderer} does not work here")
    code = f"{before}\nimport triton, torch._dynamo"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("value", ["bogus", "osmesa"])
@pytest.mark.parametrize("call", ["make('reach')", "make_vec(['reach'], workers=1)"])
def test_a_renderer_that_mujoco_cannot_load_is_named_in_one_line(value, call, tmp_path):
    """``osmesa`` where its library is missing; a PyOpenGL that fails to load stands for that here."""
    (tmp_path / "OpenGL").mkdir()
    (tmp_path / "OpenGL" / "__init__.py").write_text("raise ImportError('libOSMesa is not there')")
    code = f"from goskill.envs import *\ntry: {call}\nexcept ValueError as error: print(type(error).__name__, error)"
    environment = {
        **os.environ,
        "MUJOCO_GL": value,
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    }
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"InputError MUJOCO_GL: MuJoCo cannot be loaded with MUJOCO_GL='{value}'")
    assert ran.stdout.count("\n") == 1
