"""Pictures of an environment, also without a screen."""

from __future__ import annotations

import os
from typing import Any

from goskill.envs.renderers import prepare_for_mesa
from goskill.errors import InputError


class Pictures:
    """``render()`` that chooses a way to draw that this machine has, or says what is missing."""

    render_mode: str | None
    mujoco_renderer: Any

    def render(self) -> Any:
        """What the camera sees, uint8 [height, width, 3]; None unless made with ``render_mode="rgb_array"``.

        Without a screen, EGL draws unless the variable ``MUJOCO_GL`` names another way. Raises `InputError`
        where none works.
        """
        if self.render_mode is None:
            return None
        if not any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
            os.environ["MUJOCO_GL"] = "egl"
        try:
            if self.mujoco_renderer.viewer is None:
                prepare_for_mesa()
            else:
                # Another environment of this process may have left its OpenGL context as the current one.
                self.mujoco_renderer.viewer.make_context_current()
            return super().render()  # type: ignore[misc]
        except Exception as error:
            raise InputError(
                "render: pictures are not possible on this machine with "
                f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}: expected a working EGL (Debian: libegl1, "
                f"libgl1-mesa-dri or a graphics driver) or OSMesa (MUJOCO_GL=osmesa; Debian: libosmesa6), "
                f"got {type(error).__name__}: {error}"
            ) from error
