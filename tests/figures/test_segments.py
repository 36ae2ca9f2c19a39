"""Pictures of segments: directions against an eigenvalue problem, lengths by hand, shapes that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from goskill.errors import InputError
from goskill.figures.segments import draw_segments, principal_components, segment_lengths


def test_components_are_eigenvectors_of_the_covariance() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(200, 4)) @ random.normal(size=(4, 4))
    found = principal_components(values)
    variances = np.sort(np.linalg.eigvalsh(np.cov(values.T)))[::-1]
    np.testing.assert_allclose(found.var(axis=0, ddof=1), variances[:2], rtol=1e-9)
    assert abs(np.corrcoef(found.T)[0, 1]) < 1e-9
    with pytest.raises(InputError, match="features: expected"):
        principal_components(np.zeros((5, 1)))


def test_lengths_are_those_of_runs() -> None:
    assert segment_lengths(np.array([1, 1, 0, 1, 1, 1])) == {1: [2, 3], 0: [1]}


def test_a_figure_has_three_panels_and_a_strip_for_each_segment() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0])
    figure = draw_segments(np.arange(12.0).reshape(6, 2) ** 2, labels, [4, 2])
    assert len(figure.axes) == 3
    assert len(figure.axes[2].patches) == 4
    with pytest.raises(InputError, match="labels: expected one for each of 6 steps"):
        draw_segments(np.zeros((6, 2)), labels[:5], [4, 2])
