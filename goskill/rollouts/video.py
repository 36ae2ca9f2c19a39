"""Films of a policy at work, and pictures of its skills."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from goskill.envs.suite import Suite
from goskill.envs.suite_registry import find_suite
from goskill.errors import InputError
from goskill.evaluation.colours import skill_colour, text_colour
from goskill.files import write_atomically
from goskill.rollouts.batch_run import Moment
from goskill.rollouts.evaluate import evaluate
from goskill.rollouts.policy import Policy, Prompts
from goskill.rollouts.rendering import Image, RenderedEnvironments
from goskill.terminal import amount

FORMATS = ("gif", "mp4")
SKILL_PICTURES = "skills"
_BAR = 40
_ENVIRONMENTS_AT_ONCE = 4
_STEPS_AFTER_SUCCESS = 50


def film(
    policy: Policy,
    tasks: Sequence[str],
    folder: str | Path,
    *,
    suite: Suite | str = "metaworld",
    prompts: Prompts | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    every: int = 5,
    size: int = 320,
    film_format: str = "gif",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Film the first episode of each task of ``suite``, the one that ``evaluate`` with the same ``seed`` counts first.

    Each frame tells the task, the skill in charge, the step, the return so far and whether the task has
    been solved. A picture is taken ``every`` so many steps, ``size`` pixels wide, until 50 steps after the
    first success. Writes ``folder/TASK.gif`` (or mp4, which needs the package imageio-ffmpeg) and, for a
    policy with skills, a strip of three pictures for each skill of a task (its first decision's begin,
    middle and end) as ``folder/skills/SKILL/TASK.png``.

    Returns the films. Raises InputError for wrong arguments and where rendering is not possible.
    """
    _check(film_format, every, size)
    found = find_suite(suite)
    found.require_rendering()
    steps = found.max_steps if max_steps is None else max_steps
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    films = []
    for first in range(0, len(tasks), _ENVIRONMENTS_AT_ONCE):
        chunk = list(tasks[first : first + _ENVIRONMENTS_AT_ONCE])
        camera = _Camera(found, every, size)

        def heard(done: int, total: int, before: int = first, count: int = len(chunk)) -> None:
            if progress is not None:
                progress(before * steps + done, len(tasks) * total // count)

        evaluate(
            policy,
            chunk,
            1,
            suite=found,
            prompts=prompts,
            seed=seed,
            max_steps=steps,
            batch=len(chunk),
            progress=heard,
            record=camera.see,
            make_environments=camera.open,
        )
        for index, task in enumerate(chunk):
            file = target / f"{_file_name(task)}.{film_format}"
            films.append(_write_film(file, camera.films[index], found.render_fps / every))
            horizon = getattr(policy, "horizon", 0)
            _write_skill_pictures(target / SKILL_PICTURES, _file_name(task), camera.films[index], horizon)
    return films


class _Frame:
    """One picture and what is written on it."""

    def __init__(self, picture: Image, moment: Moment, index: int, solved: bool) -> None:
        self.picture = picture
        self.task = moment.episodes[index].task
        self.step = moment.step
        self.skill = None if moment.skills is None else int(moment.skills[index])
        self.earned = float(moment.returns[index])
        self.solved = solved

    def captioned(self) -> Image:
        """The picture under a bar of text, uint8 [height + bar, width, 3]."""
        height, width = self.picture.shape[:2]
        canvas = Pictures.new("RGB", (width, height + _BAR), "#202020")
        canvas.paste(Pictures.fromarray(self.picture), (0, _BAR))
        draw = ImageDraw.Draw(canvas)
        font = ImageFont.load_default(size=13)
        draw.text((8, 3), self.task, fill="white", font=font)
        draw.text((8, 20), f"step {self.step}   return {amount(self.earned)}", fill="#dddddd", font=font)
        if self.solved:
            draw.text((width - 8, 20), "success", fill="#7CE38B", font=font, anchor="ra")
        if self.skill is not None:
            colour = skill_colour(self.skill)
            box = (width - 72, 3, width - 6, 18)
            draw.rounded_rectangle(box, 4, fill=_bytes(colour))
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            draw.text(middle, f"skill {self.skill}", fill=text_colour(colour), font=font, anchor="mm")
        return np.asarray(canvas)


class _Camera:
    """Looks at rendered environments through the ``record`` hook of a rollout."""

    def __init__(self, suite: Suite, every: int, size: int) -> None:
        self.suite = suite
        self.every = every
        self.size = size
        self.films: list[list[_Frame]] = []

    def open(self, tasks: Sequence[str]) -> RenderedEnvironments:
        self.environments = RenderedEnvironments(self.suite, tasks, self.size, _STEPS_AFTER_SUCCESS)
        self.films = [[] for _ in tasks]
        self._solved = np.zeros(len(tasks), np.bool_)
        return self.environments

    def see(self, moment: Moment) -> None:
        self._solved |= moment.success
        if moment.step > 1 and moment.step % self.every:
            return
        for index in np.flatnonzero(moment.alive).tolist():
            picture = self.environments.picture(index)
            self.films[index].append(_Frame(picture, moment, index, bool(self._solved[index])))


def _file_name(task: str) -> str:
    return "".join(mark if mark.isalnum() or mark in "._-" else "_" for mark in task)


def _write_film(path: Path, frames: Sequence[_Frame], frames_per_second: float) -> Path:
    pictures = [frame.captioned() for frame in frames]
    if path.suffix == ".gif":
        return write_atomically(path, _gif(pictures, 1000 / frames_per_second))
    rate = max(1, int(frames_per_second))
    encoded = iio.imwrite("<bytes>", np.stack(pictures), extension=path.suffix, fps=rate, macro_block_size=4)
    return write_atomically(path, encoded)


def _gif(pictures: Sequence[Image], milliseconds: float) -> bytes:
    """Encode with one palette, that of a sixteenth of the pixels: one for each picture takes most of the time."""
    palette = Pictures.fromarray(np.concatenate([picture[::4, ::4] for picture in pictures])).quantize(256)
    first, *others = [
        Pictures.fromarray(picture).quantize(palette=palette, dither=Pictures.Dither.NONE)
        for picture in pictures
    ]
    file = BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return file.getvalue()


def _write_skill_pictures(folder: Path, task: str, frames: Sequence[_Frame], horizon: int) -> None:
    """The first decision for each skill, in three pictures side by side."""
    seen = set()
    for frame in frames:
        begin = (frame.step - 1) // horizon * horizon if horizon else 0
        if frame.skill is None or frame.skill in seen:
            continue
        seen.add(frame.skill)
        chosen = [
            min(frames, key=lambda other, at=at: abs(other.step - at)).picture  # type: ignore[misc]
            for at in (begin, begin + horizon / 2, begin + horizon)
        ]
        strip = iio.imwrite("<bytes>", np.hstack(chosen), extension=".png")
        write_atomically(folder / str(frame.skill) / f"{task}.png", strip)


def _bytes(colour: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in colour)
    return red, green, blue


def _check(film_format: str, every: int, size: int) -> None:
    if film_format not in FORMATS:
        raise InputError(f"film_format: expected one of {', '.join(FORMATS)}, got {film_format!r}")
    if film_format == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise InputError("film_format: mp4 needs the package imageio-ffmpeg (pip install imageio-ffmpeg)")
    if every < 1:
        raise InputError(f"every: expected at least 1 step, got {every}")
    if not 64 <= size <= 2048:
        raise InputError(f"size: expected from 64 to 2048 pixels, got {size}")
