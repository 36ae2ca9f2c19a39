"""One look for every figure: readable at the width of a page, and to colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito (2008), without black; the order keeps neighbours apart for all kinds of colour vision.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#999999")

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
    """Write ``name`` as PNG and SVG and forget the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, metadata=metadata)
    plt.close(figure)
    return paths


def skill_colour(skill: int) -> tuple[float, float, float]:
    """A colour for a skill; past the palette the same hues come lighter and then darker."""
    base = matplotlib.colors.to_rgb(PALETTE[skill % len(PALETTE)])
    tone = (skill // len(PALETTE)) % 3
    if tone == 1:
        return tuple(channel + (1 - channel) * 0.55 for channel in base)  # type: ignore[return-value]
    if tone == 2:
        return tuple(channel * 0.6 for channel in base)  # type: ignore[return-value]
    return base


def text_colour(background: Sequence[float]) -> str:
    """Black or white, whichever reads better on ``background`` (relative luminance)."""
    red, green, blue = background[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
