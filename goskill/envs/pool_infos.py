"""Infos of many environments, as Gymnasium's vector environments put them together."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from goskill.envs.batch import Buffers, Infos


def stepped_infos(buffers: Buffers, rows: slice, keys: tuple[str, ...]) -> dict[str, Any]:
    """What the environments ``rows`` that were stepped, and not reset, say in arrays."""
    stepped = buffers.stepped[rows].copy()
    return _masked(keys, buffers.infos[rows], stepped) if stepped.any() else {}


def final_infos(
    buffers: Buffers, rows: slice, over: npt.NDArray[np.bool_], keys: tuple[str, ...]
) -> dict[str, Any]:
    """The ends of the episodes that are ``over`` bool [rows], of environments that were reset in the same step."""
    final = np.full(len(over), None, dtype=object)
    for row in np.flatnonzero(over):
        final[row] = buffers.final_observations[rows][row].copy()
    last = _masked(keys, buffers.final_infos[rows], over)
    return {"final_obs": final, "_final_obs": over.copy(), "final_info": last, "_final_info": over.copy()}


def _masked(
    keys: tuple[str, ...], values: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    infos: dict[str, Any] = {}
    for column, key in enumerate(keys):
        infos[key], infos[f"_{key}"] = np.where(mask, values[:, column], 0.0), mask.copy()
    return infos


def add_infos(infos: dict[str, Any], found: Infos, start: int, count: int) -> None:
    """Move to ``infos`` what did not come in arrays, of ``count`` environments from ``start``."""
    if not found:
        return
    merging = _Merging(count)
    for index, last, info in sorted(found, key=lambda one: one[0]):
        both = info if last is None else {**info, "final_info": last}
        merging.add(infos, both, index - start)
    found.clear()


class _Merging(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Puts infos of single environments together by Gymnasium's own rules."""

    def __init__(self, count: int) -> None:
        self.closed = True
        self.num_envs = count

    def add(self, infos: dict[str, Any], info: dict[str, Any], row: int) -> None:
        self._add_info(infos, info, row)
