"""One MetaWorld environment with the Gymnasium interface."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import numpy.typing as npt

from goskill.envs.metaworld.episodes import Episodes, check_action
from goskill.envs.metaworld.tasks import task_name
from goskill.envs.renderers import require_mujoco
from goskill.errors import InputError, closest

if TYPE_CHECKING:
    from goskill.envs.metaworld.models import Models

OBSERVATION_DIM = 39
ACTION_DIM = 4
EPISODE_STEPS = 500

RENDER_MODES = ("rgb_array",)
IMPLEMENTATIONS = ("auto", "fast", "stock")
VERIFIED = (("3.1.1", "3.3.0"),)
"""Versions of (metaworld, mujoco) for which every number was compared with the stock environments'."""


def check_options(
    *,
    render_mode: str | None = None,
    goal_visible: bool = True,
    terminate_on_success: bool = False,
    width: int = 480,
    height: int = 480,
    camera_name: str | None = None,
    impl: str = "auto",
) -> None:
    """Raises `InputError` for options that `make` refuses whatever the task, and where MuJoCo cannot be loaded."""
    require_mujoco()
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise InputError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
    if impl not in IMPLEMENTATIONS:
        raise InputError(f"impl: expected one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    for name, size in (("width", width), ("height", height)):
        if size < 1:
            raise InputError(f"{name}: expected at least 1 pixel, got {size}")


class _Stock(Episodes):
    """``reset(seed=...)`` as Gymnasium means it, which stock environments ignore; what `Episodes` adds."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        if seed is not None:
            self.seed(int(seed))
        self._earned = 0.0
        return super().reset(options=options)  # type: ignore[misc,no-any-return]

    def step(self, action: Any) -> tuple[npt.NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        check_action(action)
        observation, reward, terminated, truncated, info = super().step(action)  # type: ignore[misc]
        if self.terminate_on_success:
            terminated = self._solved(reward, truncated, info)
        return observation, reward, terminated, truncated, info


@cache
def implementation() -> str:
    """What ``impl="auto"`` means here: "fast" for verified versions, else "stock", with a warning at the first call.

    A process that starts others asks once and tells them, so that not each of them warns.
    """
    require_mujoco()
    installed = version("metaworld"), version("mujoco")
    if installed in VERIFIED:
        return "fast"
    verified = " or ".join(f"metaworld {metaworld} with mujoco {mujoco}" for metaworld, mujoco in VERIFIED)
    warnings.warn(
        f"metaworld {installed[0]} with mujoco {installed[1]} runs as it is, which is slower: "
        f"goskill's fast environments are verified for {verified}",
        RuntimeWarning,
        stacklevel=3,
    )
    return "stock"


@cache
def _stock_class(name: str) -> type[Any]:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    stock = ALL_V3_ENVIRONMENTS[f"{name}-v3"]
    return type(stock.__name__, (_Stock, stock), {"__module__": __name__, "__doc__": stock.__doc__})


def _new(name: str, impl: str, models: Models | None, **render: Any) -> Any:
    """An environment, fast or stock; ``models`` are shared by those of one thread."""
    if impl == "stock":
        return _stock_class(name)(**render)
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    from goskill.envs.metaworld.fast import fast_class
    from goskill.envs.metaworld.models import Models

    stock: Any = ALL_V3_ENVIRONMENTS[f"{name}-v3"]
    made: Any = fast_class(stock)
    env = made.__new__(made)
    env._models = Models() if models is None else models
    env._textures = render["render_mode"] is not None
    env.__init__(**render)
    return env


def make(
    task: str,
    seed: int | None = None,
    *,
    render_mode: str | None = None,
    goal_visible: bool = True,
    terminate_on_success: bool = False,
    width: int = 480,
    height: int = 480,
    camera_name: str | None = None,
    impl: str = "auto",
    models: Models | None = None,
) -> gymnasium.Env[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """One MetaWorld task, with a new object and goal position at every reset.

    Observations are float64 [39], actions float32 [4] in [-1, 1]; an episode is truncated after 500 steps and never
    ends earlier, unless with ``terminate_on_success``. The numbers are those of the installed ``metaworld`` package's
    environment of that task with ``_freeze_rand_vec = False``, ``seeded_rand_vec = True`` and ``seed(seed)``, bit for
    bit. ``reset(seed=...)`` reseeds, and what follows depends on that seed only. ``goal_visible=False`` puts zeros
    where the goal position stands.

    ``impl="fast"`` computes those numbers faster, ``"stock"`` is the package's own code, and ``"auto"`` is
    the fast one where it was verified for the installed versions, with a warning elsewhere. Environments
    that are only used from one thread can share compiled models (`goskill.envs.metaworld.models.Models`).

    Environments can be pickled and deep-copied; a copy goes on with the episode.

    Raises `InputError` for an unknown task, render mode, camera or implementation.
    """
    name = task_name(task)
    pictures = {"render_mode": render_mode, "camera_name": camera_name, "width": width, "height": height}
    check_options(impl=impl, **pictures)  # type: ignore[arg-type]
    if impl == "auto":
        impl = implementation()
    if not isinstance(camera_name, str | None):
        raise InputError(f"camera_name: expected the name of a camera, got {camera_name!r}")
    env = _new(name, impl, models, **pictures)
    _check_camera(env.model, camera_name)
    env.metadata = {**env.metadata, "render_modes": list(RENDER_MODES)}
    env.terminate_on_success = terminate_on_success
    env._made_with = name, {"impl": impl, **pictures}
    env._partially_observable = not goal_visible
    # The constructor computed it before the goal's bounds were known.
    env.__dict__.pop("sawyer_observation_space", None)
    env.observation_space = env.sawyer_observation_space
    env._set_task_called = True
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env.seed(int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed))
    return env  # type: ignore[no-any-return]


def _check_camera(model: Any, name: str | None) -> None:
    cameras = [model.camera(index).name for index in range(model.ncam)]
    if name is not None and name not in cameras:
        raise InputError(
            f"camera_name: expected a camera of the task, got {name!r}; {closest(name, cameras)}"
        )
