"""What a GPU is and can do, in a few lines: ``python -m goskill.bench.device``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from goskill.models.attending import causal_attention

COPIED = 2**30  # bytes
COPIES, ROUNDS = 8, 5
# Sequences of the extraction and of the policy, batch and length.
SEQUENCES = {"extraction": (800, 30), "policy": (400, 89)}


def facts() -> Iterator[dict[str, Any]]:
    """Name, capability, memory, versions; the bandwidth of a copy (bytes read and written); attention by shape."""
    device = torch.cuda.get_device_properties(0)
    yield {
        "device": device.name,
        "capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_gb": round(device.total_memory / 1e9, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    yield {"copy_gb_per_s": round(copy_bandwidth() / 1e9)}
    yield {"graphs_replay": one_replay_is_right()}
    for name, shape in SEQUENCES.items():
        yield {f"attention of the {name}": attention(*shape)}


def copy_bandwidth() -> float:
    """Bytes that a copy on the device reads and writes in a second, at best."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds = []
    for _ in range(ROUNDS):
        begin.record()
        for _ in range(COPIES):
            target.copy_(source)
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return 2 * COPIED * COPIES / min(seconds)


def attention(batch: int, length: int) -> list[str]:
    """The kernels that attend, forward and backward, in bfloat16 with dropout."""
    parts = torch.randn(3, batch, 8, length, 32, dtype=torch.bfloat16, device="cuda", requires_grad=True)

    def step() -> None:
        causal_attention(*parts.unbind(0), 0.1).float().sum().backward()

    step()  # what libraries do once is no part of it
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        step()
        torch.cuda.synchronize()
    names = {event.key for event in trace.key_averages()}
    return sorted(
        name[:100]
        for name in names
        if any(word in name.lower() for word in ("attn", "attention", "fmha", "flash"))
    )


def one_replay_is_right() -> bool:
    """Whether a captured product gives what the same product gave before: the least that everything rests on."""
    x = torch.randn(256, 256, device="cuda")
    expected = F.relu(x @ x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = F.relu(x @ x)
    graph.replay()
    return bool(torch.equal(result, expected))


if __name__ == "__main__":
    for found in facts():  # each when it is there: what follows may be cut off
        print(json.dumps(found), flush=True)
