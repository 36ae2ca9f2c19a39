"""The converters by the names of their layouts, and the one function that converts any of them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from goskill.data.convert.hdf5 import from_hdf5
from goskill.data.convert.lerobot import from_lerobot
from goskill.data.convert.minari import from_minari
from goskill.data.convert.npz import from_npz
from goskill.data.convert.ogbench import from_ogbench
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.robomimic import from_robomimic
from goskill.data.convert.tdmpc2 import from_tdmpc2
from goskill.data.convert.vintix import from_vintix
from goskill.errors import InputError

LAYOUTS: Mapping[str, Callable[..., ConversionReport]] = {
    **{layout: functools.partial(from_npz, layout) for layout in ("goskill", "mtdiff", "harmodt")},
    "hdf5": from_hdf5,
    "minari": from_minari,
    "tdmpc2": from_tdmpc2,
    "lerobot": from_lerobot,
    "vintix": from_vintix,
    "robomimic": from_robomimic,
    "ogbench": from_ogbench,
}


def convert(
    layout: str,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ConversionReport:
    """Convert a source of any layout into a store: what ``from_npz`` and the others do. Options of None are defaults.

    Raises InputError for an unknown layout, for an option that the layout does not have, and as the others do.
    """
    check_options(layout, options)
    function = LAYOUTS[layout]
    given = {name: value for name, value in options.items() if value is not None}
    if "workers" in inspect.signature(function).parameters:
        given["workers"] = workers
    return function(source, path, progress=progress, **given)


def check_options(layout: str, options: Mapping[str, Any]) -> None:
    """InputError for an unknown layout, and for an option that it does not have. None stands for no option."""
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r:.80}")
    known = inspect.signature(LAYOUTS[layout]).parameters
    for name, value in options.items():
        if value is not None and name not in known:
            having = [other for other, made in LAYOUTS.items() if name in inspect.signature(made).parameters]
            raise InputError(
                f"{name}: expected none for the layout {layout}, got {value!r:.80}; {', '.join(having)} have it"
            )
