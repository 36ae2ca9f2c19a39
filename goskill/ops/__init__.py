"""Operations for vector quantisation, focal loss and transformer blocks: one public function each.

Each has several implementations. ``impl="auto"`` picks the fastest that fits the tensor: C++ on the CPU, Triton on
CUDA devices, the plain reference for float64 and where the others are not available. A name forces one implementation
and never falls back. :func:`implementation_for` says what ``"auto"`` picks.
"""

from __future__ import annotations

from goskill.ops import cpu as cpu
from goskill.ops import cuda as cuda
from goskill.ops.attention import packed_attention
from goskill.ops.dispatch import Implementation, implementation_for
from goskill.ops.focal import focal_loss
from goskill.ops.linear import linear_relu
from goskill.ops.lookup import nearest_code
from goskill.ops.quantization import CodeStatistics, move_codebook, vector_quantize
from goskill.ops.residual import dropout_add_norm

__all__ = [
    "CodeStatistics",
    "Implementation",
    "dropout_add_norm",
    "focal_loss",
    "implementation_for",
    "linear_relu",
    "move_codebook",
    "nearest_code",
    "packed_attention",
    "vector_quantize",
]
