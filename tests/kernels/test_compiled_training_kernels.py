"""The kernels of a fused transformer block compiled to machine code for sm_80 and sm_90, as
``test_compiled_kernels`` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from test_compiled_kernels import record, resources, source_of  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from ttir import pointers_with_narrow_row_offsets  # noqa: E402

from goskill.ops import training_operators as operators  # noqa: E402

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter replaces the compiler"
)

DROPPED = 6554


def call_attention(length: int, heads: int, width: int, dtype: torch.dtype) -> Callable[[], None]:
    from goskill.kernels import packed_attention as kernels

    qkv = torch.zeros(4, length, 3 * heads * width, dtype=dtype)
    bias, seed = torch.zeros(3 * heads * width), torch.zeros(1, dtype=torch.int64)

    def call() -> None:
        out, log_sums = operators._new_packed_attention(qkv, bias, seed, heads, DROPPED)
        kept = log_sums if log_sums.numel() else None
        kernels.attention(qkv, bias, seed, heads, DROPPED, out, kept)
        given = (qkv, bias, seed, heads, DROPPED, out, kept, out)
        kernels.attention_gradient(*given, *operators._new_packed_attention_gradient(*given))

    return call


def call_add_norm(width: int, branch_dtype: torch.dtype) -> Callable[[], None]:
    from goskill.kernels import add_norm as kernels

    total, branch = torch.zeros(800, width, dtype=torch.bfloat16), torch.zeros(800, width, dtype=branch_dtype)
    weight, seed = torch.zeros(width), torch.zeros(1, dtype=torch.int64)

    def call() -> None:
        kernels.dropout_add_norm(total, branch, weight, weight, weight, seed, DROPPED, 1e-5, total, total)
        sums = torch.zeros(operators.programs(800), 3, width)
        kernels.dropout_add_norm_gradient(
            total, weight, seed, DROPPED, 1e-5, total, total, total, branch, sums
        )

    return call


def call_relu(width: int) -> Callable[[], None]:
    from goskill.kernels.relu_gradient import relu_gradient

    x = torch.zeros(800, width, dtype=torch.bfloat16)
    return lambda: relu_gradient(x, x, torch.empty_like(x), torch.zeros(operators.programs(800), width))


# Registers per thread and bytes of shared memory that a kernel may use.
CASES: dict[str, tuple[Callable[[], None], int, int]] = {
    "attention-30x32": (call_attention(30, 8, 32, torch.bfloat16), 168, 8192),
    "attention-89x32": (call_attention(89, 8, 32, torch.bfloat16), 248, 24576),
    "add-norm-256": (call_add_norm(256, torch.bfloat16), 128, 8192),
    "add-norm-256-of-float32": (call_add_norm(256, torch.float32), 128, 8192),
    "relu-1024": (call_relu(1024), 96, 8192),
}
# What a program writes for itself: never more than 2^31 elements.
PER_PROGRAM = {"sums"}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", CASES)
def test_machine_code_has_no_spills_and_stays_within_bounds(
    name: str, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call, most_registers, most_shared = CASES[name]
    launches = record(monkeypatch, call)
    assert launches
    for kernel, arguments in launches:
        source, options = source_of(kernel, arguments)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        used = resources(compiled.asm["cubin"], tmp_path)
        detail = f"{kernel.__name__}: {used}, shared {compiled.metadata.shared}"
        assert used["STACK"] == used["LOCAL"] == 0, detail
        assert used["REG"] <= most_registers, detail
        assert compiled.metadata.shared <= most_shared, detail
        narrow = pointers_with_narrow_row_offsets(compiled.asm["ttir"])
        assert narrow <= PER_PROGRAM, f"{kernel.__name__}: 32-bit offsets into {narrow}"


def test_the_sizes_of_a_batch_compile_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the sequences nor their length, as long as it is one block or several, nor the rows."""
    from goskill.kernels import packed_attention as kernels

    signatures = []
    for batch, length in ((1, 33), (800, 64), (400, 89)):
        qkv = torch.zeros(batch, length, 96, dtype=torch.bfloat16)
        out, log_sums = operators._new_packed_attention(qkv, None, None, 1, 0)
        launches = record(
            monkeypatch, lambda q=qkv, o=out, s=log_sums: kernels.attention(q, None, None, 1, 0, o, s)
        )
        signatures.append([str(vars(source_of(*launch)[0])) for launch in launches])
    assert signatures[0] == signatures[1] == signatures[2]
