"""Small sources of every layout, drawn at random, and what a store should hold of them: read again from their files
by NumPy, h5py, pyarrow and torch, a row at a time. What is left out on the way is what docs/data.md says is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plain_episodes import Generator, Source
from plain_flat import hdf5, npz, ogbench
from plain_groups import lerobot, minari, robomimic, tdmpc2, vintix

SOURCES: dict[str, Callable[[Path, Generator], Source]] = {
    **{
        layout: lambda root, generator, layout=layout: npz(layout, root, generator)
        for layout in ("goskill", "mtdiff", "harmodt")
    },
    "hdf5": hdf5,
    "minari": minari,
    "tdmpc2": tdmpc2,
    "lerobot": lerobot,
    "vintix": vintix,
    "robomimic": robomimic,
    "ogbench": ogbench,
}
