"""The old name of :mod:`goskill.experiments.pipeline`."""

import sys
import warnings

from goskill.experiments import pipeline

warnings.warn("goskill.pipeline is now goskill.experiments.pipeline", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = pipeline
