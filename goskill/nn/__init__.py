"""Modules built on :mod:`goskill.ops`."""

from __future__ import annotations

from goskill.nn.vector_quantize import VectorQuantize

__all__ = ["VectorQuantize"]
