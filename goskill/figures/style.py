"""One look for every figure: readable at the width of a page, and to colour-blind readers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from goskill.files import write_atomically

_SETTINGS: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    # Identifiers in the SVG are derived from this, so the same numbers give the same file.
    "svg.hashsalt": "goskill",
}


@contextmanager
def style() -> Iterator[None]:
    """The figures' settings inside the block, the user's own outside."""
    with plt.rc_context(_SETTINGS):
        yield


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name`` as PNG and SVG, each whole or not at all, and forget the figure."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], metadata=metadata)
        write_atomically(path, picture.getvalue())
    plt.close(figure)
    return paths
