"""The paper's Figure 9: what a skill looks like, in several tasks."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.image import imread

from goskill.evaluation.colours import skill_colour

_SKILLS = 5
_TASKS = 3


def draw_skill_pictures(folder: str | Path) -> Figure | None:
    """The skills that most tasks share, a row each: three moments of the skill in up to three tasks.

    ``folder`` holds ``SKILL/TASK.png`` strips as ``goskill.evaluation.film`` writes them. None without any.
    """
    strips = {
        int(skill.name): sorted(skill.glob("*.png"))
        for skill in Path(folder).glob("*")
        if skill.name.isdigit()
    }
    skills = sorted(
        (skill for skill in strips if strips[skill]), key=lambda skill: (-len(strips[skill]), skill)
    )
    rows = sorted(skills[:_SKILLS])
    if not rows:
        return None
    columns = min(_TASKS, max(len(strips[skill]) for skill in rows))
    height, width = imread(strips[rows[0]][0]).shape[:2]
    across = 3.9
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(across * columns + 0.6, (across * height / width + 0.3) * len(rows) + 0.4),
        squeeze=False,
    )
    for row, skill in zip(axes, rows, strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, path in zip(row, strips[skill], strict=False):
            axis.imshow(imread(path))
            axis.set_title(path.stem, fontsize=10, pad=3)
        row[0].text(
            -0.02,
            0.5,
            f"skill {skill}",
            transform=row[0].transAxes,
            rotation=90,
            ha="right",
            va="center",
            fontweight="bold",
            bbox={"facecolor": skill_colour(skill), "edgecolor": "none", "alpha": 0.45, "pad": 3},
        )
    # Short enough for a single column.
    figure.suptitle("Skills: begin, middle, end of a decision", x=0.01, ha="left", fontweight="bold")
    return figure
