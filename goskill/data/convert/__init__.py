"""Conversion of other datasets into episode stores, and of stores into other formats."""

from goskill.data.convert.converters import LAYOUTS, convert
from goskill.data.convert.hdf5 import from_hdf5, to_hdf5
from goskill.data.convert.lerobot import from_lerobot
from goskill.data.convert.merging import merge
from goskill.data.convert.minari import from_minari
from goskill.data.convert.minari_export import to_minari
from goskill.data.convert.npz import from_npz
from goskill.data.convert.ogbench import from_ogbench
from goskill.data.convert.report import ConversionReport
from goskill.data.convert.restricted_pickle import load_prompts
from goskill.data.convert.robomimic import from_robomimic
from goskill.data.convert.tdmpc2 import from_tdmpc2
from goskill.data.convert.vintix import from_vintix

__all__ = [
    "LAYOUTS",
    "ConversionReport",
    "convert",
    "from_hdf5",
    "from_lerobot",
    "from_minari",
    "from_npz",
    "from_ogbench",
    "from_robomimic",
    "from_tdmpc2",
    "from_vintix",
    "load_prompts",
    "merge",
    "to_hdf5",
    "to_minari",
]
