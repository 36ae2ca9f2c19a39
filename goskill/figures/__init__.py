"""Figures from results on disk. Nothing here runs a policy or opens a dataset."""

from goskill.figures.bars import draw_bars
from goskill.figures.run import draw_comparison, draw_run

__all__ = ["draw_bars", "draw_comparison", "draw_run"]
