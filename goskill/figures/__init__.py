"""Figures from results on disk. Nothing here runs a policy or opens a dataset."""

from goskill.figures.bars import draw_bars
from goskill.figures.run_figures import draw_comparison, draw_run
from goskill.figures.sizes import draw_sizes
from goskill.figures.studies import draw_studies, draw_study, is_study

__all__ = ["draw_bars", "draw_comparison", "draw_run", "draw_sizes", "draw_studies", "draw_study", "is_study"]
