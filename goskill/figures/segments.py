"""What segments look like: features in two dimensions, lengths, and where each episode changes skills."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from goskill.errors import InputError
from goskill.evaluation.colours import PALETTE

POINTS = 3_000
"""Steps at most that are drawn as points."""
IntArray = npt.NDArray[np.integer]


def principal_components(features: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The features [n, F] along the two directions in which they vary most, [n, 2]."""
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 2:
        raise InputError(f"features: expected [n, F] with n and F at least 2, got shape {values.shape}")
    centred = values - values.mean(axis=0)
    _, _, directions = np.linalg.svd(np.cov(centred.T))
    return np.asarray(centred @ directions[:2].T)


def segment_lengths(labels: IntArray) -> dict[int, list[int]]:
    """By label, the lengths of the runs of equal labels of one episode."""
    ends = [*(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    found: dict[int, list[int]] = {}
    start = 0
    for end in ends:
        found.setdefault(int(labels[start]), []).append(end - start)
        start = end
    return found


def draw_segments(
    features: npt.ArrayLike, labels: IntArray, episode_length: Sequence[int], *, episodes: int = 12
) -> Figure:
    """Three panels: features by skill in two dimensions, lengths of segments by skill, the first episodes as strips.

    Args:
        features: [num_steps, F], such as ``goskill.methods.extract.features_of`` gives.
        labels: of every step, int [num_steps].
        episode_length: of every episode, in the order of the steps.
        episodes: how many are drawn as strips.

    Raises InputError for lengths that do not fit.
    """
    values = np.asarray(features)
    if len(values) != len(labels) or sum(episode_length) != len(labels):
        raise InputError(
            f"labels: expected one for each of {len(values)} steps of {sum(episode_length)} in episodes, "
            f"got {len(labels)}"
        )
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
    skills = np.unique(labels).tolist()
    parts = np.split(labels, np.cumsum(episode_length)[:-1])
    colours = {skill: PALETTE[index % len(PALETTE)] for index, skill in enumerate(skills)}
    shown = np.sort(np.random.default_rng(0).permutation(len(labels))[:POINTS])
    points = principal_components(values)[shown]
    lengths: dict[int, list[int]] = {skill: [] for skill in skills}
    for part in parts:
        for skill, found in segment_lengths(part).items():
            lengths[skill] += found
    for skill in skills:
        own = labels[shown] == skill
        left.scatter(*points[own].T, s=4, color=colours[skill], label=f"{skill}", linewidth=0)
    left.set_xlabel("first principal component")
    left.set_ylabel("second")
    left.legend(title="skill", markerscale=3, ncols=2, fontsize=8)
    boxes = middle.boxplot([lengths[skill] for skill in skills], patch_artist=True, showfliers=False)
    for box, skill in zip(boxes["boxes"], skills, strict=True):
        box.set_facecolor(colours[skill])
    middle.set_xticks(range(1, len(skills) + 1), [str(skill) for skill in skills])
    middle.set_xlabel("skill")
    middle.set_ylabel("steps of a segment")
    for row, part in enumerate(parts[:episodes]):
        start = 0
        ends = [*(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
        for end in ends:
            right.barh(row, end - start, left=start, height=0.8, color=colours[int(part[start])])
            start = end
    right.invert_yaxis()
    right.grid(visible=False)
    right.set_xlabel("step")
    right.set_ylabel("episode")
    return figure
