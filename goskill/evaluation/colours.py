"""The colours of skills, the same in films and figures."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[float, float, float]

# Okabe and Ito (2008), without black; the order keeps neighbours apart for all kinds of colour vision.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#999999")


def skill_colour(skill: int) -> Colour:
    """A colour (red, green, blue in [0, 1]); past the palette the same hues come lighter and then darker."""
    code = PALETTE[skill % len(PALETTE)]
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    tone = (skill // len(PALETTE)) % 3
    if tone == 1:
        return 0.45 * red + 0.55, 0.45 * green + 0.55, 0.45 * blue + 0.55
    if tone == 2:
        return 0.6 * red, 0.6 * green, 0.6 * blue
    return red, green, blue


def text_colour(background: Sequence[float]) -> str:
    """Black or white, whichever reads better on ``background`` (by its luminance)."""
    red, green, blue = background[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
