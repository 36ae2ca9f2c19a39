"""Operations for vector quantisation and focal loss: one public function each, several implementations.

``impl="auto"`` picks the fastest that fits the tensor: C++ on the CPU, Triton on CUDA devices, the plain
reference for float64 and where the others are not available. A name forces one implementation and never
falls back. :func:`implementation_for` says what ``"auto"`` picks.
"""

from __future__ import annotations

from goskill.ops import cpu as cpu
from goskill.ops import cuda as cuda
from goskill.ops.dispatch import Implementation, implementation_for
from goskill.ops.focal import focal_loss
from goskill.ops.lookup import nearest_code
from goskill.ops.quantization import CodeStatistics, move_codebook, vector_quantize

__all__ = [
    "CodeStatistics",
    "Implementation",
    "focal_loss",
    "implementation_for",
    "move_codebook",
    "nearest_code",
    "vector_quantize",
]
