"""The figures of a run folder, from the files in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from goskill.errors import InputError
from goskill.evaluation.compare import compare
from goskill.evaluation.contenders import RESULTS, read_contenders
from goskill.evaluation.points import read_points
from goskill.evaluation.results import Results
from goskill.evaluation.skills import FILE_NAME as DATA_SKILLS
from goskill.evaluation.skills import DataSkills
from goskill.figures.bars import draw_bars
from goskill.figures.curves import draw_learning_curves, read_metrics
from goskill.figures.evaluations import draw_evaluations
from goskill.figures.returns import draw_returns
from goskill.figures.skill_pictures import draw_skill_pictures
from goskill.figures.skill_usage import Strip, draw_skill_strips, draw_skill_usage
from goskill.figures.style import save, style


def draw_run(run: str | Path) -> list[Path]:
    """Draw everything that the files of a run folder allow into its ``figures`` folder, as PNG and SVG.

    ``metrics.jsonl`` gives the learning curves, ``evaluations.jsonl`` the evaluations on the way,
    ``results.json`` returns and the skills of single episodes, and together with ``data_skills.json`` the skill
    usage in data and evaluation; what ``film`` left in ``videos`` gives pictures of the skills. Returns the files
    written; raises InputError when there is none
    of these, or when one is damaged.
    """
    folder = Path(run)
    written: list[Path] = []
    with style():
        if (folder / "metrics.jsonl").is_file():
            metrics = read_metrics(folder / "metrics.jsonl")
            written += save(draw_learning_curves(metrics), folder / "figures", "learning_curves")
        points = read_points(folder / "evaluations.jsonl")
        if points:
            written += save(draw_evaluations(points), folder / "figures", "evaluations")
        if (folder / "results.json").is_file():
            results = Results.load(folder / "results.json")
            written += save(draw_returns({results.policy: results}), folder / "figures", "returns")
            written += _draw_skills(folder, results)
        pictures = draw_skill_pictures(folder / "videos" / "skills")
        if pictures is not None:
            written += save(pictures, folder / "figures", "skill_pictures")
    if not written:
        raise InputError(f"{folder}: expected a run folder with metrics.jsonl or results.json, found neither")
    return written


def draw_comparison(runs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Draw evaluated runs side by side into ``folder``: each task (``comparison``), and bars over the tasks that
    all have (``comparison_returns``, the paper's Figure 5, and ``comparison_success``).

    ``runs`` are folders, or several seeds under one name as ``NAME=RUN,RUN``
    (``goskill.evaluation.read_contenders``); intervals of several seeds speak about training.
    """
    contenders = {
        name: [Results.load(run / RESULTS) for run in group] for name, group in read_contenders(runs).items()
    }
    means = compare(contenders).contenders
    with style():
        returns = draw_bars({"mean return": {one.name: one.overall_return for one in means}})
        written = [
            *save(draw_returns(contenders), Path(folder), "comparison"),
            *save(returns, Path(folder), "comparison_returns"),
        ]
        known = {one.name: one.overall_success for one in means if one.overall_success is not None}
        if known:
            success = draw_bars({"success": known}, percent=True)
            written += save(success, Path(folder), "comparison_success")
        return written


def _draw_skills(folder: Path, results: Results) -> list[Path]:
    skills = results.skills
    if skills is None:
        return []
    panels = {"decisions in evaluation": skills.usage}
    if (folder / DATA_SKILLS).is_file():
        in_data = DataSkills.load(folder / DATA_SKILLS)
        if in_data.count == skills.count:
            of_data = {task: usage for task, usage in in_data.usage.items() if task in skills.usage}
            panels = {"steps of the data": of_data, **panels}
    written = save(draw_skill_usage(panels), folder / "figures", "skill_usage")
    strips = []
    for task, chosen in skills.first_episode.items():
        rows = results.episodes[task]
        success = int(rows.success_step[0])
        strips.append(
            Strip(task, chosen, skills.horizon, int(rows.length[0]), success if success > 0 else None)
        )
    return written + save(draw_skill_strips(strips), folder / "figures", "skill_strips")
