"""The kernels compiled to machine code for sm_80 and sm_90: no spills, bounded registers and memory, and offsets
of rows that are 64-bit from the program's number to the address."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402
from ttir import pointers_with_narrow_row_offsets  # noqa: E402

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter replaces the compiler"
)

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}
Launch = tuple[JITFunction, dict[str, Any]]


def record(monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> list[Launch]:
    """The kernels that ``call`` launches, with their arguments, without running them."""
    launches: list[Launch] = []

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = [parameter.name for parameter in self.params]
        launches.append((self, {**dict(zip(names, args, strict=False)), **kwargs}))

    with monkeypatch.context() as patch:
        patch.setattr(JITFunction, "run", run)
        call()
    return launches


def source_of(kernel: JITFunction, arguments: dict[str, Any]) -> tuple[ASTSource, dict[str, Any]]:
    """What the compiler is given for these arguments, specialised as at a real launch."""
    signature, constants, attributes = {}, {}, {}
    options = dict(arguments)
    for index, parameter in enumerate(kernel.params):
        value = options.pop(parameter.name)
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialised and isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, Tensor) or (specialised and isinstance(value, int) and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), options


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers, stack and shared memory as the machine code declares them."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def call_nearest(codes: int, dim: int, dtype: torch.dtype) -> Callable[[], None]:
    from goskill.kernels import nearest_code

    x, codebook = torch.zeros(256, dim, dtype=dtype), torch.zeros(codes, dim)
    indices, distance = torch.zeros(256, dtype=torch.int64), torch.zeros(256)
    return lambda: nearest_code.nearest_code(x, codebook, False, indices, distance)


def call_screened(codes: int, dim: int, dtype: torch.dtype, distance: bool = False) -> Callable[[], None]:
    from goskill.kernels import screened

    x, codebook = torch.zeros(4096, dim, dtype=dtype), torch.zeros(codes, dim)
    indices, distances = torch.zeros(4096, dtype=torch.int64), torch.zeros(4096) if distance else None
    return lambda: screened.nearest_code(x, codebook, False, indices, distances)


def call_quantize(codes: int, dim: int, dtype: torch.dtype) -> Callable[[], None]:
    from goskill.kernels import vector_quantize

    x, codebook = torch.zeros(800, dim, dtype=dtype), torch.zeros(codes, dim)
    mask, indices = torch.ones(800, dtype=torch.bool), torch.zeros(800, dtype=torch.int64)
    loss, counts = torch.zeros(()), torch.zeros(codes)

    def call() -> None:
        sums = torch.empty_like(codebook)
        vector_quantize.vector_quantize(
            x, codebook, mask, 1.0, torch.empty_like(x), indices, loss, counts, sums, torch.zeros(())
        )
        vector_quantize.straight_through(x, codebook, indices, x, loss, loss, 1.0, torch.empty_like(x))
        vector_quantize.move_codebook(counts, sums, sums, counts, sums, 0.8, 1e-5)

    return call


def call_without_gradient(rows: int, classes: int) -> Callable[[], None]:
    """Focal loss alone, and nearest code without distances."""
    from goskill.kernels import focal_loss, nearest_code

    logits, target = torch.zeros(rows, classes), torch.zeros(rows, dtype=torch.int64)

    def call() -> None:
        loss = torch.zeros(rows)
        focal_loss.focal_loss(logits, target, None, None, 0.5, -100, 0.0, focal_loss.NONE, loss, None)
        nearest_code.nearest_code(logits[:, :64], torch.zeros(16, 64), True, target, None)

    return call


def call_focal(rows: int, classes: int, dtype: torch.dtype, smoothing: float = 0.0) -> Callable[[], None]:
    from goskill.kernels import focal_loss

    logits, target = torch.zeros(rows, classes, dtype=dtype), torch.zeros(rows, dtype=torch.int64)
    mask = torch.ones(rows, dtype=torch.bool)

    def call() -> None:
        gradient = torch.empty_like(logits)
        focal_loss.focal_loss(
            logits, target, None, mask, 2.0, -100, smoothing, focal_loss.MEAN, torch.zeros(()), gradient
        )
        focal_loss.scale_rows(gradient, torch.ones(()), gradient)

    return call


# Registers per thread and bytes of shared memory that a kernel may use.
CASES: dict[str, tuple[Callable[[], None], int, int]] = {
    "nearest-16x64-float32": (call_nearest(16, 64, torch.float32), 128, 32768),
    "nearest-16x64-bfloat16": (call_nearest(16, 64, torch.bfloat16), 128, 32768),
    "nearest-1024x32-float32": (call_nearest(1024, 32, torch.float32), 255, 65536),
    "nearest-1024x64-float32": (call_nearest(1024, 64, torch.float32), 255, 49152),
    "nearest-256x64-bfloat16": (call_nearest(256, 64, torch.bfloat16), 224, 98304),
    "nearest-1024x512-float16": (call_nearest(1024, 512, torch.float16), 255, 98304),
    "screened-16x64-float32": (call_screened(16, 64, torch.float32), 120, 36864),
    "screened-16x64-bfloat16": (call_screened(16, 64, torch.bfloat16), 128, 28672),
    "screened-64x64-float32": (call_screened(64, 64, torch.float32, distance=True), 255, 40960),
    "screened-128x64-float32": (call_screened(128, 64, torch.float32), 255, 53248),
    "screened-256x64-float32": (call_screened(256, 64, torch.float32), 255, 69632),
    "screened-256x64-bfloat16": (call_screened(256, 64, torch.bfloat16), 255, 81920),
    "screened-256x64-distance": (call_screened(256, 64, torch.float32, distance=True), 255, 40960),
    "screened-8192x64-float32": (call_screened(8192, 64, torch.float32), 255, 40960),
    "screened-8192x64-bfloat16": (call_screened(8192, 64, torch.bfloat16, distance=True), 255, 81920),
    "screened-64x128-float32": (call_screened(64, 128, torch.float32), 255, 53248),
    "screened-1024x128-float32": (call_screened(1024, 128, torch.float32, distance=True), 255, 81920),
    "quantize-16x64-float32": (call_quantize(16, 64, torch.float32), 192, 32768),
    "quantize-16x64-bfloat16": (call_quantize(16, 64, torch.bfloat16), 192, 49152),
    "quantize-1024x64-bfloat16": (call_quantize(1024, 64, torch.bfloat16), 255, 49152),
    "focal-8000x16-float32": (call_focal(8000, 16, torch.float32), 128, 16384),
    "focal-8000x16-smoothed": (call_focal(8000, 16, torch.float32, 0.1), 128, 16384),
    "focal-64x131072-bfloat16": (call_focal(64, 131072, torch.bfloat16), 64, 36864),
    "focal-64x8192-bfloat16": (call_focal(64, 8192, torch.bfloat16), 64, 20480),
    "focal-64x131072-float32": (call_focal(64, 131072, torch.float32), 64, 69632),
    "alone-64x64": (call_without_gradient(64, 64), 128, 32768),
    "alone-64x32768": (call_without_gradient(64, 32768), 128, 69632),
    "focal-64x32768-smoothed": (call_focal(64, 32768, torch.float32, 0.1), 128, 36864),
}


# What a program writes for itself or holds for a codebook: never more than 2^31 elements.
PER_PROGRAM = {"partial", "parts", "partial_error", "partial_counts", "partial_sums"}
PER_CODEBOOK = {"codebook", "moved", "scored", "norms", "centre", "rounded", "bounds", "counts", "sums"}


MOST_STACK = 8  # bytes: Triton 3.6 puts two registers of some kernels there for sm_80, others none


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
        assert used["STACK"] <= MOST_STACK, detail
        assert used["LOCAL"] == 0, detail
        assert used["REG"] <= most_registers, detail
        assert compiled.metadata.shared <= most_shared, detail
        assert "st.local" not in compiled.asm["ptx"], detail
        narrow = pointers_with_narrow_row_offsets(compiled.asm["ttir"])
        assert narrow <= PER_PROGRAM | PER_CODEBOOK, f"{kernel.__name__}: 32-bit offsets into {narrow}"


@triton.jit
def narrow_rows_kernel(x, y, out, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for first in range(row_of_program(BLOCK), 100, BLOCK):
        tl.store(y + first * stride, 1.0)
    wide = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + wide * stride, tl.load(x + (row * stride).to(tl.int64)))


@triton.jit
def row_of_program(BLOCK: tl.constexpr):
    return tl.program_id(0) * BLOCK


def test_offsets_that_overflow_are_found() -> None:
    signature = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "stride": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=narrow_rows_kernel, signature=signature, constexprs={(4,): 16})
    text = triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ttir"]
    assert pointers_with_narrow_row_offsets(text) == {"x", "y"}


def test_training_size_calls_are_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearest code for 16 codes, focal loss and its gradient: one kernel each."""
    assert len(record(monkeypatch, call_nearest(16, 64, torch.float32))) == 1
    forward, backward = record(monkeypatch, call_focal(8000, 16, torch.float32))
    assert forward[0].__name__ == "few_classes_kernel"
    assert backward[0].__name__ == "scale_rows_kernel"


@pytest.mark.parametrize(
    ("rows", "codes", "dim", "kernels"),
    [
        (800, 16, 64, ["nearest_code_kernel"]),
        (800, 1024, 64, ["code_norms_kernel", "nearest_code_kernel"]),
        (2**19, 16, 4, ["round_codes_kernel", "screen_kernel", "rescore_kernel"]),
        (2**13, 1024, 64, ["round_codes_kernel", "screen_kernel", "rescore_kernel"]),
        (2**13, 1024, 200, ["code_norms_kernel", "nearest_code_kernel"]),
    ],
)
def test_much_work_is_screened(
    rows: int, codes: int, dim: int, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from goskill.ops import cuda

    x, codebook = torch.zeros(rows, dim), torch.zeros(codes, dim)
    launches = record(monkeypatch, lambda: cuda.nearest_code(x, codebook, False, False))
    assert [kernel.__name__ for kernel, _ in launches] == kernels


def test_the_number_of_rows_compiles_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    from goskill.kernels import focal_loss, nearest_code, screened

    signatures = []
    for rows in (1, 800, 12_345):
        x, indices = torch.zeros(rows, 64), torch.zeros(rows, dtype=torch.int64)
        launches = record(
            monkeypatch,
            lambda x=x, i=indices: nearest_code.nearest_code(x, torch.zeros(16, 64), False, i, None),
        )
        launches += record(
            monkeypatch,
            lambda x=x, i=indices: screened.nearest_code(x, torch.zeros(16, 64), False, i, None),
        )
        launches += record(
            monkeypatch,
            lambda x=x, i=indices: focal_loss.focal_loss(
                x, i, None, None, 2.0, -100, 0.0, focal_loss.SUM, torch.zeros(()), None
            ),
        )
        signatures.append([str(vars(source_of(*launch)[0])) for launch in launches])
    assert signatures[0] == signatures[1] == signatures[2]
